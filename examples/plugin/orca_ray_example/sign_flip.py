"""Flip the sign of a random half of the inputs in each epoch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orca_ray.tasks.augmentations import Augmentation

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class SignFlip(Augmentation):
    """Multiply an input by 1 or -1."""

    def draw(self, num_samples: int, generator: "torch.Generator") -> "Tensor":
        """Return the factors [N]."""
        import torch

        return 2 * torch.randint(2, (num_samples,), generator=generator) - 1

    def apply(self, x: "Tensor", drawn: "Tensor") -> "Tensor":
        """Return ``x`` [B, ...] times the factors [B]."""
        return x * drawn.view(-1, *[1] * (x.ndim - 1))


AUGMENTATION = SignFlip(
    "sign_flip",
    "sign of the whole input, at random with probability 1/2; Um et al., ICMI 2017",
)
