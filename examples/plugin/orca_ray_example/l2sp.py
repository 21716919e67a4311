"""L2-SP: refine everything, near the pretrained body.

loss = task loss + strength / 2 * sum of (w - w_pretrained)^2 over the parameters w of
the body; Li, Grandvalet and Davoine, Explicit Inductive Bias for Transfer Learning with
Convolutional Networks, ICML 2018, arXiv:1802.01483.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orca_ray.methods.recipe import Recipe
from orca_ray.training.config import Amount, Config

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from orca_ray.methods.stages.trial import Stage, Trial


@dataclass(frozen=True)
class L2SPConfig(Config):
    """Options ``l2sp.*``."""

    strength: Amount = 0.01


class Penalty:
    """Adds the gradient of the penalty to each optimiser step; a `StepTerm`."""

    def __init__(self, trial: "Trial") -> None:
        self._strength = trial.hyperparameters.of(L2SPConfig).strength
        self._pairs = [
            (weight, weight.detach().clone())
            for weight in trial.model.body.parameters()
        ]

    def backward(self, indices: "np.ndarray", epoch: int) -> "Tensor":
        """Add the gradient, and return the penalty."""
        import torch

        parts = [(weight - start).square().sum() for weight, start in self._pairs]
        loss = self._strength / 2 * torch.stack(parts).sum()
        torch.autograd.backward(loss)
        return loss.detach()


def stages(trial: "Trial") -> "list[Stage]":
    """Return the refine stage with the penalty."""
    from orca_ray.methods.stages.refine_stage import RefineStage

    return [RefineStage(trial, step_term=Penalty(trial))]


RECIPE = Recipe(
    name="l2sp",
    title="refine everything, near the pretrained body",
    reference="Li et al., ICML 2018, arXiv:1802.01483",
    options=[L2SPConfig],
    stages=stages,
)
