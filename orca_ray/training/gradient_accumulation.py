"""Gradients of optimiser steps, accumulated over micro-batches that fit in memory.

Optionally, the network is compiled by `torch.compile`.
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

from orca_ray.data.rows import Rows
from orca_ray.models.body import checkpoint_layers, seeded
from orca_ray.models.crossmodal import CrossModalModel
from orca_ray.training import sample_cost
from orca_ray.training.config import RefineConfig
from orca_ray.training.evaluate import Samples, SplitInputs, forward
from orca_ray.training.numerics import derive_seed, is_out_of_memory
from orca_ray.training.ranks import ALONE, Ranks

_log = logging.getLogger(__name__)


class BatchTerm(Protocol):
    """Interface of a loss of each micro-batch, added to the task's loss.

    An example is the loss of mixed samples. Random numbers come from torch's global
    generators, which the refine stage seeds for each epoch.
    """

    def start(self, epoch: int, epochs: int) -> None:
        """Prepare for an epoch, counted from 0."""

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the mean loss of inputs [b, ...] with targets [b, ...]."""


class StepTerm(Protocol):
    """Interface of a loss of all samples of a step, added to the task's loss.

    An example is a distance.
    """

    def backward(self, indices: np.ndarray, epoch: int) -> Tensor:
        """Add the gradients for training samples to ``.grad``.

        ``indices`` [n] are those of the samples. Returns the detached loss.
        """


Loss = Callable[[Tensor, Tensor], Tensor]
"""Function of outputs [b, *output_shape] and targets [b, ...]: their mean loss."""
Augment = Callable[[Tensor, np.ndarray], Tensor]
"""Function of inputs [b, ...] and their indices [b] that returns augmented inputs."""
MIN_COMPILED = 2000
"""``refine.compile: auto`` compiles on CUDA for at least this many micro-batches.

Compilation takes about a minute.
"""


