"""The refine stage: fine-tune the chosen parameters, keep the epoch that validates best."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

from orca_ray.data.prepared import Split
from orca_ray.errors import UserError
from orca_ray.models.crossmodal import CrossModalModel
from orca_ray.training import checks
from orca_ray.training.errors import NotFiniteError
from orca_ray.training.evaluate import predict_feed, score
from orca_ray.training.feed import Feed, make_feed, to_tensor
from orca_ray.training.objective import Objective
from orca_ray.training.optimisation import (
    ParameterGroup,
    Schedule,
    make_optimizer,
    make_schedule,
    optimizer_names,
    schedule_names,
    set_learning_rate,
)
from orca_ray.training.seeds import derive_seed, isolated_rng, make_generator


@dataclass(frozen=True)
class RefineConfig:
    """Options of the refine stage."""

    epochs: int = 20
    learning_rate: float = 3e-4
    """Base learning rate, reached after warm-up."""
    optimizer: str = "adamw"
    weight_decay: float = 0.01
    batch_size: int = 32
    """Samples of one forward pass."""
    accumulation: int = 1
    """Forward passes per optimiser step; a step sees ``batch_size * accumulation`` samples."""
    schedule: str = "warmup_linear"
    warmup_epochs: float = 1.0
    decay_epochs: float = 0.0
    """Epoch at which the schedule ends, which may lie past ``epochs``; 0: at ``epochs``."""
    clip: float = 1.0
    """Largest gradient norm of an optimiser step; 0 turns clipping off."""
    dropout: float = 0.0
    momentum: float = 0.9
    """Of optimiser ``sgd``."""
    body_learning_rate_scale: float = 1.0
    """Factor on the learning rate of the body's parameters."""

    def __post_init__(self) -> None:
        checks.at_least("refine.epochs", self.epochs, 1)
        checks.above("refine.learning_rate", self.learning_rate, 0.0)
        checks.one_of("refine.optimizer", self.optimizer, optimizer_names())
        checks.at_least("refine.weight_decay", self.weight_decay, 0.0)
        checks.at_least("refine.batch_size", self.batch_size, 1)
        checks.at_least("refine.accumulation", self.accumulation, 1)
        checks.one_of("refine.schedule", self.schedule, schedule_names())
        checks.at_least("refine.warmup_epochs", self.warmup_epochs, 0.0)
        checks.at_least("refine.decay_epochs", self.decay_epochs, 0.0)
        checks.at_least("refine.clip", self.clip, 0.0)
        checks.fraction("refine.dropout", self.dropout)
        checks.fraction("refine.momentum", self.momentum)
        checks.at_least("refine.body_learning_rate_scale", self.body_learning_rate_scale, 0.0)


@dataclass(frozen=True)
class RefineEpoch:
    """What one epoch of refining did."""

    epoch: int
    """Counted from 1."""
    loss: float
    """Mean training loss over the epoch's samples."""
    validation_score: float
    """Metric over the whole validation split, lower is better."""
    learning_rate: float
    """Of the epoch's last optimiser step, before the body's scale."""
    seconds: float
    """Of training and validation."""
    validation_seconds: float
    """Of validation alone."""


