"""Labelled samples of an alignment source that are not yet embedded, for stages that
embed some of them at a time.
"""

import copy
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from orca_ray.alignment.source import Source
from orca_ray.alignment.source_features import SourceChoice, chosen_source, sampled
from orca_ray.data import cache
from orca_ray.methods.stages.trial import Trial
from orca_ray.models.body import Stem


@dataclass(frozen=True)
class SourceTokens:
    """Record of labelled source samples that are not yet embedded; the method `tokens`
    embeds some of them.
    """

    inputs: Tensor
    """[N, ...]: inputs of the stem."""
    y: Tensor
    """[N] class ids from 0 to ``num_classes - 1``."""
    num_classes: int
    stem: Stem

    def __len__(self) -> int:
        return len(self.y)

    def to(self, device: torch.device) -> "SourceTokens":
        """Return the same samples and stem on ``device``; this instance does not
        change.
        """
        if self.y.device == device:
            return self
        stem = copy.deepcopy(self.stem).to(device)
        return replace(
            self, inputs=self.inputs.to(device), y=self.y.to(device), stem=stem
        )

    def tokens(self, indices: Tensor) -> Tensor:
        """Return the embedded tokens [b, T, D] of the samples ``indices`` [b], without
        gradient.
        """
        with torch.no_grad():
            return self.stem.embed_raw(self.inputs[indices])


def source_tokens(trial: Trial) -> SourceTokens:
    """Return the samples of ``align.source`` on the trial's device; UserError as in
    `source_features`.
    """
    return _tokens(cache.home(), chosen_source(trial.source), trial.source).to(
        trial.device
    )


@lru_cache(2)
def _tokens(home: Path, source: Source, choice: SourceChoice) -> SourceTokens:
    inputs, labels, stem = sampled(source, choice, raw=True)
    classes, ids = labels.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    return SourceTokens(inputs, ids, len(classes), stem)
