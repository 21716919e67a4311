"""Source ``photographs`` for image bodies: random crops of 30 photographs.

A crop's label says what the photograph shows.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from orca_ray.alignment.source import (
    SampleRequest,
    Samples,
    Source,
    embed_images,
    read_photograph,
)
from orca_ray.data import packages
from orca_ray.data.packages import Package
from orca_ray.discovery import tables

if TYPE_CHECKING:
    from torch import Tensor

_LISTED = tables("orca_ray.alignment.sources", "photographs.toml")
"""Tables of ``photographs.toml``: both packages, and the photographs of each class."""
SCIKIT_IMAGE = Package(**_LISTED["scikit_image"])
"""Package with photographs in ``skimage/data``."""
FOOLBOX = Package(**_LISTED["foolbox"])
"""Package with photographs of ImageNet in ``foolbox/data``."""
CLASSES: Mapping[str, tuple[str, ...]] = _LISTED["classes"]
"""Photographs of each class; the label of a crop is the index of its class."""


def sample(request: SampleRequest) -> Samples:
    """Return features [N, D] and labels [N] of random crops of photographs.

    Classes have equally many crops, and so have the photographs of a class. A crop is a
    square with 0.3 to 1 times the photograph's shorter side; half of the crops are
    mirrored.
    """
    import torch

    random = np.random.RandomState(request.seed)
    labels = random.permutation(np.arange(request.num_samples) % len(CLASSES))
    return embed_images(request, _crops(labels, random)), torch.from_numpy(labels)


def _crops(
    labels: np.ndarray[Any, Any], random: np.random.RandomState
) -> Iterator["Tensor"]:
    """Yield a crop for each class index in ``labels``.

    Crops of a class take its photographs in turn.
    """
    photographs = [[_read(file) for file in files] for files in CLASSES.values()]
    drawn: Counter[int] = Counter()
    for label in labels:
        files = photographs[label]
        yield _crop(files[drawn[label] % len(files)], random)
        drawn[label] += 1


def _read(file: str) -> "Tensor":
    if file.startswith("imagenet_"):
        content = packages.read_member(FOOLBOX, f"foolbox/data/{file}")
    else:
        content = packages.read_member(SCIKIT_IMAGE, f"skimage/data/{file}")
    return read_photograph(content)


def _crop(image_CHW: "Tensor", random: np.random.RandomState) -> "Tensor":
    height, width = image_CHW.shape[1:]
    side = int(min(height, width) * random.uniform(0.3, 1.0))
    top = random.randint(height - side + 1)
    left = random.randint(width - side + 1)
    crop = image_CHW[:, top : top + side, left : left + side]
    return crop.flip(-1) if random.rand() < 0.5 else crop


SOURCE = Source(
    name="photographs",
    modality="image",
    sample=sample,
    packages=(FOOLBOX, SCIKIT_IMAGE),
)
