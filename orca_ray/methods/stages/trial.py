"""Interface of a trial's stages, and the `Trial` that they share."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

from orca_ray.alignment.distance import SourceFeatures
from orca_ray.alignment.source_features import SourceChoice, source_features
from orca_ray.data.prepared import PreparedData
from orca_ray.methods.options import Hyperparameters
from orca_ray.methods.reports import EpochProgress, Outcome
from orca_ray.models.crossmodal import CrossModalModel, build_model
from orca_ray.models.weights import BodyArchitecture
from orca_ray.results.artefacts import Artefact, within_limits
from orca_ray.tasks.augmentations import Augmentation
from orca_ray.tasks.task import Task
from orca_ray.training.artefacts.base import (
    Aligned,
    Evaluated,
    Evidence,
    compute_artefacts,
    failure_note,
    spaced_indices,
)
from orca_ray.training.checkpoint import AlignedCache
from orca_ray.training.evaluate import Objective, join_sample_rows
from orca_ray.training.ranks import ALONE, Ranks

NUM_POINTS = 200
"""Largest number of source samples, and of training samples, in a picture."""
_BATCH_SIZE = 32
"""Number of samples whose features are computed at a time."""


class ArtefactCollector:
    """Collector that computes each artefact of a trial as soon as its inputs exist.

    Failures become `notes`.
    """

    def __init__(self, task: Task, data: PreparedData) -> None:
        self._task = task
        self._data = data
        self._before: np.ndarray | None = None
        """Features before aligning; None: they were not computed."""
        self.collected: list[Artefact] = []
        """The artefacts so far."""
        self.notes: list[str] = []
        """One sentence for each kind of artefact that failed."""

    def before_aligning(self, model: CrossModalModel, device: torch.device) -> None:
        """Compute and keep the features of some training samples.

        The embedder must have its initial weights.
        """
        with self._noting_failures():
            self._before = self._features(model, device)

    def after_aligning(
        self, model: CrossModalModel, device: torch.device, source: SourceFeatures
    ) -> None:
        """Compute the artefacts that show what aligning changed.

        There are none unless `before_aligning` was called.
        """
        if self._before is None:
            return
        with self._noting_failures():
            rows = spaced_indices(len(source.x), NUM_POINTS)
            train = self._data.train
            classes = None
            if self._task.target.kind == "classes":
                classes = train.y[spaced_indices(len(train), NUM_POINTS)]
            aligned = Aligned(
                self._task,
                source.x.cpu().numpy()[rows],
                source.y.cpu().numpy()[rows],
                self._before,
                self._features(model, device),
                classes,
            )
            self._add(aligned)

    def after_test(self, predictions: np.ndarray) -> None:
        """Compute the artefacts of the predictions [N, *output_shape] for the test
        split.
        """
        test = self._data.test
        with self._noting_failures():
            samples = join_sample_rows(predictions, test.y, test.group)
            self._add(Evaluated(self._task, *samples, test.x))

    def state_dict(self) -> dict[str, Any]:
        """Return the state for an exact resume."""
        return {
            "found": [asdict(artefact) for artefact in self.collected],
            "notes": list(self.notes),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the artefacts and notes of the collector that returned ``state``."""
        self.collected = [Artefact(**artefact) for artefact in state["found"]]
        self.notes = list(state["notes"])

    def _add(self, evidence: Evidence) -> None:
        artefacts, notes = compute_artefacts(evidence)
        self.collected = within_limits([*self.collected, *artefacts])
        self.notes += notes

    @contextmanager
    def _noting_failures(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a picture must not cost a trial that runs well
            self.notes.append(failure_note("of this trial", error))

    def _features(self, model: CrossModalModel, device: torch.device) -> np.ndarray:
        """Return the features [n, D] of evenly spaced training samples.

        The embedder computes them in evaluation mode.
        """
        x = self._data.train.x
        rows = spaced_indices(len(x), NUM_POINTS)
        was_training = model.embedder.training
        model.embedder.eval()
        features = []
        try:
            with torch.no_grad():
                for start in range(0, len(rows), _BATCH_SIZE):
                    batch = x[rows[start : start + _BATCH_SIZE]]
                    inputs = torch.from_numpy(np.asarray(batch, np.float32))
                    features.append(model.features(inputs.to(device)))
                return torch.cat(features).cpu().numpy()
        finally:
            model.embedder.train(was_training)


@dataclass(frozen=True)
class NetworkRequest:
    """Record of the input of `Recipe.network`.

    The function must use nothing else, and keep the global random state.
    """

    task: Task
    hyperparameters: Hyperparameters
    arguments: Mapping[str, Any]
    """Arguments of `build_model`."""

    def given(self, *names: str) -> dict[str, Any]:
        """Return those `arguments` whose names are in ``names``.

        Raises KeyError if one is missing.
        """
        return {name: self.arguments[name] for name in names}

    def build(self, **changes: Any) -> CrossModalModel:
        """Return a model of new embedder, body and new head, made by `build_model`.

        ``changes`` replace `arguments`.
        """
        return build_model(**{**self.arguments, **changes})


def network_request(
    task: Task,
    options: Hyperparameters,
    body: str | BodyArchitecture,
    *,
    pretrained: bool,
    seed: int,
    statistics: tuple[Tensor, Tensor] | None,
) -> NetworkRequest:
    """Return the request for the model of a trial.

    ``task`` must know its shapes (`Task.resolved`).
    """
    return NetworkRequest(
        task,
        options,
        {
            "input_shape": task.input_shape,
            "target": task.target,
            "body": body,
            "pretrained": pretrained,
            "config": options.embedder,
            "dense_head": options.head.dense,
            "dropout": options.refine.dropout,
            "stochastic_depth": options.refine.stochastic_depth == "body",
            "seed": seed,
            "statistics": statistics,
        },
    )


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Record of the task, data, options and model of one trial.

    All stages of the trial use it.
    """

    method: str
    aligns: bool
    """Whether the method uses the options ``align.*``."""
    pretrained: bool
    """Whether body and embedder start from pretrained weights."""
    trainable: Callable[[CrossModalModel], Iterable[Parameter]]
    """As `Recipe.trainable`: returns the parameters that the refine stage trains."""
    task: Task
    data: PreparedData
    body: str
    hyperparameters: Hyperparameters
    seed: int
    device: torch.device
    objective: Objective
    augmentation: Augmentation | None
    model: CrossModalModel
    cache: AlignedCache | None
    """Cache of alignments, shared with other trials; None: no cache."""
    test: bool
    """Whether the last stage evaluates on the test split at its end."""
    artefacts: ArtefactCollector
    on_step: Callable[[], None] | None = None
    """Called between the optimiser steps of a refine epoch, where the state of the
    trial can be stored.
    """
    ranks: Ranks = ALONE
    """Processes that run the parallel stages together."""

    @cached_property
    def by_log_loss(self) -> bool:
        """Whether the log loss of validation data chooses the epoch.

        See `DataConfig.chooses`. The score chooses if the target is not categorical, or
        if some targets are ignored.
        """
        if self.hyperparameters.data.chooses != "log_loss":
            return False
        if self.task.target.kind not in ("classes", "labels"):
            return False
        ignored = np.asarray(self.data.validation.y) < 0
        return not ignored.any()

    def source_features(self) -> SourceFeatures:
        """Return the cached features and labels of the source ``align.source``."""
        return source_features(self.source)

    @property
    def source(self) -> SourceChoice:
        """The samples of ``align.source``.

        Texts have as many tokens as the task's samples.
        """
        options = self.hyperparameters
        return SourceChoice(
            options.align.source,
            self.body,
            options.embedder.image_size,
            math.prod(self.model.embedder.layout),
            options.align.source_samples,
            self.pretrained,
            0 if self.pretrained else self.seed,  # a random stem depends on it
        )


class Stage(Protocol):
    """Interface of a stage, which trains parts of the model by epochs.

    Only a trial's last stage may change the body. Stages are made together, before the
    first runs, so a constructor does no work that depends on earlier stages.
    """

    name: str
    """Name in `EpochProgress.stage`, distinct in a trial."""
    parallel: bool
    """Whether all of `Trial.ranks` run the stage together.

    If not, the first rank alone runs it.
    """

    @property
    def done(self) -> bool:
        """Whether the stage has ended."""

    def step(self) -> EpochProgress:
        """Run one epoch or probe, and return its report."""

    def add_to(self, outcome: Outcome) -> Outcome:
        """Return a copy of ``outcome`` updated with the results of the last `step`."""

    def state_dict(self) -> Mapping[str, Any] | None:
        """Return the state for an exact resume; None before the first step."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the ``state`` of an interrupted stage.

        The weights outside the body must be restored already.
        """
