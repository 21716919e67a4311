"""The refine stage: fine-tune the chosen parameters, keep the epoch that validates best."""

import logging
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
from orca_ray.models.body import has_stochastic_depth
from orca_ray.models.crossmodal import CrossModalModel
from orca_ray.tasks.augmentations import Augmentation
from orca_ray.training.errors import NotFiniteError
from orca_ray.training.evaluate import BATCH_SIZE, Evaluator, feature_width
from orca_ray.training.feed import Feed, make_feed
from orca_ray.training.objective import Objective
from orca_ray.training.optimisation import (
    ParameterGroup,
    Schedule,
    make_optimizer,
    make_schedule,
    set_learning_rate,
)
from orca_ray.training.passes import Augment, Passes
from orca_ray.training.precision import choose_precision
from orca_ray.training.refine_config import RefineConfig
from orca_ray.training.seeds import derive_seed, isolated_rng, make_generator
from orca_ray.training.throughput import Throughput, throughput

__all__ = ["RefineConfig", "RefineEpoch", "RefineLoop"]

_CHECK_EVERY = 64
"""Optimiser steps between two looks at the loss on a device where looking means waiting."""
_log = logging.getLogger(__name__)


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
        augmentation: Augmentation | None = None,
    ) -> None:
        chosen = {id(parameter) for parameter in parameters}
        self._trained = {name: value for name, value in model.named_parameters() if id(value) in chosen}
        if not self._trained:
            raise UserError("the method trains no parameter of this model")
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in self._trained)
        self._model = model
        self._config = config
        self._evaluator = Evaluator(objective)
        self._seed = seed
        self._device = device
        self._train, self._validation = train, validation
        self._parameters = list(self._trained.values())
        self._loss = objective.training_loss(train.y, device)
        self._augmentation = augmentation
        self.precision = choose_precision(config.precision, device, feature_width(model))
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
        self._kept: dict[str, Tensor] | None = None
        self._samples_seen, self._training_seconds = 0, 0.0

    @property
    def done(self) -> bool:
        """Whether all epochs have run."""
        return self.epoch >= self._config.epochs

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of one epoch, the last of which may see fewer samples."""
        batches = -(-len(self._train.y) // self._config.batch_size)
        if self._config.last_step == "drop":
            return max(1, batches // self._config.accumulation)
        return -(-batches // self._config.accumulation)

    @property
    def notes(self) -> list[str]:
        """Fallbacks taken so far, one sentence each."""
        return ([self.precision.note] if self.precision.note else []) + self._passes.notes + self._evaluator.notes

    @property
    def micro_batch(self) -> int:
        """Most samples of one forward pass in training."""
        return self._passes.micro_batch

    def throughput(self) -> Throughput:
        """Return the rates of training over all epochs so far."""
        return throughput(self._passes.cost, self._samples_seen, self._training_seconds, self._train_feed.precision)

    def step(self) -> RefineEpoch:
        """Run one epoch and validate; raises NotFiniteError when a loss, prediction or score is not finite."""
        assert not self.done, "all refine epochs have run"
        started = perf_counter()
        self._passes.compile(self._config.epochs - self.epoch)
        prepared = perf_counter()
        with isolated_rng(derive_seed(self._seed, "refine", self.epoch), self._device), self.precision.active():
            loss, learning_rate = self._train_epoch()
        trained = perf_counter()
        self._training_seconds += trained - prepared
        self._model.eval()
        value = self._evaluator.evaluate(self._validation_feed, self._validation, self._evaluation_batch)
        self.epoch += 1
        if self.best_score is None or value < self.best_score:
            self.best_epoch, self.best_score = self.epoch, value
            self._keep_weights()
        ended = perf_counter()
        return RefineEpoch(self.epoch, loss, value, learning_rate, ended - started, ended - trained)

    def evaluate(self, split: Split) -> float:
        """Return the metric over a whole split, computed as validation is; lower is better."""
        self._model.eval()
        batch_size = self._evaluation_batch
        if self._train_feed.network is not self._model:  # measured for the head alone
            batch_size = min(batch_size, BATCH_SIZE)
        return self._evaluator.evaluate(Feed(split.x, self._model, self.precision), split, batch_size)

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
            "samples_seen": self._samples_seen,
            "training_seconds": self._training_seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where the loop that gave ``state`` stood."""
        self._load_weights(state["weights"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._best, self._kept = dict(state["best"]), None
        self._samples_seen, self._training_seconds = state["samples_seen"], state["training_seconds"]
        self.epoch = state["epoch"]
        self.best_epoch = state["best_epoch"]
        self.best_score = state["best_score"]

    # Made on first use: a cache of features takes a pass over the split, which reading a finished trial need not pay.
    @cached_property
    def _train_feed(self) -> Feed:
        return self._make_feed(self._train, stochastic=self._augmentation is not None)

    @cached_property
    def _validation_feed(self) -> Feed:
        return self._make_feed(self._validation)

    @cached_property
    def _passes(self) -> Passes:
        return Passes(
            self._model,
            self._parameters,
            self._train_feed,
            self._train.y,
            self._loss,
            self._config,
            seed=self._seed,
        )

    @property
    def _evaluation_batch(self) -> int:
        # Larger ones leave a CPU's caches: 160 took 15 % longer than 64 with vit-s14, 25 % with a 768-wide body.
        return min(self._passes.limit, BATCH_SIZE) if self._device.type == "cpu" else self._passes.limit

    def _make_feed(self, split: Split, *, stochastic: bool = False) -> Feed:
        stochastic = stochastic or self._config.dropout > 0 or has_stochastic_depth(self._model.body)
        return make_feed(self._model, self._parameters, split.x, stochastic=stochastic, precision=self.precision)

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
        steps = self._step_indices()
        total = torch.zeros((), dtype=torch.float64, device=self._device)
        for number, (indices, loss) in enumerate(zip(steps, self._losses(steps), strict=True)):
            if self._device.type == "cpu" or number % _CHECK_EVERY == 0:
                self._check(loss)
            learning_rate = self._optimizer_step(self.epoch * len(steps) + number)
            total += loss * len(indices)
        self._check(total)
        seen = sum(map(len, steps))
        self._samples_seen += seen
        return float(total) / seen, learning_rate

    def _losses(self, steps: list[np.ndarray]) -> Iterator[Tensor]:
        """Yield each step's mean loss once its gradients are there; a failed allocation makes the passes smaller.

        Only passes are tried again. An optimiser step that failed may have moved some of the parameters, or made half
        of its state, so its error is raised where it is taken and ends the trial.
        """
        done, augment = 0, self._augment()
        while done < len(steps):
            self._optimizer.zero_grad(set_to_none=True)
            try:
                for loss in self._passes.gradients(steps[done:], augment):
                    yield loss
                    done += 1
            except torch.OutOfMemoryError:
                if not self._passes.shrink():
                    raise
                _log.warning("%s", self._passes.notes[-1])

    def _augment(self) -> Augment | None:
        """Draw for all samples what this epoch does to their inputs."""
        augmentation, device = self._augmentation, self._device
        if augmentation is None:
            return None
        drawn = augmentation.draw(len(self._train.y), make_generator(self._seed, "augment", self.epoch)).to(device)
        return lambda x, part: augmentation.apply(x, drawn[torch.from_numpy(part).to(device, non_blocking=True)])

    def _step_indices(self) -> list[np.ndarray]:
        order = torch.randperm(len(self._train.y), generator=make_generator(self._seed, "order", self.epoch)).numpy()
        size = self._config.batch_size * self._config.accumulation
        return [order[number * size : (number + 1) * size] for number in range(self.steps_per_epoch)]

    def _check(self, loss: Tensor) -> None:
        """Look whether a loss, or a sum that would carry it on, is finite; waits for the device."""
        value = float(loss)
        if not np.isfinite(value):
            raise NotFiniteError(f"the training loss is {value} in epoch {self.epoch + 1}")

    def _optimizer_step(self, step: int) -> float:
        """Take optimiser step number ``step`` on the gradients at hand and drop them; return its learning rate."""
        learning_rate = self._config.learning_rate * self._schedule(step)
        set_learning_rate(self._optimizer, learning_rate)
        if self._config.clip > 0:
            torch.nn.utils.clip_grad_norm_(self._parameters, self._config.clip)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return learning_rate

    def _weights(self) -> dict[str, Tensor]:
        saved = self._model.state_dict()
        buffers = {name: value for name, value in self._model.named_buffers() if name in saved}
        return {name: value.detach() for name, value in self._trained.items()} | buffers

    def _keep_weights(self) -> None:
        """Copy the weights to the CPU, into the memory of the last copy; `load_state_dict`'s own is not touched."""
        weights = self._weights()
        if self._kept is None:
            pinned = self._device.type == "cuda"
            self._kept = {
                name: torch.empty_like(value, device="cpu", pin_memory=pinned) for name, value in weights.items()
            }
        for name, value in weights.items():
            self._kept[name].copy_(value)
        self._best = self._kept

    def _load_weights(self, weights: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in self._weights().items():
                value.copy_(weights[name])
