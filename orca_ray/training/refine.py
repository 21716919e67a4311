"""The refine stage: fine-tune the method's trainable parameters.

It keeps the weights of the best validation score.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

from orca_ray.data.prepared import Split
from orca_ray.models.body import has_stochastic_depth, seeded
from orca_ray.models.crossmodal import CrossModalModel
from orca_ray.tasks.augmentations import Augmentation
from orca_ray.training.config import RefineConfig, Schedule
from orca_ray.training.evaluate import (
    BATCH_SIZE,
    Objective,
    SplitInputs,
    log_loss,
    make_feed,
    predict,
    score,
)
from orca_ray.training.gradient_accumulation import (
    Augment,
    BatchTerm,
    GradientAccumulator,
    StepTerm,
)
from orca_ray.training.numerics import (
    NotFiniteError,
    choose_precision,
    derive_seed,
    make_generator,
)
from orca_ray.training.optimisation import (
    TrainedParameters,
    make_optimizer,
    make_schedule,
    set_learning_rate,
)
from orca_ray.training.ranks import ALONE, Ranks
from orca_ray.training.sample_cost import Throughput, throughput

CHECK_EVERY = {"cpu": 1, "cuda": 64}
"""Number of optimiser steps between checks of the loss for NaN, by device type.

A check waits for the device.
"""


_ROWS_OF_MEAN_WEIGHT = 20
"""Number of times that a validation sample of mean weight is counted.

Samples of other weights are counted in proportion, rounded up.
"""


@dataclass(frozen=True)
class RefineEpoch:
    """Report of one refine epoch."""

    epoch: int
    """Number of the epoch, from 1."""
    loss: float
    """Mean training loss over the epoch's samples."""
    validation_score: float
    learning_rate: float
    """Learning rate of the last optimiser step, without ``body_learning_rate_scale``.
    """
    seconds: float
    """Duration of training and validation."""
    validation_seconds: float
    """Duration of validation alone."""


@dataclass(frozen=True)
class _PartialEpoch:
    """Position within an epoch, between two of its optimiser steps."""

    steps: int
    """Number of steps done."""
    loss: Tensor
    """Sum of the losses of all samples so far, float64."""
    seconds: float
    """Duration of these steps."""
    generators: tuple[Tensor, ...] = ()
    """State of torch's global generators of the CPU and, if used, the GPU; empty while
    the epoch runs.
    """

    def to_state(self, device: torch.device) -> dict[str, Any]:
        """Return plain containers for a checkpoint.

        They have the present state of the generators.
        """
        generators = [torch.get_rng_state()]
        if device.type == "cuda":
            generators.append(torch.cuda.get_rng_state(device))
        return {
            "steps": self.steps,
            "loss": self.loss.cpu().clone(),
            "seconds": self.seconds,
            "generators": generators,
        }

    def restore_generators(self, device: torch.device) -> None:
        """Set torch's generators to the stored states, if there are any."""
        if not self.generators:
            return
        cpu, *cuda = self.generators
        torch.set_rng_state(cpu)
        for state in cuda:
            torch.cuda.set_rng_state(state, device)


