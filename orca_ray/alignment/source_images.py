"""Sources for image bodies: crops of natural images.

Letters: N images, C = 3 colours, H and W pixels, D token width.
"""

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from orca_ray.data import packages
from orca_ray.data.packages import Package
from orca_ray.models.body import Stem
from orca_ray.models.vision import ImageStem

_BATCH = 64


@dataclass(frozen=True)
class _Images:
    package: Package
    folder: str
    files: tuple[str, ...]


# Photographs that scikit-image ships; its data module gives each one's origin: CC0, or public domain (NASA's astronaut,
# SpaceX's rocket, the Brooklyn Museum's coins).
IMAGES = _Images(
    Package(
        "scikit-image",
        "0.25.2",
        "24cc986e1f4187a12aa319f777b36008764e856e5013666a4a83f8df083c2641",
        "BSD-3-Clause; the images CC0 or public domain",
        "ten photographs",
        15,
        wheel_tag="cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64",
    ),
    "skimage/data",
    (
        "astronaut.png",
        "brick.png",
        "camera.png",
        "chelsea.png",
        "coffee.png",
        "coins.png",
        "grass.png",
        "gravel.png",
        "motorcycle_left.png",
        "rocket.jpg",
    ),
)


def draw_images(stem: Stem, image_size: int, num_samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return features [N, D] and labels [N] of random crops of ten photographs; the label is the photograph.

    A crop is a square of 0.3 to 1 of the photograph's shorter side, half of them mirrored, resized to ``image_size``.
    Labels are balanced.
    """
    photographs = [read_photograph(packages.read_member(IMAGES.package, f"{IMAGES.folder}/{f}")) for f in IMAGES.files]
    random = np.random.RandomState(seed)
    labels = random.permutation(np.arange(num_samples) % len(photographs))
    size = embedded_size(stem, image_size)
    crops = (_crop(photographs[label], size, random) for label in labels)
    return embed(stem, crops, size), torch.from_numpy(labels)


def read_photograph(data: bytes) -> Tensor:
    """Decode an image file as [3, H, W] in 0 … 1."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    return torch.from_numpy(pixels / 255.0).permute(2, 0, 1)


def _crop(image_CHW: Tensor, size: int, random: np.random.RandomState) -> Tensor:
    """Cut out one random square and resize it to [3, size, size]."""
    height, width = image_CHW.shape[1:]
    side = int(min(height, width) * random.uniform(0.3, 1.0))
    top, left = random.randint(height - side + 1), random.randint(width - side + 1)
    crop = image_CHW[:, top : top + side, left : left + side]
    if random.rand() < 0.5:
        crop = crop.flip(-1)
    return resize(crop, size)


def resize(image_CHW: Tensor, size: int) -> Tensor:
    """Resize [3, H, W] in 0 … 1 to [3, size, size]."""
    return F.interpolate(image_CHW[None], size=(size, size), mode="bilinear", antialias=True)[0].clamp(0, 1)


def embedded_size(stem: Stem, image_size: int) -> int:
    """Round to a whole number of patches, as the embedder does."""
    assert isinstance(stem, ImageStem), "image sources are for image bodies"
    return max(1, round(image_size / stem.patch_size)) * stem.patch_size


def embed(stem: Stem, images: Iterable[Tensor], size: int) -> Tensor:
    """Normalise images [3, size, size] in 0 … 1 as the body does, embed them, and take the mean over tokens."""
    assert isinstance(stem, ImageStem)
    mean_C, std_C = (torch.tensor(values).view(3, 1, 1) for values in (stem.image_mean, stem.image_std))
    features = []
    for batch in _batches(images):
        features.append(stem.embed_images((torch.stack(batch) - mean_C) / std_C).mean(1))
    return torch.cat(features)


def _batches(images: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    batch: list[Tensor] = []
    for image in images:
        batch.append(image)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
