"""What several tasks of the benchmark share: hosts, bodies, checks of what a file holds, inputs filled in batches."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from orca_ray.data import splits
from orca_ray.data.prepared import SplitName
from orca_ray.data.raw import RawFile
from orca_ray.data.readers import refuse_labels, refuse_shape
from orca_ray.data.rows import Array
from orca_ray.data.workspace import Workspace
from orca_ray.errors import UserError

logger = logging.getLogger(__name__)

BENCHMARK_PAPER = "Tu et al., NAS-Bench-360: benchmarking neural architecture search on diverse tasks, NeurIPS 2022"

_HOST = "https://pde-xd.s3.amazonaws.com"
_BATCH_BYTES = 64 * 2**20


def hosted(path: str, at: str, num_bytes: int) -> RawFile:
    """Return a raw file that the benchmark itself hosts, without a published checksum, under ``at``."""
    return RawFile(path=path, urls=(f"{_HOST}/{at}",), num_bytes=num_bytes)


def entries(path: Path, content: Any, *keys: str) -> list[Any]:
    """Return the values of ``keys`` of a mapping that was read; raises UserError naming what it lacks."""
    if not isinstance(content, dict):
        found = type(content).__name__
        raise UserError(f"{path}: expected a mapping with the keys {', '.join(keys)}, found {found}")
    if absent := [key for key in keys if key not in content]:
        found = ", ".join(repr(key) for key in content) or "none"
        raise UserError(f"{path}: the key {absent[0]!r} is missing; expected {', '.join(keys)}, found {found}")
    return [content[key] for key in keys]


def numbers(path: Path, field: str, value: Any, shape: tuple[int | None, ...], kinds: str = "biuf") -> Array:
    """Return ``value`` if it is an array of numbers of that shape (None: any length); raises UserError otherwise."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in kinds:
        found = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
        raise UserError(f"{path}: {field} must be an array of numbers (dtype kinds {kinds}), found {found}")
    refuse_shape(path, field, value, shape)
    return value


def class_labels(path: Path, field: str, value: Any, count: int, num_classes: int, *, first: int = 0) -> Array:
    """Return classes [count] int64 from 0 of whole numbers ``first`` … ``first + num_classes - 1``.

    Raises:
        UserError: another number of labels, fractions, or one out of range.
    """
    y = np.asarray(value) if isinstance(value, list) and all(np.ndim(each) == 0 for each in value) else value
    y = numbers(path, field, y, (count,), "iuf")
    refuse_labels(path, field, y, first, first + num_classes - 1)
    labels: Array = y.astype(np.int64) - first
    return labels


def carve(labels: Array, num_validation: int, seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Draw validation out of a published training set: ascending indices of what stays and of what is drawn.

    Every class has its share in both. Raises UserError where too few samples are there.
    """
    kept, drawn = splits.stratified_split(labels, (len(labels) - num_validation, num_validation), seed)
    return np.sort(kept), np.sort(drawn)


def filled(
    workspace: Workspace,
    split: SplitName,
    shape: tuple[int, ...],
    indices: npt.NDArray[np.int64],
    rows: Callable[[npt.NDArray[np.int64]], Array],
) -> Array:
    """Return inputs [len(indices), *shape] float32 on the disk, filled from ``rows(indices [b])`` batch by batch."""
    x = workspace.array(f"{split}_x", (len(indices), *shape))
    size = max(1, _BATCH_BYTES // (4 * int(np.prod(shape))))
    for part in workspace.batches(split, len(indices), size, x):
        x[part] = rows(indices[part])
    return x


def tell_fewer(path: Path, found: int, published: int) -> None:
    """Log where a file holds fewer samples than the published one: scores on them compare with nothing published."""
    if found < published:
        logger.warning("%s holds %d samples; the published file has %d", path, found, published)
