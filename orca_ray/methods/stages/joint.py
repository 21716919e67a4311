"""The loss of the first stage of `joint` beside the task's: a distance from the source."""

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from orca_ray.methods.options import JointConfig
from orca_ray.methods.stages.align_stage import make_align_loop
from orca_ray.methods.stages.trial import Trial
from orca_ray.training.align import AlignLoop


class DistanceTerm:
    """A `StepTerm`: the weighted distance of a step's features from the source features, 0 in the first epochs."""

    def __init__(self, trial: Trial) -> None:
        self._trial, self._config = trial, trial.hyperparameters.of(JointConfig)

    def backward(self, indices: np.ndarray, epoch: int) -> Tensor:
        """Add the gradients for the training samples ``indices`` [n] to ``.grad``, and return the detached loss."""
        if epoch < int(self._config.warmup * self._config.epochs):
            return torch.zeros((), device=self._trial.device)
        loss = self._config.weight * self._aligning.distance_of(indices)
        loss.backward()  # type: ignore[no-untyped-call]
        self._trial.model.embedder.train()  # the distance is measured in evaluation mode
        return loss.detach()

    @cached_property
    def _aligning(self) -> AlignLoop:  # made on first use, because a finished stage needs no source features
        return make_align_loop(self._trial, self._trial.hyperparameters.align)
