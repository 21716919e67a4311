"""A trial's stages, and what they share."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from orca_ray.alignment.distance import SourceFeatures
from orca_ray.alignment.source_features import source_features
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


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What the stages of one trial share."""

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

    def source_features(self) -> SourceFeatures:
        """Return the features and labels of the alignment source ``align.source``, which are cached."""
        config = self.hyperparameters.align
        return source_features(
            config.source, self.body, num_samples=config.source_samples,
            image_size=self.hyperparameters.embedder.image_size, num_tokens=math.prod(self.model.embedder.layout),
            pretrained=self.recipe.pretrained, seed=0 if self.recipe.pretrained else self.seed,  # a random stem's
        )  # fmt: skip


class Stage(Protocol):
    """One stage of a trial: trains parts of the model, epoch by epoch. Only the last one may change the body.

    Stages are made together, before the first runs, so a constructor does no work that depends on earlier stages.
    """

    name: str
    """Name in `Progress.stage`, distinct in a trial."""

    @property
    def done(self) -> bool:
        """Whether the stage has ended."""

    def step(self) -> Progress:
        """Run one epoch."""

    def add_to(self, outcome: Outcome) -> Outcome:
        """Return ``outcome`` with what the last `step` brought."""

    def state_dict(self) -> Mapping[str, Any] | None:
        """Return the state for an exact resume; None before the first step."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where the stage that returned ``state`` was; weights outside the body are already restored."""