class RefineLoop:
    """Loop that trains ``parameters`` of the model on the training split.

    One `step` is one epoch and one validation. All other parameters are frozen; inputs
    have one view. `restore_best` loads the weights of the best epoch, or of the last
    (see `RefineConfig.keep`). Several ranks call `step` and `predict` at the same time,
    with the same results.
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
        batch_term: BatchTerm | None = None,
        step_term: StepTerm | None = None,
        on_step: Callable[[], None] | None = None,
        ranks: Ranks = ALONE,
        by_log_loss: bool = False,
    ) -> None:
        """Freeze all parameters but ``parameters``, and build the optimiser.

        `TrainedParameters` freezes them. ``by_log_loss``: the log loss of validation
        chooses the best epoch, instead of the metric. ``on_step`` is called after each
        optimiser step, except an epoch's last; it may store the `state_dict`.
        """
        self._trained = TrainedParameters(model, parameters)
        self._model = model
        self._config = config
        self._seed = seed
        self._device = device
        model.body.one_view = True
        self._train = train
        self._validation = validation
        self._augmentation = augmentation
        self._objective = objective
        self._notes = list[str]()
        self._batch_term = batch_term
        self._step_term = step_term
        self._on_step = on_step
        self._ranks = ranks
        self._partial: _PartialEpoch | None = None
        # Batch size that evaluation was reduced to, as memory ran out.
        self._reduced_batch: int | None = None
        self._loss = objective.training_loss(train.y, device, config.label_smoothing)
        self.precision = choose_precision(
            config.precision, device, int(getattr(model.body, "feature_width", 0))
        )
        self._optimizer = make_optimizer(
            config.optimizer,
            self._trained.groups(config.body_learning_rate_scale),
            config.learning_rate,
            config.weight_decay,
            config.momentum,
        )
        self._schedule = self._make_schedule()
        self.epoch = 0
        self.best_epoch: int | None = None
        self.best_score: float | None = None
        self._by_log_loss = by_log_loss
        self._least = math.inf
        self._best: dict[str, Tensor] = {}
        self._samples_seen = 0
        self._training_seconds = 0.0

    def _make_schedule(self) -> Schedule:
        """Return the schedule of the learning rate, in optimiser steps."""
        config = self._config
        decay_epochs = config.decay_epochs
        if decay_epochs == 0:
            decay_epochs = config.epochs
        return make_schedule(
            config.schedule,
            warmup_steps=round(config.warmup_epochs * self.steps_per_epoch),
            total_steps=round(decay_epochs * self.steps_per_epoch),
        )

    @property
    def done(self) -> bool:
        """Whether all epochs have run."""
        return self.epoch >= self._config.epochs

    @property
    def steps_per_epoch(self) -> int:
        """Number of optimiser steps in one epoch.

        The last step may have fewer samples.
        """
        num_batches = math.ceil(len(self._train.y) / self._config.batch_size)
        if self._config.last_step == "drop":
            return max(1, num_batches // self._config.accumulation)
        return math.ceil(num_batches / self._config.accumulation)

    @property
    def notes(self) -> list[str]:
        """Sentences about the fallbacks taken so far, one for each."""
        notes = [*self._accumulator.notes, *self._notes]
        if self.precision.note:
            notes.insert(0, self.precision.note)
        return notes

    @property
    def micro_batch(self) -> int:
        """Maximum number of samples in one forward pass of training."""
        return self._accumulator.micro_batch

    def throughput(self) -> Throughput:
        """Return the samples and tokens per second of training, over all epochs."""
        return throughput(
            self._accumulator.cost, self._samples_seen, self._training_seconds
        )

    def step(self) -> RefineEpoch:
        """Run one epoch, validate, and return a report.

        Raises NotFiniteError if a loss, prediction or score is not finite.
        """
        assert not self.done, "all refine epochs have run"
        start = perf_counter()
        if self._batch_term is not None:
            self._batch_term.start(self.epoch, self._config.epochs)
        self._accumulator.compile(self._config.epochs - self.epoch)
        training_start = perf_counter()
        earlier_seconds = self._partial.seconds if self._partial else 0.0
        with (
            seeded(derive_seed(self._seed, "refine", self.epoch), self._device),
            self.precision.active(),
        ):
            loss, learning_rate = self._train_epoch()
        # Buffers differ between ranks, and on CUDA a step term may.
        self._ranks.equalise(self._trained.weights().values())
        training_end = perf_counter()
        self._training_seconds += training_end - training_start + earlier_seconds
        validation_score = self._validate()
        end = perf_counter()
        return RefineEpoch(
            epoch=self.epoch,
            loss=loss,
            validation_score=validation_score,
            learning_rate=learning_rate,
            seconds=end - start + earlier_seconds,
            validation_seconds=end - training_end,
        )

    def _validate(self) -> float:
        """Return the validation score of an epoch, and keep the weights of the best
        one.
        """
        predictions, y = self._predict_validation()
        group = self._validation.group
        value = score(predictions, y, self._objective, group)
        self.epoch += 1
        decisive = value
        if self._by_log_loss:
            decisive = log_loss(predictions, y, self._objective, group)
        is_best = decisive < self._least
        if is_best:
            self.best_epoch = self.epoch
            self._least = decisive
        if is_best or self._config.keep == "last":
            self.best_score = value
            self._best = {
                name: weight.to("cpu", copy=True)
                for name, weight in self._trained.weights().items()
            }
        return value

    def _predict_validation(self) -> tuple[np.ndarray, np.ndarray]:
        """Return predictions for the validation split, and its targets.

        Rows are repeated by their weights.
        """
        validation = self._validation
        predictions = self._predict(
            self._validation_feed, len(validation), self._evaluation_batch
        )
        y = validation.y
        weight = validation.weight
        if weight is None:
            return predictions, y
        counts = np.ceil(_ROWS_OF_MEAN_WEIGHT * weight / weight.mean())
        rows = np.repeat(np.arange(len(y)), counts.astype(np.int64))
        return predictions[rows], y[rows]

    def predict(self, split: Split) -> np.ndarray:
        """Return the predictions [N, *output_shape] for a whole split.

        They are made with the model's present weights.
        """
        batch_size = self._evaluation_batch
        trains_head_alone = self._train_feed.network is not self._model
        if trains_head_alone:
            # `_evaluation_batch` is a limit that was measured with the head alone.
            batch_size = min(batch_size, BATCH_SIZE)
        feed = SplitInputs(split.x, self._model, self.precision)
        return self._predict(feed, len(split), batch_size)

    def _predict(
        self, feed: SplitInputs, num_samples: int, batch_size: int
    ) -> np.ndarray:
        """Return the predictions for all samples of ``feed``.

        If a batch of ``batch_size`` does not fit in memory, later calls use the smaller
        size that did.
        """
        self._model.eval()
        tried = min(batch_size, num_samples)
        if self._reduced_batch is not None:
            tried = min(tried, self._reduced_batch)
        predictions, fitting = predict(feed, self._objective, tried, self._ranks)
        if fitting < tried:
            self._reduced_batch = fitting
            self._notes.append(
                f"{tried} samples did not fit the device's memory in evaluation,"
                f" {fitting} do"
            )
        return predictions

    def restore_best(self) -> None:
        """Load the weights that the loop kept (see `RefineConfig.keep`).

        The model then takes all views of an input.
        """
        self._trained.load(self._best)
        if self._model.body.num_views > 1:
            self._model.body.one_view = False
            predictions, y = self._predict_validation()
            group = self._validation.group
            self.best_score = score(predictions, y, self._objective, group)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for an exact resume.

        The next `step` changes its tensors, so store or copy them before. The state has
        neither frozen parameters nor, between epochs, random generators: every epoch
        derives its seeds from the trial's. Within an epoch (see ``on_step``), it also
        has the position and the states of the generators.
        """
        return {
            "epoch": self.epoch,
            "best_epoch": self.best_epoch,
            "best_score": self.best_score,
            "best": self._best,
            "least": self._least,
            "weights": self._trained.weights(),
            "optimizer": self._optimizer.state_dict(),
            "samples_seen": self._samples_seen,
            "training_seconds": self._training_seconds,
            "partial": self._partial.to_state(self._device) if self._partial else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the ``state`` of an earlier loop, to continue exactly there."""
        self._trained.load(state["weights"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._best = dict(state["best"])
        self._least = state["least"]
        self._samples_seen = state["samples_seen"]
        self._training_seconds = state["training_seconds"]
        self.epoch = state["epoch"]
        self.best_epoch = state["best_epoch"]
        self.best_score = state["best_score"]
        self._model.body.one_view = not self.done
        self._partial = None
        if state.get("partial"):
            self._partial = _PartialEpoch(**state["partial"])

    # Created on first use, because a finished trial that is restored needs no cached
    # features.
    @cached_property
    def _train_feed(self) -> SplitInputs:
        needs_inputs = self._augmentation is not None or self._batch_term is not None
        return self._make_feed(self._train, stochastic=needs_inputs)

    @cached_property
    def _validation_feed(self) -> SplitInputs:
        return self._make_feed(self._validation)

    @cached_property
    def _accumulator(self) -> GradientAccumulator:
        """The accumulator of the gradients of the training samples."""
        return GradientAccumulator(
            self._model,
            self._trained.parameters,
            self._train_feed,
            self._train.y,
            self._loss,
            self._config,
            seed=self._seed,
            term=self._batch_term,
            ranks=self._ranks,
        )

    @property
    def _evaluation_batch(self) -> int:
        limit = self._accumulator.limit
        # Larger batches exceed a CPU's caches: 160 samples take 15 % longer than 64
        # with vit-s14, 25 % if 768 wide.
        return min(limit, BATCH_SIZE) if self._device.type == "cpu" else limit

    def _make_feed(self, split: Split, *, stochastic: bool = False) -> SplitInputs:
        """Return the inputs of a split; see `make_feed`.

        ``stochastic``: whether inputs are augmented or a batch term changes them.
        Dropout and stochastic depth count as stochastic, too.
        """
        stochastic = (
            stochastic
            or self._config.dropout > 0
            or has_stochastic_depth(self._model.body)
        )
        return make_feed(
            self._model,
            self._trained.parameters,
            split.x,
            stochastic=stochastic,
            precision=self.precision,
        )

    def _train_epoch(self) -> tuple[float, float]:
        """Run the remaining optimiser steps of one epoch.

        Returns the mean loss of the epoch and the last learning rate.
        """
        self._model.train()
        steps = self._step_indices()
        started = perf_counter()
        resumed = self._partial
        if resumed is None:
            no_loss = torch.zeros((), dtype=torch.float64)
            resumed = _PartialEpoch(steps=0, loss=no_loss, seconds=0.0)
        resumed.restore_generators(self._device)
        total = resumed.loss.to(self._device, copy=True)
        remaining_steps = steps[resumed.steps :]
        losses = self._accumulator.gradients(
            remaining_steps,
            self._augment(),
            seed=derive_seed(self._seed, "ranks", self.epoch),
        )
        steps_and_losses = zip(remaining_steps, losses, strict=True)
        for number, (indices, loss) in enumerate(steps_and_losses, resumed.steps):
            if self._step_term is not None:
                loss = loss + self._step_term.backward(indices, self.epoch)
            if number % CHECK_EVERY.get(self._device.type, 64) == 0:
                self._check(loss)
            learning_rate = self._config.learning_rate * self._schedule(
                self.epoch * len(steps) + number
            )
            self._update(learning_rate)
            total += loss * len(indices)
            if self._on_step is not None and number + 1 < len(steps):
                seconds = resumed.seconds + perf_counter() - started
                self._partial = _PartialEpoch(number + 1, total, seconds)
                self._on_step()
        self._partial = None
        self._check(total)
        num_samples = sum(map(len, steps))
        self._samples_seen += num_samples
        return float(total) / num_samples, learning_rate

    def _update(self, learning_rate: float) -> None:
        """Make an optimiser step with the gradients in ``.grad``."""
        set_learning_rate(self._optimizer, learning_rate)
        if self._config.clip > 0:
            torch.nn.utils.clip_grad_norm_(self._trained.parameters, self._config.clip)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def _augment(self) -> Augment | None:
        """Return this epoch's augmentation.

        Its random numbers are drawn here, for all training samples at once.
        """
        augmentation = self._augmentation
        device = self._device
        if augmentation is None:
            return None
        generator = make_generator(self._seed, "augment", self.epoch)
        drawn = augmentation.draw(len(self._train.y), generator).to(device)

        def augment(x: Tensor, indices: np.ndarray) -> Tensor:
            rows = torch.from_numpy(indices).to(device, non_blocking=True)
            return augmentation.apply(x, drawn[rows])

        return augment

    def _step_indices(self) -> list[np.ndarray]:
        """Return the indices of the samples of each optimiser step of this epoch."""
        generator = make_generator(self._seed, "order", self.epoch)
        order = torch.randperm(len(self._train.y), generator=generator)
        if self._train.weight is not None:
            weight = torch.from_numpy(self._train.weight)
            order = _draw_by_weight(order, weight, generator)
        size = self._config.batch_size * self._config.accumulation
        return [
            order.numpy()[step * size : (step + 1) * size]
            for step in range(self.steps_per_epoch)
        ]

    def _check(self, loss: Tensor) -> None:
        """Raise NotFiniteError if ``loss`` is NaN or infinite."""
        value = float(loss)  # synchronises with the device
        if not math.isfinite(value):
            raise NotFiniteError(
                f"the training loss is {value} in epoch {self.epoch + 1}"
            )


def _draw_by_weight(
    order: Tensor, weight: Tensor, generator: torch.Generator
) -> Tensor:
    """Return as many samples as ``order`` has, each in proportion to its weight.

    By systematic sampling, sample i occurs w_i N / Σw times, rounded at random.
    """
    num = len(order)
    ends = weight[order].cumsum(0)
    offset = torch.rand(1, generator=generator, dtype=torch.float64)
    places = torch.arange(num) + offset
    positions = torch.searchsorted(ends, ends[-1] * places / num)
    drawn = order[positions.clamp(max=num - 1)]
    return drawn[torch.randperm(num, generator=generator)]
