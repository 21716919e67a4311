"""CIFAR-100: photographs of 100 classes.

They are images of 32×32 pixels, and the same projected onto a sphere. ``cifar100`` is
standardised by channel. As in ORCA's code, random crops pad images with black pixels,
which are not 0 after standardisation, so the task has its own augmentation,
``crop_flip_cifar100``. In ``spherical``, images are projected onto the northern
hemisphere, the sphere is rotated at random, and inputs are its maps of 60×60 points.
"""

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from orca_ray.data import safe_pickle
from orca_ray.data.archives import open_gzip
from orca_ray.errors import UserError
from orca_ray.tasks.nasbench360._shared import (
    check_numbers,
    class_labels,
    get_entries,
    published_splits,
)
from orca_ray.tasks.task import Array, Arrays, Workspace

ARCHIVE = "cifar-100-python.tar.gz"
SPHERICAL_FILE = "s2_cifar100.gz"
SHAPE = (3, 32, 32)
SPHERICAL_SHAPE = (3, 60, 60)
NUM_CLASSES = 100

_MEAN = np.array((0.5071, 0.4867, 0.4408), np.float32)[:, None, None]
"""Mean of each channel, relative to the largest pixel value."""
_STD = np.array((0.2675, 0.2565, 0.2761), np.float32)[:, None, None]
"""Standard deviation of each channel, relative to the largest pixel value."""
_PARTS = ("train", "test")
_MOST_BYTES = 2**29
"""Limit for the unpacked archive, which has 186 MB."""


def _build(workspace: Workspace) -> Arrays:
    """Return the arrays of CIFAR-100, standardised by the statistics of each colour."""
    path = workspace.file(ARCHIVE)
    contents = _unpickled(path)
    train, test = (
        _images(path, part, contents[part], ("data", "fine_labels"), SHAPE)
        for part in _PARTS
    )
    return published_splits(
        workspace, path, train, test, lambda x: np.asarray((_scaled(x) - _MEAN) / _STD)
    )


def _build_spherical(workspace: Workspace) -> Arrays:
    """Return the arrays of Spherical CIFAR-100, CIFAR-100 projected onto a sphere."""
    path = workspace.file(SPHERICAL_FILE)
    with open_gzip(path) as stream:
        content = safe_pickle.load(cast(BinaryIO, stream), str(path))
    train, test = (
        _images(path, part, images, ("images", "labels"), SPHERICAL_SHAPE)
        for part, images in zip(
            _PARTS, get_entries(path, content, *_PARTS), strict=True
        )
    )
    return published_splits(workspace, path, train, test, _scaled)


def _scaled(images: Array) -> Array:
    return np.asarray(images.astype(np.float32) / np.float32(255))


def _unpickled(path: Path) -> dict[str, Any]:
    """Return the content of each file of `_PARTS` in CIFAR-100's archive."""
    with open_gzip(path) as stream:
        content = io.BytesIO(stream.read(_MOST_BYTES + 1))
    if content.getbuffer().nbytes > _MOST_BYTES:
        raise UserError(
            f"{path} unfolds to more than {_MOST_BYTES} bytes; expected the python"
            " CIFAR-100"
        )
    try:
        with tarfile.open(fileobj=content, mode="r:") as archive:
            members = {member.name: member for member in archive if member.isreg()}
            return {part: _part(path, archive, members, part) for part in _PARTS}
    except tarfile.TarError as error:
        raise UserError(
            f"{path} is no gzip'd tar archive ({error}); expected the python CIFAR-100"
        ) from error


def _part(
    path: Path,
    archive: tarfile.TarFile,
    members: Mapping[str, tarfile.TarInfo],
    part: str,
) -> Any:
    """Return the content of the file ``part`` of CIFAR-100's archive."""
    name = f"cifar-100-python/{part}"
    if name not in members:
        raise UserError(
            f"{path}: the archive has no file {name}; expected the python CIFAR-100"
        )
    stream = cast(BinaryIO, archive.extractfile(members[name]))
    return safe_pickle.load(stream, f"{path}, {name}")


def _images(
    path: Path, part: str, content: Any, fields: tuple[str, str], shape: tuple[int, ...]
) -> tuple[Array, Array]:
    """Return images uint8 [N, *shape] and classes [N] from ``content``.

    CIFAR-100's own file has flat images.
    """
    images, labels = get_entries(path, content, *fields)
    image_field, label_field = (f"{field} of {part}" for field in fields)
    stored_shape = (3 * 32 * 32,) if shape == SHAPE else shape
    pixels = check_numbers(path, image_field, images, (None, *stored_shape), "u")
    y = class_labels(path, label_field, labels, len(pixels), NUM_CLASSES)
    return pixels.reshape(-1, *shape), y
