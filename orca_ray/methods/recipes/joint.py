"""Joint alignment, after L2G: the task's loss and a distance together, then fine-tune.

Let e be the embedder, f the frozen pretrained body, h the head, and d the distance of
the step's features, i.e. its mean tokens, from the source features. The first stage
trains e and h, in its first epochs by the task's loss alone, so that aligning starts
from an embedder that carries information, and then by

    ℓ(h(f(e(x))), y) + w d(mean tokens of e(x), source features).

The second stage fine-tunes everything by the task's loss, as `nft` does. d is
``align.distance``: the squared maximum mean discrepancy by default, as in L2G. Of the
other options ``align.*``, only ``align.source`` and ``align.source_samples`` matter.
`docs/methods.md` says where this differs from L2G.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from orca_ray.methods.recipe import FROZEN_BODY, Recipe, new_parameters
from orca_ray.options import Amount, Config, Fraction, Number, Positive

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from orca_ray.methods.stages.trial import Stage, Trial
    from orca_ray.training.align import AlignLoop


@dataclass(frozen=True)
class JointConfig(Config):
    """Options of the first stage of `joint`; its other options are ``refine.*``."""

    epochs: Number = 10
    warmup: Fraction = 0.6
    """Share of the epochs, counted from the first, whose loss is the task's alone.

    The last epoch is never one of them.
    """
    weight: Amount = 1.0
    """Weight w of the distance in the loss."""
    learning_rate: Positive = 1e-3
    """Learning rate of the first stage.

    The optimiser is ``refine.optimizer``, or Adam if that is SGD.
    """
    batch_size: Number = 64
    """Number of samples of an optimiser step, from which the distance is computed."""


class DistanceTerm:
    """The weighted distance of a step's features from the source; a `StepTerm`.

    It is 0 during ``joint.warmup``.
    """

    def __init__(self, trial: "Trial", config: JointConfig) -> None:
        self._trial = trial
        self._config = config

    def backward(self, indices: "np.ndarray", epoch: int) -> "Tensor":
        """Add the gradients for the training samples ``indices`` [n] to ``.grad``.

        Returns the detached loss.
        """
        import torch

        if epoch < int(self._config.warmup * self._config.epochs):
            return torch.zeros((), device=self._trial.device)
        loss = self._config.weight * self._align_loop.distance_of(indices)
        torch.autograd.backward(loss)
        # Measuring the distance has set evaluation mode.
        self._trial.model.embedder.train()
        return loss.detach()

    # Made on first use, because a finished stage needs no source features.
    @cached_property
    def _align_loop(self) -> "AlignLoop":
        from orca_ray.methods.stages.align_stage import make_align_loop

        return make_align_loop(self._trial, self._trial.hyperparameters.align)


def _stages(trial: "Trial") -> "list[Stage]":
    """Return a stage that trains with the additional distance, then a `RefineStage`."""
    from orca_ray.methods.stages.refine_stage import RefineStage

    config = trial.hyperparameters.of(JointConfig)
    refining = trial.hyperparameters.refine
    joint = replace(
        refining,
        epochs=config.epochs,
        learning_rate=config.learning_rate,
        decay_epochs=0.0,
        batch_size=config.batch_size,
        accumulation=1,
        optimizer="adam" if refining.optimizer == "sgd" else refining.optimizer,
    )
    term = DistanceTerm(trial, config)
    return [
        RefineStage(
            trial,
            name="joint",
            parameters=new_parameters,
            config=joint,
            step_term=term,
            final=False,
        ),
        RefineStage(trial),
    ]


RECIPE = Recipe(
    name="joint",
    title=(
        "embedder and head by task loss and distance together, then refine everything"
        " (after L2G)"
    ),
    reference=(
        "Cheng et al., L2G: Repurposing Language Models for Genomics Tasks, TMLR 2025, "
        "github.com/wenduocheng/L2G"
    ),
    aligns=True,
    stage_names=("joint", "refine"),
    options=(JointConfig,),
    stages=_stages,
    other_epochs=lambda values, num_train: FROZEN_BODY * float(values["joint.epochs"]),
    defaults={"align.distance": "mmd", "align.epochs": 0},
)
