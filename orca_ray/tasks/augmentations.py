"""Random changes of training inputs, by name.

Parameters are drawn every epoch for every sample of the split, by its index, so that they depend neither on the order
of samples nor on the sizes of batches and passes. Only training passes of the refine stage augment; validation, test
and the align stage use the inputs unchanged (the reference aligns on augmented inputs).

A new augmentation is one new entry of `AUGMENTATIONS`. Letters: N samples of a split, B of a pass, C channels, H, W.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orca_ray.errors import lookup

if TYPE_CHECKING:  # task modules import this one, and importing them all must stay cheap
    import torch
    from torch import Tensor

CIFAR100_MEAN, CIFAR100_STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
"""Mean and deviation of each channel of CIFAR-100's training images, in units of the largest pixel value."""


@dataclass(frozen=True)
class Augmentation(ABC):
    """A random change of inputs, in two steps: draw its parameters, then apply them to a pass on the device."""

    name: str
    """Name in `AUGMENTATIONS`."""
    definition: str
    """Definition in words, with its source."""

    @abstractmethod
    def draw(self, num_samples: int, generator: "torch.Generator") -> "Tensor":
        """Return the parameters of every sample of a split [N, ...], on the CPU, from ``generator`` alone."""

    @abstractmethod
    def apply(self, x: "Tensor", drawn: "Tensor") -> "Tensor":
        """Return a new tensor: ``x`` [B, *input_shape] changed by ``drawn`` [B, ...]; never waits for the device."""


@dataclass(frozen=True)
class CropFlip(Augmentation):
    """Cut a window of the image's own size out of the padded image, and mirror it with probability ½."""

    padding: tuple[float, ...]
    """Value of border pixels, one a channel or one for all: a black pixel in the units of the prepared inputs."""
    margin: int = 4
    """Pixels of border on each side."""

    def draw(self, num_samples: int, generator: "torch.Generator") -> "Tensor":
        """Return top and left of the window, from 0 to twice the margin, and whether it is mirrored, [N, 3]."""
        import torch

        corners = torch.randint(2 * self.margin + 1, (num_samples, 2), generator=generator)
        mirrored = torch.randint(2, (num_samples, 1), generator=generator)
        return torch.cat([corners, mirrored], dim=1)

    def apply(self, x: "Tensor", drawn: "Tensor") -> "Tensor":
        """Return the windows [B, C, H, W]; raises ValueError for inputs that are not images with these channels."""
        import torch

        if x.ndim != 4 or len(self.padding) not in (1, x.shape[1]):
            raise ValueError(f"{self.name} takes images [B, {len(self.padding)}, H, W], not {list(x.shape)}")
        height, width = x.shape[2:]
        padded = x.new_empty((*x.shape[:2], height + 2 * self.margin, width + 2 * self.margin))
        for channel in range(x.shape[1]):
            padded[:, channel] = self.padding[channel % len(self.padding)]
        padded[:, :, self.margin : self.margin + height, self.margin : self.margin + width] = x
        top, left, mirrored = drawn.unbind(1)
        rows = top[:, None] + torch.arange(height, device=x.device)
        columns = torch.arange(width, device=x.device).expand(len(x), -1)
        columns = left[:, None] + torch.where(mirrored[:, None] == 1, columns.flip(1), columns)
        samples = torch.arange(len(x), device=x.device)[:, None, None, None]
        channels = torch.arange(x.shape[1], device=x.device)[:, None, None]
        return padded[samples, channels, rows[:, None, :, None], columns[:, None, None, :]]


_ALL: tuple[Augmentation, ...] = (
    CropFlip(
        "crop_flip",
        "random crop after a border of 4 zeros, and horizontal flip at probability ½ (He et al., 2016); for inputs in "
        "which a black pixel is 0",
        (0.0,),
    ),
    CropFlip(
        "crop_flip_cifar100",
        "random crop after a border of 4 black pixels, and horizontal flip at probability ½ (He et al., 2016); for "
        "CIFAR-100 standardised by its channels' means and deviations",
        tuple(-mean / std for mean, std in zip(CIFAR100_MEAN, CIFAR100_STD, strict=True)),
    ),
)
AUGMENTATIONS: Mapping[str, Augmentation] = {augmentation.name: augmentation for augmentation in _ALL}


def get_augmentation(name: str) -> Augmentation | None:
    """Return an augmentation by name, None for ""; raises UserError for an unknown one."""
    return lookup("augmentation", name, AUGMENTATIONS) if name else None
