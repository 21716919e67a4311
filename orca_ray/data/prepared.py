"""Prepared task data: plain ``.npy`` files, memory-mapped, shared by all processes of a node, with a fingerprint.

Layout: ``prepared/<name>/<version>/{train,validation,test}_{x,y}.npy`` and ``meta.json``. A directory appears at once
and whole; it is written by one process while others wait. Until then its files grow in ``.partial-<version>`` beside
it, from where a build that was interrupted goes on.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from orca_ray.data import cache
from orca_ray.data.filling import finish, move, partial
from orca_ray.data.layout import META, REQUIRED, SPLITS, STATISTICS, Array, Arrays, Build, SplitName, fingerprint
from orca_ray.data.rows import Rows, restore
from orca_ray.errors import UserError

__all__ = [
    "REQUIRED", "SPLITS", "STATISTICS", "Array", "Arrays", "Build", "PreparedData", "Split", "SplitName",
    "directory_of", "fingerprint", "opened", "prepare", "refuse_foreign", "verify",
]  # fmt: skip

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """One split: ``x`` [N, *input_shape] float32 and ``y`` [N, ...] as the task's target says, read-only."""

    x: Rows
    y: Array
    group: Array | None = None
    """Ids [N] int64: rows that share one are parts of one sample, and are scored by the mean of their outputs."""

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


def directory_of(name: str, version: int, protocol: str = "held-out") -> Path:
    """Return where the prepared data of that name and version lies; ``protocol``: whose splits, where they differ."""
    return cache.home() / "prepared" / name / (str(version) if protocol == "held-out" else f"{version}-{protocol}")


def refuse_foreign(name: str, directory: Path, identity: str) -> None:
    """Raise UserError where ``directory`` holds anything but what would be written there: it would be replaced."""
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return
    try:
        meta = _read_meta(directory)
    except _Damaged:
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


def opened(name: str, directory: Path, *, expected: str | None = None) -> PreparedData | None:
    """Return the prepared data in ``directory``, or None where there is none, or a damaged or another one."""
    return _open_valid(name, directory, expected, logging.DEBUG)


def prepare(
    name: str,
    directory: Path,
    build: Build,
    *,
    raw: Path | None = None,
    protocol: str = "held-out",
    expected: str | None = None,
    identity: str = "",
) -> PreparedData:
    """Open the prepared data, building it on first use or when a file is missing or truncated.

    Args:
        name: of the task.
        directory: where it lies; see `directory_of`.
        build: returns the arrays, as `Arrays` says.
        raw: directory of the raw files that ``build`` reads.
        protocol: told to ``build``.
        expected: the fingerprint that the data must have; another copy is built again.
        identity: what the build depends on; an interrupted build is only continued under the same.

    Raises:
        UserError: a split is missing, the raw data are not what they should be, the fingerprint differs, the disk is
            full. Nothing is left behind then.
    """
    if found := _open_valid(name, directory, expected, logging.DEBUG):
        return found
    if directory.is_relative_to(cache.home()):
        cache.prepared_dir()  # made with an error that says what to do
    with cache.lock(directory):
        if found := _open_valid(name, directory, expected, logging.WARNING):  # another process was faster
            return found
        logger.info("preparing %s in %s", name, directory)
        with partial(name, directory, raw or cache.home() / "raw", protocol, identity) as workspace:
            finish(name, workspace.directory, build(workspace), identity)
            move(workspace.directory, directory)
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
    stored = {}
    for key, entry in meta["arrays"].items():
        path = directory / f"{key}.npy"
        if not path.is_file() or path.stat().st_size != entry["bytes"]:
            raise _Damaged(f"{path} is missing or has the wrong size (expected {entry['bytes']} bytes)")
        try:
            stored[key] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise _Damaged(f"{path}: {error}") from error
        if [stored[key].dtype.str, list(stored[key].shape)] != [entry["dtype"], entry["shape"]]:
            raise _Damaged(f"{path} is not the array that {META} describes")
    arrays = _assembled(directory, stored, meta.get("kinds", {}))
    if any(key not in arrays for key in REQUIRED):
        raise _Damaged(f"{directory / META} lacks a split")
    return PreparedData(
        name=name,
        fingerprint=meta["fingerprint"],
        splits={
            split: Split(arrays[f"{split}_x"], stored[f"{split}_y"], stored.get(f"{split}_group")) for split in SPLITS
        },
        y_mean=stored.get("y_mean"),
        y_std=stored.get("y_std"),
        directory=directory,
    )


def _assembled(directory: Path, stored: Mapping[str, Array], kinds: Mapping[str, str]) -> dict[str, Array | Rows]:
    """Put composite rows together from their parts."""
    arrays: dict[str, Array | Rows] = {key: array for key, array in stored.items() if "." not in key}
    for key, kind in kinds.items():
        parts = {name.split(".", 1)[1]: array for name, array in stored.items() if name.startswith(f"{key}.")}
        try:
            arrays[key] = restore(kind, parts)
        except (KeyError, ValueError) as error:
            raise _Damaged(f"{directory / META}: {key} is no {kind} of {', '.join(parts) or 'nothing'}") from error
    return arrays


def _read_meta(directory: Path) -> dict[str, Any]:
    path = directory / META
    try:
        meta = json.loads(path.read_text())
        if not isinstance(meta["fingerprint"], str) or not isinstance(meta["arrays"], dict):
            raise TypeError("unexpected types")
        for entry in meta["arrays"].values():
            entry["dtype"], entry["shape"], entry["bytes"], entry["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _Damaged(f"{path} is unreadable ({type(error).__name__}: {error})") from error
    return dict(meta)
