"""Base class of the stages of `recraft` and `mona`.

The stages train few parameters by losses of their own.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

from orca_ray.alignment.cost import call_recomputed
from orca_ray.methods.reports import EpochProgress, Outcome
from orca_ray.methods.stages.trial import Trial
from orca_ray.models.body import seeded
from orca_ray.process import note_progress
from orca_ray.training.numerics import (
    NotFiniteError,
    Precision,
    choose_precision,
    derive_seed,
)
from orca_ray.training.optimisation import ParameterGroup, make_optimizer, requires_grad


class EpochStage(ABC):
    """Base class of stages that train some of the model's parameters.

    A subclass defines the batches of an epoch, and the gradient of a batch. The model
    is in evaluation mode: without dropout, a gradient is a function of the weights. The
    learning rate is constant. Random numbers of an epoch depend on the trial's seed,
    the stage's name and the epoch.
    """

    name: str
    parallel = False
    optimizer = "adamw"
    weight_decay = 0.0
    momentum = 0.9
    precision_option: str | None = None
    """Precision of the body; None: that of the refine stage."""

    def __init__(self, trial: Trial, epochs: int, learning_rate: float) -> None:
        self._trial = trial
        self._epochs = epochs
        self._learning_rate = learning_rate
        self._epoch = 0
        self._seconds = 0.0

    @abstractmethod
    def parameters(self) -> Sequence[Parameter]:
        """Return the parameters to train; a step of the stage freezes all others."""

    @abstractmethod
    def batches(self, random: np.random.Generator) -> Sequence[np.ndarray]:
        """Return the indices [n] of the samples of each optimiser step of an epoch."""

    @abstractmethod
    def backward(self, indices: np.ndarray) -> Tensor:
        """Set ``.grad`` to the gradients of the mean loss of the samples ``indices``
        [n].

        The caller has set ``.grad`` to None before. Returns the detached loss.
        """

    @property
    def done(self) -> bool:
        """Whether all epochs have run."""
        return self._epoch >= self._epochs

    def step(self) -> EpochProgress:
        """Run one epoch and return its report.

        Raises NotFiniteError if a loss is NaN or infinite.
        """
        started = perf_counter()
        trial = self._trial
        seed = derive_seed(trial.seed, self.name, self._epoch)
        with (
            seeded(seed, trial.device),
            self._precision.active(),
            requires_grad(trial.model.parameters(), False),
            requires_grad(self.parameters(), True),
        ):
            trial.model.eval()
            batches = self.batches(np.random.default_rng(seed))
            total = sum(self._update(indices) * len(indices) for indices in batches)
        loss = float(total) / sum(map(len, batches))
        if not np.isfinite(loss):
            raise NotFiniteError(
                f"the loss of stage {self.name} is {loss} in epoch {self._epoch + 1}"
            )
        self._epoch += 1
        self._seconds = perf_counter() - started
        return EpochProgress(
            stage=self.name,
            epoch=self._epoch,
            epochs=self._epochs,
            loss=loss,
            learning_rate=self._learning_rate,
            seconds=self._seconds,
        )

    def add_to(self, outcome: Outcome) -> Outcome:
        """Return a copy of ``outcome`` with the epoch's seconds added to aligning."""
        return replace(outcome, align_seconds=outcome.align_seconds + self._seconds)

    def state_dict(self) -> Mapping[str, Any] | None:
        """Return the state for `load_state_dict`; None before the first step."""
        if self._epoch == 0:
            return None
        return {"epoch": self._epoch, "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the ``state`` of an earlier stage, to continue where it ended."""
        self._epoch = state["epoch"]
        self._optimizer.load_state_dict(state["optimizer"])

    # Made on first use: a constructor does no work.
    @cached_property
    def _optimizer(self) -> torch.optim.Optimizer:
        group = ParameterGroup(self.parameters())
        return make_optimizer(
            self.optimizer,
            [group],
            self._learning_rate,
            self.weight_decay,
            self.momentum,
        )

    @cached_property
    def _precision(self) -> Precision:
        option = self.precision_option or self._trial.hyperparameters.refine.precision
        return choose_precision(
            option, self._trial.device, self._trial.model.body.feature_width
        )

    def _update(self, indices: np.ndarray) -> Tensor:
        """Make an optimiser step on a batch, and return its loss."""
        note_progress()
        loss = self.backward(indices)
        clip = self._trial.hyperparameters.refine.clip
        if clip > 0:
            torch.nn.utils.clip_grad_norm_(self.parameters(), clip)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return loss.double()


def apply_in_parts(
    function: Callable[[Tensor], Tensor], rows: Tensor, limit: int
) -> Tensor:
    """Return ``function(rows)``, computed in parts of at most ``limit`` rows.

    If there are several parts, the backward pass recomputes them.
    """
    if len(rows) <= limit:
        return function(rows)
    return torch.cat([call_recomputed(function, part) for part in rows.split(limit)])  # type: ignore[no-untyped-call]
