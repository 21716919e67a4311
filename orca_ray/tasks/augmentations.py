"""What training does to its inputs at random, by name.

Drawn anew every epoch for every sample of the split, by its index, so that what a sample looks like depends neither on
the order of the samples nor on the sizes of batches and passes. Only training passes of the refine stage augment:
validation and test see the inputs as they are, and so does the align stage, which compares distributions of features
(the reference aligns on what its loader yields, augmented).

A new augmentation is one new entry of `AUGMENTATIONS`. Letters: N samples of a split, B of a pass, C channels, H, W.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from orca_ray.errors import unknown_name

if TYPE_CHECKING:  # task modules import this one, and importing them all must stay cheap
    import torch
    from torch import Tensor

CIFAR100_MEAN = (0.5071, 0.4867, 0.4408)
"""Of the channels of CIFAR-100's training images, in units of the largest pixel value."""
CIFAR100_STD = (0.2675, 0.2565, 0.2761)


class Augmentation(Protocol):
    """Random changes of inputs, in two steps: what is drawn, and what that does to a pass on the device."""

    @property
    def name(self) -> str:
        """Name in `AUGMENTATIONS`."""
        ...

    @property
    def definition(self) -> str:
        """What it does, in words, with its source."""
        ...

    def draw(self, num_samples: int, generator: "torch.Generator") -> "Tensor":
        """Return what is drawn for every sample of a split [N, ...], on the CPU, from ``generator`` alone."""
        ...

    def apply(self, x: "Tensor", drawn: "Tensor") -> "Tensor":
        """Return the inputs ``x`` [B, *input_shape] changed as ``drawn`` [B, ...] says, on their device.

        A new tensor: the rows of ``x`` may be the data set itself. Waits for no device.
        """
        ...


@dataclass(frozen=True)
class CropFlip:
    """Cut a window of the image's own size out of the padded image, and mirror it left to right every other time."""

    name: str
    definition: str
    padding: tuple[float, ...]
    """What a border pixel holds, a channel or one for all: a black pixel in the units of the prepared inputs."""
    margin: int = 4
    """Pixels of border on each side."""

    def draw(self, num_samples: int, generator: "torch.Generator") -> "Tensor":
        """Return the window's top and left corner, from 0 to twice the margin, and whether it is mirrored [N, 3]."""
        import torch

        corners = torch.randint(2 * self.margin + 1, (num_samples, 2), generator=generator)
        mirrored = torch.randint(2, (num_samples, 1), generator=generator)
        return torch.cat([corners, mirrored], dim=1)

    def apply(self, x: "Tensor", drawn: "Tensor") -> "Tensor":
        """Return the windows [B, C, H, W]; raises ``ValueError`` for inputs that are no images of these channels."""
        import torch

        if x.ndim != 4 or len(self.padding) not in (1, x.shape[1]):
            raise ValueError(f"{self.name} takes images [B, {len(self.padding)}, H, W], not {list(x.shape)}")
        padded = self._padded(x)
        top, left, mirrored = drawn.unbind(1)
        rows = top[:, None] + torch.arange(x.shape[2], device=x.device)
        columns = torch.arange(x.shape[3], device=x.device).expand(len(x), -1)
        columns = left[:, None] + torch.where(mirrored[:, None] == 1, columns.flip(1), columns)
        samples = torch.arange(len(x), device=x.device)[:, None, None, None]
        channels = torch.arange(x.shape[1], device=x.device)[:, None, None]
        return padded[samples, channels, rows[:, None, :, None], columns[:, None, None, :]]

    def _padded(self, x_BCHW: "Tensor") -> "Tensor":
        height, width = x_BCHW.shape[2:]
        padded = x_BCHW.new_empty((*x_BCHW.shape[:2], height + 2 * self.margin, width + 2 * self.margin))
        for channel in range(x_BCHW.shape[1]):
            padded[:, channel] = self.padding[channel % len(self.padding)]
        padded[:, :, self.margin : self.margin + height, self.margin : self.margin + width] = x_BCHW
        return padded


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
    """Return an augmentation by name, None for ""; raises :class:`UserError` naming the nearest one."""
    if not name:
        return None
    if name not in AUGMENTATIONS:
        raise unknown_name("augmentation", name, AUGMENTATIONS)
    return AUGMENTATIONS[name]
