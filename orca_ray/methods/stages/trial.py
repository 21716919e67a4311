"""The stages of a trial, and the task, data and model that they share."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from orca_ray.alignment.distance import SourceFeatures
from orca_ray.alignment.source_features import SourceTokens, source_features, source_tokens
from orca_ray.data.prepared import PreparedData
from orca_ray.methods.hyperparameters import Hyperparameters
from orca_ray.methods.recipe import Recipe
from orca_ray.methods.reports import Outcome, Progress
from orca_ray.methods.stages.artefacts import ArtefactCollector
from orca_ray.models.crossmodal import CrossModalModel
from orca_ray.tasks.augmentations import Augmentation
from orca_ray.tasks.task import Task
from orca_ray.training.aligned_cache import AlignedCache
from orca_ray.training.evaluate import Objective
from orca_ray.training.ranks import ALONE, Ranks


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Task, data, options and model of one trial, which all its stages use."""

    recipe: Recipe
    task: Task
    data: PreparedData
    body: str
    """Name of the body."""
    hyperparameters: Hyperparameters
    seed: int
    device: torch.device
    objective: Objective
    augmentation: Augmentation | None
    model: CrossModalModel
    cache: AlignedCache | None
    """Cache of alignments, shared with other trials; None: no cache."""
    test: bool
    """Whether to evaluate on the test split at the end."""
    artefacts: ArtefactCollector
    on_step: Callable[[], None] | None = None
    """Called between optimiser steps of a long epoch, where the state of the trial can be stored."""
    ranks: Ranks = ALONE
    """Processes that run the parallel stages together."""

    def source_features(self) -> SourceFeatures:
        """Return the features and labels of the alignment source ``align.source``, which are cached."""
        return source_features(**self._source())

    def source_tokens(self) -> SourceTokens:
        """Return the samples of `source_features` as tokens: as many of a sample as the task's own samples have."""
        return source_tokens(**self._source(), device=self.device)

    def _source(self) -> dict[str, Any]:
        config, pretrained = self.hyperparameters.align, self.recipe.pretrained
        return {
            "name": config.source, "body": self.body, "num_samples": config.source_samples,
            "image_size": self.hyperparameters.embedder.image_size,
            "num_tokens": math.prod(self.model.embedder.layout), "pretrained": pretrained,
            "seed": 0 if pretrained else self.seed,  # a random stem depends on it
        }  # fmt: skip


class Stage(Protocol):
    """One stage of a trial: trains parts of the model, epoch by epoch. Only the last one may change the body.

    Stages are made together, before the first runs, so a constructor does no work that depends on earlier stages.
    """

    name: str
    """Name in `Progress.stage`, distinct in a trial."""
    parallel: bool
    """Whether all of `Trial.ranks` run the stage together; if not, the first one alone does."""

    @property
    def done(self) -> bool:
        """Whether the stage has ended."""

    def step(self) -> Progress:
        """Run one epoch."""

    def add_to(self, outcome: Outcome) -> Outcome:
        """Return ``outcome`` updated with the results of the last `step`."""

    def state_dict(self) -> Mapping[str, Any] | None:
        """Return the state for an exact resume; None before the first step."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where the stage that returned ``state`` was; weights outside the body are already restored."""
