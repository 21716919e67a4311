"""Labelled samples of an alignment source, for stages that embed some at a time."""

import copy
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from orca_ray.alignment.source import Source
from orca_ray.alignment.source_features import SourceChoice, chosen_source, read_samples
from orca_ray.data import cache
from orca_ray.methods.stages.trial import Trial
from orca_ray.models.body import Stem


@dataclass(frozen=True)
class SourceTokens:
    """Labelled source samples, not yet embedded; `tokens` embeds some of them."""

    inputs: Tensor
    """[N, ...]: inputs of the stem."""
    y: Tensor
    """[N] class ids from 0 to ``num_classes - 1``."""
    num_classes: int
    stem: Stem

    def __len__(self) -> int:
        return len(self.y)

    def to(self, device: torch.device) -> "SourceTokens":
        """Return the same samples and stem on ``device``, as a new object if they
        move.
        """
        if self.y.device == device:
            return self
        stem = copy.deepcopy(self.stem).to(device)
        return replace(
            self, inputs=self.inputs.to(device), y=self.y.to(device), stem=stem
        )

    def tokens(self, indices: Tensor) -> Tensor:
        """Return the tokens [b, T, D] of samples ``indices`` [b], without gradient."""
        with torch.no_grad():
            return self.stem.embed_raw(self.inputs[indices])


def source_tokens(trial: Trial) -> SourceTokens:
    """Return the samples of ``align.source`` on the trial's device.

    Raises UserError as `source_features` does.
    """
    source = chosen_source(trial.source)
    return _load(cache.home(), source, trial.source).to(trial.device)


@lru_cache(2)
def _load(home: Path, source: Source, choice: SourceChoice) -> SourceTokens:
    """Return the samples of a source; ``home`` is part of the cache's key."""
    inputs, labels, stem = read_samples(source, choice, raw=True)
    classes, ids = labels.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    return SourceTokens(inputs, ids, len(classes), stem)
