"""Random changes of training inputs, by name.

Every epoch, parameters are drawn for all samples of the split, in order of their
indices. So they depend neither on the order of training nor on the sizes of batches.
Only training in the refine stage augments. Validation, test and the align stage use the
inputs unchanged, whereas ORCA's code aligns on augmented inputs.

To add an augmentation, add a table to ``augmentations.toml``, or declare an entry point
in another package. `Shift` has no name: the option ``refine.shift`` asks for it.

Letters: N samples of a split, B of a batch, C channels, H, W sides.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from orca_ray.discovery import tables, with_plug_ins
from orca_ray.errors import lookup

# Task modules import this one, and importing them all must stay cheap.
if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from orca_ray.tasks.task import Task


@dataclass(frozen=True)
class Augmentation(ABC):
    """A random change of inputs, in two steps.

    Parameters are drawn for a split, then applied to a batch on the device.
    """

    name: str
    """Name by which tasks refer to the augmentation."""
    definition: str
    """Definition in words, with its source."""

    @abstractmethod
    def draw(self, num_samples: int, generator: "torch.Generator") -> "Tensor":
        """Draw the parameters of all N samples of a split from ``generator`` alone.

        Return them [N, ...] on the CPU.
        """

    @abstractmethod
    def apply(self, x: "Tensor", drawn: "Tensor") -> "Tensor":
        """Return a copy of ``x`` [B, *input_shape] changed by ``drawn`` [B, ...].

        ``drawn`` are parameters. The device is not synchronised.
        """


@dataclass(frozen=True)
class CropFlip(Augmentation):
    """Augmentation: crop a random window of a padded image, and flip half of them.

    The window has the size of the image; the flip is horizontal.
    """

    padding: tuple[float, ...]
    """Value of the padding in each channel, or one for all channels: that of a black
    pixel in the prepared inputs.
    """
    margin: int = 4
    """Number of pixels padded on each side."""

    def draw(self, num_samples: int, generator: "torch.Generator") -> "Tensor":
        """Return windows and flips [N, 3].

        They are the top row and left column of each window, 0 to 2 * ``margin``, and 1
        if flipped, else 0.
        """
        import torch

        corners = torch.randint(
            2 * self.margin + 1, (num_samples, 2), generator=generator
        )
        mirrored = torch.randint(2, (num_samples, 1), generator=generator)
        return torch.cat([corners, mirrored], dim=1)

    def apply(self, x: "Tensor", drawn: "Tensor") -> "Tensor":
        """Return the cropped and flipped images [B, C, H, W].

        Raises ValueError if ``x`` is no batch of images, or if `padding` does not have
        a value for each channel.
        """
        import torch

        if x.ndim != 4 or len(self.padding) not in (1, x.shape[1]):
            raise ValueError(
                f"{self.name} takes images [B, {len(self.padding)}, H, W], not"
                f" {list(x.shape)}"
            )
        height, width = x.shape[2:]
        margin = self.margin
        padded = x.new_empty((*x.shape[:2], height + 2 * margin, width + 2 * margin))
        for channel in range(x.shape[1]):
            padded[:, channel] = self.padding[channel % len(self.padding)]
        padded[:, :, margin : margin + height, margin : margin + width] = x
        top, left, mirrored = drawn.unbind(1)
        rows = top[:, None] + torch.arange(height, device=x.device)
        places = torch.arange(width, device=x.device).expand(len(x), -1)
        places = torch.where(mirrored[:, None] == 1, places.flip(1), places)
        columns = left[:, None] + places
        samples = torch.arange(len(x), device=x.device)[:, None, None, None]
        channels = torch.arange(x.shape[1], device=x.device)[:, None, None]
        return padded[
            samples, channels, rows[:, None, :, None], columns[:, None, None, :]
        ]


@dataclass(frozen=True)
class Shift(Augmentation):
    """Augmentation: move an image by a random number of pixels along each side.

    The pixels at the edges of the image are repeated.
    """

    share: float
    """Largest move, as a share of the side; at least one pixel."""

    def draw(self, num_samples: int, generator: "torch.Generator") -> "Tensor":
        """Return the moves [N, 2] down and to the right, from 0 to 1.

        0 is the largest move up or left.
        """
        import torch

        return torch.rand(num_samples, 2, generator=generator)

    def apply(self, x: "Tensor", drawn: "Tensor") -> "Tensor":
        """Return the shifted images [B, C, H, W].

        All whole moves are equally likely.
        """
        import torch

        sources = []
        for side, position in zip(x.shape[2:], drawn.unbind(1), strict=True):
            most = max(1, int(self.share * side))
            # In float32, a position just below 1 could be rounded up to one move more.
            moves = (position.double() * (2 * most + 1)).long() - most
            places = torch.arange(side, device=x.device) - moves[:, None]
            sources.append(places.clamp(0, side - 1))
        rows, columns = sources
        samples = torch.arange(len(x), device=x.device)[:, None, None]
        pixels = x.movedim(1, 3)[samples, rows[:, :, None], columns[:, None, :]]
        return pixels.movedim(3, 1)


def get_shift(task: "Task", share: float) -> Shift | None:
    """Return the augmentation `Shift` for a task; None if it does not apply.

    It applies if ``share`` is above 0, and inputs are images with classes or labels. A
    scalar target may be a position in the image, which a shift would change.
    """
    is_image = task.input_shape is not None and len(task.input_shape) == 3
    has_classes = task.target.kind in ("classes", "labels")
    if share <= 0 or not is_image or task.domain == "audio" or not has_classes:
        return None
    return Shift("shift", "moved, edges repeated (Simard et al., 2003)", share)


@cache
def all_augmentations() -> Mapping[str, Augmentation]:
    """Return all augmentations by name, those of plug-ins last."""
    own = {
        name: CropFlip(name, **words)
        for name, words in tables("orca_ray.tasks", "augmentations.toml").items()
    }
    return with_plug_ins("augmentation", Augmentation, own)  # type: ignore[type-abstract] # only for isinstance


def get_augmentation(name: str) -> Augmentation | None:
    """Return an augmentation by name; None for "".

    Raises UserError for an unknown name.
    """
    return lookup("augmentation", name, all_augmentations()) if name else None