class GradientAccumulator:
    """Accumulator of the gradient of each optimiser step's mean loss.

    It sums over micro-batches, without synchronising with the device. Each of several
    ranks computes the gradient of its share of the samples, and all ranks get the sum.
    """

    def __init__(
        self,
        model: CrossModalModel,
        parameters: Sequence[Parameter],
        feed: SplitInputs,
        y: Rows,
        loss: Loss,
        config: RefineConfig,
        *,
        seed: int,
        term: BatchTerm | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        """Measure the cost of a sample and choose the micro-batch size.

        ``parameters`` are those that are trained.
        """
        self._term = term
        self._ranks = ranks
        self._model = model
        self._parameters = parameters
        self._feed = feed
        self._loss = loss
        self._config = config
        self._seed = seed
        self._device = feed.precision.device
        self._samples = Samples([feed.inputs, y], self._device)
        self._num_samples = len(y)
        self._compiled: Callable[[Tensor], Tensor] | None = None
        self._compile_decided = False
        self.notes: list[str] = []
        """Sentences about the fallbacks taken so far, one for each."""
        self.cost = self._measure_cost()
        """Measured cost of one training sample without gradient checkpointing."""
        self.limit = self._choose_limit()
        """Maximum number of samples of a micro-batch; halved when memory runs out."""
        # Memory ran out in an earlier attempt of this trial.
        if sample_cost.memory_limits().halvings:
            self.limit = sample_cost.halve(self.micro_batch)

    @property
    def micro_batch(self) -> int:
        """Number of samples of the largest micro-batch of a full optimiser step."""
        step_size = self._config.batch_size * self._config.accumulation
        step = range(min(step_size, self._num_samples))
        rank_samples = step[self._ranks.share(len(step))]
        return sample_cost.even_micro_batch(max(1, len(rank_samples)), self.limit)

    def gradients(
        self,
        steps: Sequence[np.ndarray],
        augment: Augment | None = None,
        *,
        seed: int = 0,
    ) -> Iterator[Tensor]:
        """Yield each step's detached mean loss, with its gradient in ``.grad``.

        A step is an array of sample indices. The caller sets ``.grad`` to None before
        the next step. If memory runs out, micro-batches are halved and the step is
        repeated. ``seed``, equal for all steps of an epoch, seeds torch on all ranks
        but the first.
        """
        num_done = 0
        while num_done < len(steps):
            for parameter in self._parameters:
                parameter.grad = None
            try:
                for loss in self._accumulate(steps[num_done:], augment, seed):
                    yield loss
                    num_done += 1
            except Exception as error:
                if not is_out_of_memory(error) or not self._halve():
                    raise

    def compile(self, epochs: int) -> None:
        """Compile the network if that pays for ``epochs`` epochs.

        See `wants_compile`. This is decided once per micro-batch size. Smaller
        micro-batches (the last of an epoch) run uncompiled, because torch would compile
        again for every size.
        """
        if self._compile_decided:
            return
        self._compile_decided = True
        is_deterministic = torch.are_deterministic_algorithms_enabled()
        if is_deterministic and self._config.compile == "on":
            self._note("not compiled because the trial is deterministic")
        samples_at_once = self.micro_batch * self._ranks.size
        num_batches = epochs * math.ceil(self._num_samples / samples_at_once)
        if wants_compile(self._config.compile, self._device, num_batches):
            self._compile()

    def _compile(self) -> None:
        """Compile the network, and run it once; if that fails, it stays uncompiled."""
        # torch limits the variants of a function and would count those of earlier
        # trials.
        torch.compiler.reset()
        try:
            self._compiled = torch.compile(self._feed.network, dynamic=False)
            with self._measuring():
                loss = self._first_loss(self.micro_batch)
                torch.autograd.grad(loss, self._parameters, allow_unused=True)
        # E.g. no compiler, an unknown operation, an old driver, too little memory:
        # torch documents none of the types.
        except Exception as error:
            first_line, _, _ = str(error).strip().partition("\n")
            name = type(error).__name__
            _log.warning(
                "torch.compile failed, training continues without it: %s",
                first_line or name,
            )
            self._compiled = None
            torch.compiler.reset()
            self._note(f"not compiled ({name})")

    def _accumulate(
        self, steps: Sequence[np.ndarray], augment: Augment | None, seed: int
    ) -> Iterator[Tensor]:
        """Yield the loss of each step and add its gradient; see `gradients`."""
        micro_batches_of_steps = [self._micro_batches(step) for step in steps]
        rows = self._samples.batches(
            [
                indices
                for micro_batches in micro_batches_of_steps
                for indices, _ in micro_batches
            ]
        )
        for step, micro_batches in zip(steps, micro_batches_of_steps, strict=True):
            self._ranks.seed(seed, int(step[0]))
            losses = []
            for indices, share in micro_batches:
                x, y = next(rows)
                if augment is not None:
                    x = augment(x, indices)
                loss = self._loss_of(x, y) * share
                loss.backward()  # type: ignore[no-untyped-call]
                losses.append(loss.detach())
            yield self._ranks.sum_gradients(self._parameters, torch.stack(losses).sum())

    def _micro_batches(self, step: np.ndarray) -> list[tuple[np.ndarray, float]]:
        """Return this rank's micro-batches of a step.

        A micro-batch consists of sample indices, and of its share in the step's mean.
        """
        rank_indices = step[self._ranks.share(len(step))]
        if len(rank_indices) == 0:
            # There are fewer samples than ranks: a sample that does not count gives
            # gradients of the same parameters as on other ranks.
            return [(step[:1], 0.0)]
        num_parts = math.ceil(len(rank_indices) / self.limit)
        return [
            (indices, len(indices) / len(step))
            for indices in np.array_split(rank_indices, num_parts)
        ]

    def _halve(self) -> bool:
        """Halve the micro-batch size and drop the compiled network.

        Return whether that was possible (size above 1).
        """
        if self.micro_batch == 1:
            return False
        self._compiled = None
        self._compile_decided = False
        self._note(
            f"a micro-batch of {self.micro_batch} samples did not fit the device's"
            " memory, halved"
        )
        _log.warning("%s", self.notes[-1])
        self.limit = self.micro_batch // 2
        return True

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    def _choose_limit(self) -> int:
        """Return the maximum micro-batch size, and set up gradient checkpointing.

        Layers are only checkpointed if the configuration says so.
        """
        cost = self.cost
        extra = 0
        if self._config.gradient_checkpointing == "on":
            layers = checkpoint_layers(self._model.body)
            if layers == 0:
                self._note(
                    "no gradient checkpointing because the body has no repeated layers"
                )
            else:
                # Recomputed layers have activations as large as without checkpointing,
                # so the limit for CPUs stays.
                cost = replace(
                    self._measure_cost(), largest_bytes=self.cost.largest_bytes
                )
                extra = self.cost.saved_bytes // layers
        return sample_cost.max_micro_batch(
            cost,
            sample_cost.budget_bytes(self._config.memory_mib, self._device),
            self._device,
            extra,
        )

    def _measure_cost(self) -> sample_cost.SampleCost:
        few = min(2, self._num_samples)
        with self._measuring():
            return sample_cost.measure_cost(
                self._first_loss, self._model.body, num_samples=few
            )

    @contextmanager
    def _measuring(self) -> Iterator[None]:
        """Run the block in training mode with a fixed seed.

        Afterwards, restore the mode and the random generators.
        """
        was_training = self._model.training
        self._model.train()
        try:
            with (
                seeded(derive_seed(self._seed, "measure"), self._device),
                self._feed.precision.active(),
            ):
                yield
        finally:
            self._model.train(was_training)

    def _first_loss(self, num_samples: int) -> Tensor:
        x, y = next(self._samples.batches([slice(0, num_samples)]))
        return self._loss_of(x, y)

    def _loss_of(self, x: Tensor, y: Tensor) -> Tensor:
        network: Callable[[Tensor], Tensor] = self._feed.network
        if self._compiled is not None and len(x) == self.micro_batch:
            network = self._compiled
        loss = self._loss(forward(network, x, self._feed.precision), y)
        return loss if self._term is None else loss + self._term(x, y)


def wants_compile(mode: str, device: torch.device, count: int) -> bool:
    """Return whether to compile for ``count`` micro-batches.

    ``mode`` is ``refine.compile``. Deterministic trials are not compiled.
    """
    if mode == "off" or torch.are_deterministic_algorithms_enabled():
        return False
    return mode == "on" or (device.type == "cuda" and count >= MIN_COMPILED)
