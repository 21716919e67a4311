"""Source ``images`` for image bodies: random crops of ten photographs."""

from typing import TYPE_CHECKING

import numpy as np

from orca_ray.alignment.source import SampleRequest, Samples, Source
from orca_ray.data import packages
from orca_ray.data.packages import Package

if TYPE_CHECKING:
    from torch import Tensor

# Photographs that scikit-image ships; its data module states the origin of each one: CC0, or public domain (NASA's
# astronaut, SpaceX's rocket, the Brooklyn Museum's coins).
PACKAGE = Package(
    "scikit-image",
    "0.25.2",
    "24cc986e1f4187a12aa319f777b36008764e856e5013666a4a83f8df083c2641",
    "BSD-3-Clause; the images CC0 or public domain",
    15,
    wheel_tag="cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64",
)
_PNG = ("astronaut", "brick", "camera", "chelsea", "coffee", "coins", "grass", "gravel", "motorcycle_left")
FILES = (*(f"{name}.png" for name in _PNG), "rocket.jpg")


def sample(request: SampleRequest) -> Samples:
    """Return features and labels of random crops; the label is the index of the photograph, equally many crops of each.

    A crop is a square with 0.3 to 1 times the photograph's shorter side; half of the crops are mirrored.
    """
    import torch

    from orca_ray.alignment.image_features import embed, read_photograph

    photographs = [read_photograph(packages.read_member(PACKAGE, f"skimage/data/{file}")) for file in FILES]
    random = np.random.RandomState(request.seed)
    labels = random.permutation(np.arange(request.num_samples) % len(photographs))
    return embed(request, (_crop(photographs[label], random) for label in labels)), torch.from_numpy(labels)


def _crop(image_CHW: "Tensor", random: np.random.RandomState) -> "Tensor":
    height, width = image_CHW.shape[1:]
    side = int(min(height, width) * random.uniform(0.3, 1.0))
    top, left = random.randint(height - side + 1), random.randint(width - side + 1)
    crop = image_CHW[:, top : top + side, left : left + side]
    return crop.flip(-1) if random.rand() < 0.5 else crop


SOURCE = Source(name="images", modality="image", sample=sample, packages=(PACKAGE,))
