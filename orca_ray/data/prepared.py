"""Prepared task data: plain ``.npy`` files, memory-mapped, shared by all processes of a node, with a fingerprint.

Layout: ``prepared/<name>/<version>/{train,validation,test}_{x,y}.npy`` and ``meta.json``. A directory appears at once
and whole; it is written by one process while others wait.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from orca_ray.data import cache
from orca_ray.errors import UserError

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]
SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
STATISTICS = ("y_mean", "y_std")

_META = "meta.json"


@dataclass(frozen=True)
class Split:
    """One split: ``x`` [N, *input_shape] float32 and ``y`` [N, ...] as the task's target says, both read-only maps."""

    x: Array
    y: Array

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class PreparedData:
    """The prepared data of one task.

    ``y_mean`` and ``y_std`` (float32, broadcastable to one target) decode a dense or scalar prediction:
    ``prediction * y_std + y_mean``; None where targets are not scaled. ``fingerprint`` (16 hex digits) is a function of
    all array contents and equal on every machine.
    """

    name: str
    fingerprint: str
    splits: Mapping[SplitName, Split]
    y_mean: Array | None
    y_std: Array | None
    directory: Path

    @property
    def train(self) -> Split:
        """The training split."""
        return self.splits["train"]

    @property
    def validation(self) -> Split:
        """The validation split, carved from training data."""
        return self.splits["validation"]

    @property
    def test(self) -> Split:
        """The test split: read by confirm trials only."""
        return self.splits["test"]


class _Damaged(Exception):
    """The directory is not what its ``meta.json`` says."""


def directory_of(name: str, version: int) -> Path:
    """Return where the prepared data of that name and version lies."""
    return cache.prepared_dir() / name / str(version)


def prepare(
    name: str, version: int, build: Callable[[], Mapping[str, Array]], *, expected: str | None = None
) -> PreparedData:
    """Open the prepared data, building it on first use or when a file is missing or truncated.

    ``build`` returns arrays named ``train_x``, ``train_y``, ``validation_x``, …, ``test_y`` and optionally ``y_mean``
    and ``y_std``. ``expected`` is the fingerprint that the data must have: another cached copy is built again.
    Raises :class:`UserError` when a split is missing, when the fingerprint differs after building, or on a full disk.
    """
    directory = directory_of(name, version)
    if found := _open_valid(name, directory, expected, logging.DEBUG):
        return found
    with cache.lock(directory):
        if found := _open_valid(name, directory, expected, logging.WARNING):  # another process was faster
            return found
        logger.info("preparing %s in %s", name, directory)
        _write(name, directory, build())
    try:
        data = _open(name, directory)
    except _Damaged as error:
        raise UserError(
            f"{name}: prepared data is damaged right after it was written: {error}. Check the disk."
        ) from error
    if expected is not None and data.fingerprint != expected:
        raise UserError(
            f"{name}: the prepared data has fingerprint {data.fingerprint}, expected {expected}: its raw data is not "
            f"what this version of orca-ray was released with, so scores would not be comparable. Files: {directory}."
        )
    return data


def verify(data: PreparedData) -> None:
    """Read every prepared file again and raise :class:`UserError`, naming the file, where its content changed."""
    try:
        entries = _read_meta(data.directory)["arrays"]
    except _Damaged as error:
        raise UserError(f"{data.name}: {error}. Remove {data.directory} and prepare it again.") from error
    for name, entry in entries.items():
        path = data.directory / f"{name}.npy"
        actual = cache.sha256_file(path) if path.is_file() else "nothing"
        if actual != entry["sha256"]:
            raise UserError(
                f"{data.name}: {path} changed since it was prepared: expected sha256 {entry['sha256']}, got {actual}. "
                f"Remove {data.directory} and prepare it again."
            )


