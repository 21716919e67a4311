"""What the arrays of a task are called, how they are written, and what tells their contents apart."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from orca_ray.data.rows import Rows, row_slices
from orca_ray.data.workspace import Workspace

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array | Rows]
"""Arrays by name: ``train_x``, ``train_y``, ``validation_x``, …, ``test_y``, and what else `ALLOWED` says."""
Build = Callable[[Workspace], Arrays]
SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
STATISTICS = ("y_mean", "y_std")
REQUIRED = tuple(f"{split}_{axis}" for split in SPLITS for axis in "xy")
GROUPS = tuple(f"{split}_group" for split in SPLITS)
ALLOWED = (*REQUIRED, *GROUPS, *STATISTICS)

META = "meta.json"


def fingerprint(arrays: Arrays) -> str:
    """Return 16 hex digits over the names, types, shapes and bytes of the arrays."""
    digest = hashlib.sha256()
    for name, array in sorted(stored(arrays).items()):
        little = array.dtype.newbyteorder("<")
        digest.update(f"{name} {little.str} {array.shape}\n".encode())
        if array.ndim == 0:
            digest.update(array.astype(little).tobytes())
            continue
        for rows in row_slices(array):
            digest.update(np.ascontiguousarray(array[rows]).astype(little, copy=False).tobytes())
    return digest.hexdigest()[:16]


def stored(arrays: Arrays) -> dict[str, Array]:
    """Return what is written of the arrays: those themselves, and the parts of composite rows by name."""
    written: dict[str, Array] = {}
    for key, array in arrays.items():
        if isinstance(array, np.ndarray):
            written[key] = array
        else:
            parts: Mapping[str, Array] = getattr(array, "parts")  # noqa: B009 - composite rows have them
            written |= {f"{key}.{part}": value for part, value in parts.items()}
    return written
