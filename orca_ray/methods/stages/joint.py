"""The first stage of `joint`: embedder and head by the task's loss and, later, a distance from the source."""

from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from orca_ray.methods.joint import JointConfig
from orca_ray.methods.recipe import new_parameters
from orca_ray.methods.stages.align_stage import make_align_loop
from orca_ray.methods.stages.refine_stage import RefineStage
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


def joint_stage(trial: Trial) -> RefineStage:
    """Return the stage; the body is frozen."""
    config, refining = trial.hyperparameters.of(JointConfig), trial.hyperparameters.refine
    optimizer = "adam" if refining.optimizer == "sgd" else refining.optimizer
    return RefineStage(
        trial,
        name="joint",
        parameters=new_parameters,
        config=replace(
            refining, epochs=config.epochs, learning_rate=config.learning_rate, decay_epochs=0.0,
            batch_size=config.batch_size, accumulation=1, optimizer=optimizer,
        ),
        step_term=DistanceTerm(trial),
        final=False,
    )  # fmt: skip