def fingerprint(arrays: Mapping[str, Array]) -> str:
    """Return 16 hex digits over the names, types, shapes and bytes of the arrays."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]


def _open_valid(name: str, directory: Path, expected: str | None, level: int) -> PreparedData | None:
    if not directory.exists():
        return None
    try:
        data = _open(name, directory)
    except _Damaged as error:
        logger.log(level, "%s: prepared data is damaged, preparing it again: %s", name, error)
        return None
    if expected is not None and data.fingerprint != expected:
        logger.log(level, "%s: prepared data is of another release (%s), preparing it again", name, data.fingerprint)
        return None
    return data


def _open(name: str, directory: Path) -> PreparedData:
    meta = _read_meta(directory)
    arrays = {}
    for key, entry in meta["arrays"].items():
        path = directory / f"{key}.npy"
        if not path.is_file() or path.stat().st_size != entry["bytes"]:
            raise _Damaged(f"{path} is missing or has the wrong size (expected {entry['bytes']} bytes)")
        try:
            arrays[key] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise _Damaged(f"{path}: {error}") from error
        if [arrays[key].dtype.str, list(arrays[key].shape)] != [entry["dtype"], entry["shape"]]:
            raise _Damaged(f"{path} is not the array that {_META} describes")
    if any(f"{split}_{axis}" not in arrays for split in SPLITS for axis in "xy"):
        raise _Damaged(f"{directory / _META} lacks a split")
    return PreparedData(
        name=name,
        fingerprint=meta["fingerprint"],
        splits={split: Split(arrays[f"{split}_x"], arrays[f"{split}_y"]) for split in SPLITS},
        y_mean=arrays.get("y_mean"),
        y_std=arrays.get("y_std"),
        directory=directory,
    )


def _read_meta(directory: Path) -> dict[str, Any]:
    path = directory / _META
    try:
        meta = json.loads(path.read_text())
        if not isinstance(meta["fingerprint"], str) or not isinstance(meta["arrays"], dict):
            raise TypeError("unexpected types")
        for entry in meta["arrays"].values():
            entry["dtype"], entry["shape"], entry["bytes"], entry["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _Damaged(f"{path} is unreadable ({type(error).__name__}: {error})") from error
    return dict(meta)


def _write(name: str, directory: Path, arrays: Mapping[str, Array]) -> None:
    _check_names(name, arrays)
    with cache.disk_errors(directory.parent):
        directory.parent.mkdir(parents=True, exist_ok=True)
    cache.require_space(directory.parent, 1.1 * sum(array.nbytes for array in arrays.values()))
    entries = {}
    with cache.atomic_directory(directory) as filling:
        for key in sorted(arrays):
            array = np.ascontiguousarray(arrays[key])
            path = filling / f"{key}.npy"
            np.save(path, array, allow_pickle=False)
            entries[key] = {
                "dtype": array.dtype.str,
                "shape": list(array.shape),
                "bytes": path.stat().st_size,
                "sha256": cache.sha256_file(path),
            }
        meta = {"name": name, "fingerprint": fingerprint(arrays), "arrays": entries}
        (filling / _META).write_text(json.dumps(meta, indent=2))


def _check_names(name: str, arrays: Mapping[str, Array]) -> None:
    required = [f"{split}_{axis}" for split in SPLITS for axis in "xy"]
    for split in SPLITS:
        if not all(f"{split}_{axis}" in arrays and len(arrays[f"{split}_{axis}"]) for axis in "xy"):
            hint = " Carve it from the training data; test data is never used for selection." * (split == "validation")
            raise UserError(f"task {name!r} has no {split} split ({split}_x and {split}_y).{hint}")
        if len(arrays[f"{split}_x"]) != len(arrays[f"{split}_y"]):
            raise UserError(f"task {name!r}: {split}_x and {split}_y have different lengths")
    if extra := sorted(set(arrays) - set(required) - set(STATISTICS)):
        raise UserError(f"task {name!r}: unexpected arrays {', '.join(extra)}; allowed: {', '.join(required)}")
