"""Sources for image bodies that the paper and its followers align to: CIFAR-10 and Tiny ImageNet."""

import re
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from orca_ray.alignment.source_images import embed, embedded_size, read_photograph, resize
from orca_ray.data import safe_pickle
from orca_ray.data.raw import RawFile
from orca_ray.errors import UserError
from orca_ray.models.body import Stem

CIFAR10 = RawFile(
    path="cifar-10-python.tar.gz",
    urls=("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",),
    md5="c58f30108f718f92721af3b95e74349a",
    num_bytes=170_000_000,
)
IMAGENET200 = RawFile(
    path="tiny-imagenet-200.zip", urls=("http://cs231n.stanford.edu/tiny-imagenet-200.zip",), num_bytes=248_000_000
)
_TRAINING_IMAGE = re.compile(r"tiny-imagenet-200/train/(?P<name>n\d+)/images/[^/]+\.JPEG")


def draw_cifar10(stem: Stem, path: Path, image_size: int, num_samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return features [N, D] and labels [N] of CIFAR-10 training images, resized to ``image_size``."""
    pixels_NCHW, labels = read_cifar10(path, num_samples)
    order = np.random.RandomState(seed).permutation(len(labels))[:num_samples]
    size = embedded_size(stem, image_size)
    images = (resize(torch.from_numpy(pixels_NCHW[i].astype(np.float32) / 255.0), size) for i in order)
    return embed(stem, images, size), torch.from_numpy(labels[order])


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
                member = f"cifar-10-batches-py/data_batch_{number}"
                file = archive.extractfile(member)
                assert file is not None
                batch = safe_pickle.load(file, f"{path}, {member}", encoding="bytes")  # type: ignore[arg-type]
                pixels.append(np.asarray(batch[b"data"], dtype=np.uint8).reshape(-1, 3, 32, 32))
                labels += [int(label) for label in batch[b"labels"]]
    except UserError:
        raise
    except Exception as error:  # a damaged archive raises almost anything
        raise UserError(f"{path} is not the archive of CIFAR-10 in its Python version: {error}") from error
    return np.concatenate(pixels), np.asarray(labels, dtype=np.int64)


def draw_imagenet200(stem: Stem, path: Path, image_size: int, num_samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return features [N, D] and labels [N] of Tiny ImageNet's training images, as many of each of its classes as fit.

    Images are read from the archive as it is, resized to ``image_size``; classes are numbered by their WordNet names.

    Raises:
        UserError: for a file that is no such archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            found = [match for match in map(_TRAINING_IMAGE.fullmatch, archive.namelist()) if match]
            if not found:
                raise UserError(f"{path} holds no training image of Tiny ImageNet (tiny-imagenet-200/train/…)")
            classes = sorted({match["name"] for match in found})
            chosen = _balanced([classes.index(match["name"]) for match in found], num_samples, seed)
            size = embedded_size(stem, image_size)
            features = embed(stem, _images(archive, [found[i].string for i in chosen], size), size)
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{path} is not the archive of Tiny ImageNet: {error}") from error
    return features, torch.tensor([classes.index(found[i]["name"]) for i in chosen])


def _images(archive: zipfile.ZipFile, members: list[str], size: int) -> Iterator[Tensor]:
    for member in members:
        yield resize(read_photograph(archive.read(member)), size)


def _balanced(labels: list[int], num_samples: int, seed: int) -> list[int]:
    """Return indices of samples: the first of each class in a drawn order, the second, and so on."""
    order = np.random.RandomState(seed).permutation(len(labels))
    seen: dict[int, int] = {}
    turns = []
    for index in order:
        turns.append(seen.get(labels[index], 0))
        seen[labels[index]] = turns[-1] + 1
    return [int(order[place]) for place in np.argsort(turns, kind="stable")[:num_samples]]
