"""Source ``photographs`` for image bodies: random crops of 30 photographs, labelled by what they show."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from orca_ray.alignment.source import SampleRequest, Samples, Source, embed_images, read_photograph
from orca_ray.data import packages
from orca_ray.data.packages import Package

if TYPE_CHECKING:
    from torch import Tensor

# scikit-image's data module states the origin of each photograph: CC0, or public domain (NASA's astronaut, SpaceX's
# rocket, the Brooklyn Museum's coins). Those of foolbox are examples of ImageNet's classes.
SCIKIT_IMAGE = Package(
    "scikit-image",
    "0.25.2",
    "24cc986e1f4187a12aa319f777b36008764e856e5013666a4a83f8df083c2641",
    "BSD-3-Clause; the images CC0 or public domain",
    15,
    wheel_tag="cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64",
)
FOOLBOX = Package(
    "foolbox",
    "3.3.4",
    "11049d515d38e765e206a73ace9cc648b81a0d6d1da9ad9057e149ee117989cb",
    "MIT (package); the images are of ImageNet, for research",
    2,
)
CLASSES: Mapping[str, tuple[str, ...]] = {
    "birds": ("imagenet_14_129.jpg", "imagenet_15_99.jpg", "imagenet_17_22.jpg"),
    "buildings": ("imagenet_05_853.jpg", "imagenet_08_915.jpg", "imagenet_12_741.jpg"),
    "fruit": ("imagenet_03_990.jpg", "imagenet_04_949.jpg"),
    "ground": ("brick.png", "grass.png", "gravel.png"),
    "household": (
        "coffee.png", "coins.png", "imagenet_01_559.jpg", "imagenet_02_438.jpg", "imagenet_09_455.jpg",
        "imagenet_10_541.jpg", "imagenet_11_630.jpg",
    ),
    "insects": ("imagenet_18_317.jpg", "imagenet_19_305.jpg"),
    "machines": (
        "imagenet_06_609.jpg", "imagenet_07_609.jpg", "imagenet_13_471.jpg", "motorcycle_left.png", "rocket.jpg",
    ),
    "people": ("astronaut.png", "camera.png"),
    "pets": ("chelsea.png", "imagenet_00_243.jpg", "imagenet_16_251.jpg"),
}  # fmt: skip
"""Photographs of each class; the label of a crop is the index of its class."""


def sample(request: SampleRequest) -> Samples:
    """Return features [N, D] and labels [N] of random crops, equally many of each class and of each photo of a class.

    A crop is a square with 0.3 to 1 times the photograph's shorter side; half of the crops are mirrored.
    """
    import torch

    random = np.random.RandomState(request.seed)
    labels = random.permutation(np.arange(request.num_samples) % len(CLASSES))
    return embed_images(request, _crops(labels, random)), torch.from_numpy(labels)


def _crops(labels: np.ndarray[Any, Any], random: np.random.RandomState) -> Iterator["Tensor"]:
    """Yield a crop for each class index in ``labels``; crops of a class take its photographs in turn."""
    photographs = [[_read(file) for file in files] for files in CLASSES.values()]
    drawn: Counter[int] = Counter()
    for label in labels:
        files = photographs[label]
        yield _crop(files[drawn[label] % len(files)], random)
        drawn[label] += 1


def _read(file: str) -> "Tensor":
    package, folder = (FOOLBOX, "foolbox") if file.startswith("imagenet_") else (SCIKIT_IMAGE, "skimage")
    return read_photograph(packages.read_member(package, f"{folder}/data/{file}"))


def _crop(image_CHW: "Tensor", random: np.random.RandomState) -> "Tensor":
    height, width = image_CHW.shape[1:]
    side = int(min(height, width) * random.uniform(0.3, 1.0))
    top, left = random.randint(height - side + 1), random.randint(width - side + 1)
    crop = image_CHW[:, top : top + side, left : left + side]
    return crop.flip(-1) if random.rand() < 0.5 else crop


SOURCE = Source(name="photographs", modality="image", sample=sample, packages=(FOOLBOX, SCIKIT_IMAGE))
