"""Gradients of optimiser steps, pass by pass."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

from orca_ray.data.rows import Rows
from orca_ray.models.checkpointing import checkpoint_layers
from orca_ray.models.crossmodal import CrossModalModel
from orca_ray.training.compiling import try_compile, wants_compile
from orca_ray.training.feed import Feed, forward
from orca_ray.training.micro_batch import budget_bytes, even_passes, samples_per_pass
from orca_ray.training.probe import Cost, measure
from orca_ray.training.refine_config import RefineConfig
from orca_ray.training.samples import Part
from orca_ray.training.seeds import derive_seed, isolated_rng

_T = TypeVar("_T")
Loss = Callable[[Tensor, Tensor], Tensor]
"""Maps outputs [b, *output_shape] and targets [b, ...] to their mean loss."""
Augment = Callable[[Tensor, np.ndarray], Tensor]
"""Maps inputs [b, ...] and their samples' indices [b] to the inputs that are trained on."""


class Passes:
    """Accumulates the gradient of each step's mean loss, in passes as large as memory and caches bear.

    Each pass is weighted by its true share of the step's samples, so that a short one does not count double. Nothing
    here waits for the device.
    """

    def __init__(
        self,
        model: CrossModalModel,
        parameters: Sequence[Parameter],
        feed: Feed,
        y: Rows,
        loss: Loss,
        config: RefineConfig,
        *,
        seed: int,
    ) -> None:
        """Measure a sample and choose the size of a pass; ``parameters`` are those that train."""
        self._model, self._parameters, self._feed = model, parameters, feed
        self._samples = feed.samples(y)
        self._loss = loss
        self._config = config
        self._seed = seed
        self._num_samples = len(y)
        self._device = feed.precision.device
        self._compiled: Callable[[Tensor], Tensor] | None = None
        self._decided = False
        self.notes: list[str] = []
        """Fallbacks taken, one sentence each."""
        self.cost = self._measure()
        """Of one sample, without gradient checkpointing."""
        self.limit = self._choose_limit()
        """Most samples that a pass may take."""

    @property
    def micro_batch(self) -> int:
        """Samples of the largest pass of a full step."""
        step = min(self._config.batch_size * self._config.accumulation, self._num_samples)
        return even_passes(step, self.limit)

    def gradients(self, steps: Sequence[np.ndarray], augment: Augment | None = None) -> Iterator[Tensor]:
        """Yield the mean loss of each step's samples, detached, once ``.grad`` has its gradient added.

        ``steps`` are indices [n] into the split. The next step's passes begin when the caller asks for its loss.
        """
        split = [np.array_split(indices, -(-len(indices) // self.limit)) for indices in steps]
        rows = self._samples.batches([part for parts in split for part in parts])
        for indices, parts in zip(steps, split, strict=True):
            losses = []
            for part in parts:
                x, y = next(rows)
                loss = self._loss_of(x if augment is None else augment(x, part), y) * (len(part) / len(indices))
                loss.backward()  # type: ignore[no-untyped-call]
                losses.append(loss.detach())
            yield torch.stack(losses).sum()

    def shrink(self) -> bool:
        """Halve the limit after a failed allocation; False when a pass is of one sample already.

        What was compiled is for passes of the old size: the next `compile` decides anew.
        """
        if self.micro_batch == 1:
            return False
        self._compiled, self._decided = None, False
        self.notes.append(f"a pass of {self.micro_batch} samples did not fit the device's memory, halved")
        self.limit = self.micro_batch // 2
        return True

    def compile(self, epochs: int) -> None:
        """Compile the network where it is wanted and pays for ``epochs`` epochs; decided once for a size of passes.

        Only passes of the usual size use it: each other size would be compiled anew.
        """
        if self._decided:
            return
        if self._config.compile == "on" and torch.are_deterministic_algorithms_enabled():
            self._decided = True
            self._note("not compiled, for the trial is deterministic")
        passes = epochs * -(-self._num_samples // self.micro_batch)
        if not wants_compile(self._config.compile, self._device, passes):
            return
        self._decided = True

        def run(network: Callable[[Tensor], Tensor]) -> None:
            self._compiled = network
            self._isolated(lambda: self._gradient(self.micro_batch))

        self._compiled, note = try_compile(self._feed.network, run)
        if note:
            self._note(note)

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    def _choose_limit(self) -> int:
        cost, extra = self.cost, 0
        if self._config.gradient_checkpointing == "on":
            layers = checkpoint_layers(self._model.body)
            if layers == 0:
                self.notes.append("no gradient checkpointing, for the body has no repeated layers")
            else:
                # Recomputed, a layer's tensors are as large as ever: the caches' bound stays.
                cost = replace(self._measure(), largest_bytes=self.cost.largest_bytes)
                extra = self.cost.saved_bytes // layers
        return samples_per_pass(cost, budget_bytes(self._config.memory_mib, self._device), self._device, extra)

    def _measure(self) -> Cost:
        def run() -> Cost:
            return measure(self._first_loss, self._parameters, self._model.body, num_samples=min(2, self._num_samples))

        return self._isolated(run)

    def _gradient(self, num_samples: int) -> None:
        torch.autograd.grad(self._first_loss(num_samples), self._parameters, allow_unused=True)

    def _isolated(self, run: Callable[[], _T]) -> _T:
        """Run in training mode with random numbers of its own."""
        was_training = self._model.training
        self._model.train()
        try:
            with isolated_rng(derive_seed(self._seed, "measure"), self._device), self._feed.precision.active():
                return run()
        finally:
            self._model.train(was_training)

    def _first_loss(self, num_samples: int) -> Tensor:
        parts: list[Part] = [slice(0, num_samples)]
        return self._loss_of(*next(self._samples.batches(parts)))

    def _loss_of(self, x: Tensor, y: Tensor) -> Tensor:
        if self._compiled is not None and len(x) == self.micro_batch:
            return self._loss(forward(self._compiled, x, self._feed.precision), y)
        return self._loss(self._feed.outputs(x), y)
