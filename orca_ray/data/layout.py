"""Layout of prepared data: array names, fingerprint, ``meta.json``, and the protection of a user's directory."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from orca_ray.data import cache
from orca_ray.data.rows import Rows, row_slices
from orca_ray.data.workspace import Workspace
from orca_ray.errors import UserError

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array | Rows]
"""Arrays by name: ``train_x``, ``train_y``, ``validation_x``, …, ``test_y``, and the others of `ALLOWED`."""
Build = Callable[[Workspace], Arrays]
SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
STATISTICS = ("y_mean", "y_std")
REQUIRED = tuple(f"{split}_{axis}" for split in SPLITS for axis in "xy")
GROUPS = tuple(f"{split}_group" for split in SPLITS)
ALLOWED = (*REQUIRED, *GROUPS, *STATISTICS)

META = "meta.json"


class Damaged(Exception):
    """The content of a directory differs from its ``meta.json``."""


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
    """Return the arrays that are written to files: plain arrays, and the parts of composite rows by name."""
    written: dict[str, Array] = {}
    for key, array in arrays.items():
        if isinstance(array, np.ndarray):
            written[key] = array
        else:
            parts: Mapping[str, Array] = getattr(array, "parts")  # noqa: B009 - composite rows have them
            written |= {f"{key}.{part}": value for part, value in parts.items()}
    return written


def read_meta(directory: Path) -> dict[str, Any]:
    """Return the content of ``meta.json``; raises `Damaged` if it is missing or invalid."""
    path = directory / META
    try:
        with cache.open_file(path) as stream:
            meta = json.load(stream)
        if not isinstance(meta["fingerprint"], str) or not isinstance(meta["arrays"], dict):
            raise TypeError("unexpected types")
        for entry in meta["arrays"].values():
            entry["dtype"], entry["shape"], entry["bytes"], entry["sha256"]
    except (UserError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise Damaged(f"{path} is unreadable ({type(error).__name__}: {error})") from error
    return dict(meta)


def described(meta: Mapping[str, Any]) -> set[str]:
    """Return the names of the files that belong to the data."""
    return {META, *(f"{key}.npy" for key in meta["arrays"])}


def refuse_foreign(name: str, directory: Path, identity: str) -> None:
    """Raise UserError if ``directory`` holds anything but the data that would be written there."""
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return
    try:
        meta = read_meta(directory)
    except Damaged:
        raise UserError(
            f"{directory} is not empty and holds no prepared data, so {name} is not written there: name a new directory"
        ) from None
    if meta.get("name") != name:
        raise UserError(f"{directory} holds the prepared data of {meta.get('name')}: name another directory for {name}")
    if meta.get("identity") != identity:
        raise UserError(
            f"{directory} holds {name} prepared from other raw files, by another version or under another protocol: "
            "name another directory, or remove that one"
        )


def refuse_replacing(name: str, directory: Path, identity: str) -> None:
    """Raise UserError if ``directory`` cannot be replaced by a new one, or holds anything that would be lost."""
    refuse_foreign(name, directory, identity)
    if not directory.exists():
        return
    if directory.samefile(os.curdir):
        raise UserError(
            f"{directory} is the working directory, which cannot be replaced: name a directory in it, such as "
            f"{name.split('/')[-1]}"
        )
    if os.path.ismount(directory):
        raise UserError(f"{directory} is a mount point, which cannot be replaced: name a directory in it")
    if not any(directory.iterdir()):
        return
    if others := sorted({path.name for path in directory.iterdir()} - described(read_meta(directory))):
        raise UserError(
            f"{directory} also holds {', '.join(others[:5])}{' …' if len(others) > 5 else ''}, which would be removed "
            f"with it when {name} is prepared again: move that away, or name another directory"
        )
