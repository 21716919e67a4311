"""Losses beside the task's, which a method adds to the refine stage."""

from typing import Protocol

import numpy as np
from torch import Tensor


class BatchTerm(Protocol):
    """A loss of each micro-batch that is added to the task's, e.g. one of mixed samples that pass through the body.

    Random numbers come from torch's global generators, which the refine stage seeds for each epoch.
    """

    def start(self, epoch: int, epochs: int) -> None:
        """Prepare for an epoch, counted from 0."""

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the mean loss of inputs [b, ...] with targets [b, ...]."""


class StepTerm(Protocol):
    """A loss of each optimiser step that is added to the task's, e.g. a distance, which needs the whole step."""

    def backward(self, indices: np.ndarray, epoch: int) -> Tensor:
        """Add the gradients for the training samples ``indices`` [n] to ``.grad``, and return the detached loss."""