class RefineLoop:
    """Trains ``parameters`` on the training split; one `step` is one epoch and one validation.

    All other parameters of the model are frozen by the constructor (``requires_grad`` off). The best epoch is the first
    with the lowest validation score; `restore_best` puts its weights back.
    """

    def __init__(
        self,
        model: CrossModalModel,
        parameters: Iterable[Parameter],
        train: Split,
        validation: Split,
        objective: Objective,
        config: RefineConfig,
        *,
        seed: int,
        device: torch.device,
    ) -> None:
        chosen = {id(parameter) for parameter in parameters}
        self._trained = {name: value for name, value in model.named_parameters() if id(value) in chosen}
        if not self._trained:
            raise UserError("the method trains no parameter of this model")
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in self._trained)
        self._model = model
        self._config = config
        self._objective = objective
        self._seed = seed
        self._device = device
        self._train, self._validation = train, validation
        self._decode = objective.decoder(device)
        self._loss = objective.loss_function()
        self._optimizer = make_optimizer(
            config.optimizer,
            self._groups(),
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
        )
        self._schedule = self._make_schedule()
        self.epoch = 0
        self.best_epoch: int | None = None
        self.best_score: float | None = None
        self._best: dict[str, Tensor] = {}

    @property
    def done(self) -> bool:
        """Whether all epochs have run."""
        return self.epoch >= self._config.epochs

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of one epoch, the last of which may see fewer samples."""
        return -(-len(self._train.y) // (self._config.batch_size * self._config.accumulation))

    def step(self) -> RefineEpoch:
        """Run one epoch and validate; raises NotFiniteError when a loss, prediction or score is not finite."""
        assert not self.done, "all refine epochs have run"
        started = perf_counter()
        with isolated_rng(derive_seed(self._seed, "refine", self.epoch), self._device):
            loss, learning_rate = self._train_epoch()
        trained = perf_counter()
        self._model.eval()
        predictions = predict_feed(self._validation_feed, len(self._validation.y), self._objective, self._device)
        value = score(predictions, self._validation.y, self._objective)
        self.epoch += 1
        if self.best_score is None or value < self.best_score:
            self.best_epoch, self.best_score = self.epoch, value
            self._best = self._snapshot()
        ended = perf_counter()
        return RefineEpoch(self.epoch, loss, value, learning_rate, ended - started, ended - trained)

    def restore_best(self) -> None:
        """Put the weights of the best epoch back into the model."""
        self._load_weights(self._best)

    def state_dict(self) -> dict[str, Any]:
        """Return what an exact resume needs; tensors are the live ones, so write or copy it before the next `step`.

        Frozen parameters are left out, and so are generators: every epoch seeds its own.
        """
        return {
            "epoch": self.epoch,
            "best_epoch": self.best_epoch,
            "best_score": self.best_score,
            "best": self._best,
            "weights": self._weights(),
            "optimizer": self._optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where the loop that gave ``state`` stood."""
        self._load_weights(state["weights"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._best = dict(state["best"])
        self.epoch = state["epoch"]
        self.best_epoch = state["best_epoch"]
        self.best_score = state["best_score"]

    # Made on first use: a cache of features takes a pass over the split, which reading a finished trial need not pay.
    @cached_property
    def _train_feed(self) -> Feed:
        return self._make_feed(self._train)

    @cached_property
    def _validation_feed(self) -> Feed:
        return self._make_feed(self._validation)

    def _make_feed(self, split: Split) -> Feed:
        stochastic = self._config.dropout > 0
        return make_feed(self._model, self._trained.values(), split.x, stochastic=stochastic, device=self._device)

    def _groups(self) -> list[ParameterGroup]:
        body = {id(parameter) for parameter in self._model.body.parameters()}
        return [
            ParameterGroup([value for value in self._trained.values() if id(value) not in body]),
            ParameterGroup(
                [value for value in self._trained.values() if id(value) in body], self._config.body_learning_rate_scale
            ),
        ]

    def _make_schedule(self) -> Schedule:
        per_epoch = self.steps_per_epoch
        return make_schedule(
            self._config.schedule,
            warmup_steps=round(self._config.warmup_epochs * per_epoch),
            total_steps=round((self._config.decay_epochs or self._config.epochs) * per_epoch),
        )

    def _train_epoch(self) -> tuple[float, float]:
        """Run the optimiser steps of one epoch; return the mean loss and the last learning rate."""
        self._model.train()
        step = self.epoch * self.steps_per_epoch
        total = learning_rate = 0.0
        for indices in self._step_indices():
            learning_rate = self._config.learning_rate * self._schedule(step)
            set_learning_rate(self._optimizer, learning_rate)
            total += self._optimizer_step(indices) * len(indices)
            step += 1
        return total / len(self._train.y), learning_rate

    def _step_indices(self) -> Iterator[np.ndarray]:
        order = torch.randperm(len(self._train.y), generator=make_generator(self._seed, "order", self.epoch)).numpy()
        size = self._config.batch_size * self._config.accumulation
        for start in range(0, len(order), size):
            yield order[start : start + size]

    def _optimizer_step(self, indices: np.ndarray) -> float:
        """Take one optimiser step on the mean loss of ``indices``, in passes of at most batch_size; return the loss."""
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._accumulate_gradients(indices)
        if not np.isfinite(loss):
            raise NotFiniteError(f"the training loss is {loss} in epoch {self.epoch + 1}")
        if self._config.clip > 0:
            torch.nn.utils.clip_grad_norm_(self._trained.values(), self._config.clip)
        self._optimizer.step()
        return loss

    def _accumulate_gradients(self, indices: np.ndarray) -> float:
        # Each pass is weighted by its true share of the samples, so that a short last pass does not count double.
        total = torch.zeros((), device=self._device)
        for start in range(0, len(indices), self._config.batch_size):
            part = indices[start : start + self._config.batch_size]
            predictions = self._decode(self._train_feed(part))
            loss = self._loss(predictions, to_tensor(self._train.y, part, self._device)) * (len(part) / len(indices))
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return float(total)

    def _weights(self) -> dict[str, Tensor]:
        saved = self._model.state_dict()
        buffers = {name: value for name, value in self._model.named_buffers() if name in saved}
        return {name: value.detach() for name, value in self._trained.items()} | buffers

    def _snapshot(self) -> dict[str, Tensor]:
        return {name: value.to("cpu", copy=True) for name, value in self._weights().items()}

    def _load_weights(self, weights: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in self._weights().items():
                value.copy_(weights[name])
