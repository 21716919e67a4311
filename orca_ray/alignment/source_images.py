"""Sources for image bodies: crops of natural images, and CIFAR-10.

Letters: N images, C = 3 colours, H and W pixels, D token width.
"""

import io
import pickle
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from orca_ray.data import packages
from orca_ray.data.packages import Package
from orca_ray.errors import UserError
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
    photographs = [_photograph(packages.read_member(IMAGES.package, f"{IMAGES.folder}/{f}")) for f in IMAGES.files]
    random = np.random.RandomState(seed)
    labels = random.permutation(np.arange(num_samples) % len(photographs))
    size = _embedded_size(stem, image_size)
    crops = (_crop(photographs[label], size, random) for label in labels)
    return _embed(stem, crops, size), torch.from_numpy(labels)


def _photograph(data: bytes) -> Tensor:
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
    return _resize(crop, size)


def _resize(image_CHW: Tensor, size: int) -> Tensor:
    return F.interpolate(image_CHW[None], size=(size, size), mode="bilinear", antialias=True)[0].clamp(0, 1)


def _embedded_size(stem: Stem, image_size: int) -> int:
    """Round to a whole number of patches, as the embedder does."""
    assert isinstance(stem, ImageStem), "image sources are for image bodies"
    return max(1, round(image_size / stem.patch_size)) * stem.patch_size


def _embed(stem: Stem, images: Iterable[Tensor], size: int) -> Tensor:
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


def draw_cifar10(stem: Stem, path: Path, image_size: int, num_samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return features [N, D] and labels [N] of CIFAR-10 training images, resized to ``image_size``."""
    pixels_NCHW, labels = read_cifar10(path, num_samples)
    order = np.random.RandomState(seed).permutation(len(labels))[:num_samples]
    size = _embedded_size(stem, image_size)
    images = (_resize(torch.from_numpy(pixels_NCHW[i].astype(np.float32) / 255.0), size) for i in order)
    return _embed(stem, images, size), torch.from_numpy(labels[order])


def read_cifar10(path: Path, num_samples: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Read as many of the five training batches as hold ``num_samples``: pixels [N, 3, 32, 32] uint8, labels [N].

    Raises:
        UserError: for a file that is no such archive, or whose pickles hold more than arrays and plain containers.
    """
    pixels: list[np.ndarray[Any, Any]] = []
    labels: list[int] = []
    try:
        with tarfile.open(path, "r:gz") as archive:
            for number in range(1, 6):
                if len(labels) >= num_samples:
                    break
                file = archive.extractfile(f"cifar-10-batches-py/data_batch_{number}")
                assert file is not None
                batch = _ArraysOnly(file, encoding="bytes").load()
                pixels.append(np.asarray(batch[b"data"], dtype=np.uint8).reshape(-1, 3, 32, 32))
                labels += [int(label) for label in batch[b"labels"]]
    except UserError:
        raise
    except Exception as error:  # a damaged archive or pickle raises almost anything
        raise UserError(f"{path} is not the archive of CIFAR-10 in its Python version: {error}") from error
    return np.concatenate(pixels), np.asarray(labels, dtype=np.int64)


class _ArraysOnly(pickle.Unpickler):
    """Loads numpy arrays and plain containers, and refuses every other global by name."""

    _ALLOWED = frozenset(
        [(f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")]
        + [(f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")]
        + [("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")]
    )

    def __init__(self, file: IO[bytes], encoding: str) -> None:
        super().__init__(file, encoding=encoding)

    def find_class(self, module: str, name: str) -> Any:
        """Return the allowed global, or raise UserError."""
        if (module, name) not in self._ALLOWED:
            raise UserError(f"refused to load {module}.{name} from a pickle: only numpy arrays may come out of it")
        # `numpy.core` warns in numpy 2; both names are the same objects.
        return super().find_class(module.replace("numpy.core.", "numpy._core."), name)
