"""Prepared task data: plain ``.npy`` files, memory-mapped, shared by all processes of a node, with a fingerprint.

Layout: ``prepared/<name>/<version>/{train,validation,test}_{x,y}.npy`` and ``meta.json``. A directory appears at once
and whole; it is written by one process while others wait. Until then its files grow in ``.partial-<version>`` beside
it, from where a build that was interrupted goes on.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from orca_ray.data import cache
from orca_ray.data.filling import finish, move, partial
from orca_ray.data.layout import META, REQUIRED, SPLITS, STATISTICS, Array, Arrays, Build, SplitName, fingerprint
from orca_ray.data.meta import Damaged, read_meta, refuse_foreign, refuse_replacing
from orca_ray.data.rows import Rows, restore
from orca_ray.errors import UserError

__all__ = [
    "REQUIRED", "SPLITS", "STATISTICS", "Array", "Arrays", "Build", "PreparedData", "Split", "SplitName",
    "directory_of", "fingerprint", "opened", "prepare", "verify",
]  # fmt: skip

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """One split: ``x`` [N, *input_shape] float32 and ``y`` [N, ...] as the task's target says, read-only."""

    x: Rows
    y: Array
    """Of prepared data. Large targets that `under_protocol` joins are `JoinedRows`: training reads them as `Rows`."""
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


def directory_of(name: str, version: int, protocol: str = "held-out") -> Path:
    """Return where the prepared data of that name and version lies; ``protocol``: whose splits, where they differ."""
    return cache.home() / "prepared" / name / (str(version) if protocol == "held-out" else f"{version}-{protocol}")


def opened(
    name: str, directory: Path, *, expected: str | None = None, identity: str | None = None
) -> PreparedData | None:
    """Return the prepared data in ``directory``, or None where there is none, or a damaged or another one."""
    return _open_valid(name, directory, expected, identity, logging.DEBUG)


def prepare(
    name: str,
    directory: Path,
    build: Build,
    *,
    raw: Path | None = None,
    protocol: str = "held-out",
    expected: str | None = None,
    identity: str = "",
    held: bool = False,
    users: bool = False,
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
        held: whether data of another identity are built again.
        users: whether the directory is the user's own: anything but the same data is refused there, not replaced.

    Raises:
        UserError: a split is missing, the raw data are not what they should be, the fingerprint differs, the directory
            cannot be replaced, the disk is full. Nothing is left behind then, but for what a build may go on from.
    """
    wanted = identity if held else None

    def found(level: int) -> PreparedData | None:
        if users:
            refuse_foreign(name, directory, identity)
        return _open_valid(name, directory, expected, wanted, level)

    if data := found(logging.DEBUG):
        return data
    if users:
        refuse_replacing(name, directory, identity)
    if directory.is_relative_to(cache.home()):
        cache.prepared_dir()  # made with an error that says what to do
    # Beside a directory of the user's own, a lock that does not show.
    with cache.lock(directory.with_name(f".{directory.name}") if users else directory, name):
        if data := found(logging.WARNING):  # another process was faster
            return data
        logger.info("preparing %s in %s", name, directory)
        with partial(name, directory, raw or cache.home() / "raw", protocol, identity) as workspace:
            _refuse_other(name, finish(name, workspace.directory, build(workspace), identity), expected)
            if users:
                refuse_replacing(name, directory, identity)
            move(workspace.directory, directory)
    try:
        return _open(name, directory, read_meta(directory))
    except Damaged as error:
        raise UserError(
            f"{name}: prepared data is damaged right after it was written: {error}. Check the disk."
        ) from error


def _refuse_other(name: str, found: str, expected: str | None) -> None:
    if expected is not None and found != expected:
        raise UserError(
            f"{name}: the prepared data has fingerprint {found}, expected {expected}: its raw data is not what this "
            "version of orca-ray was released with, so scores would not be comparable; it is not kept."
        )


def verify(data: PreparedData) -> None:
    """Read every prepared file again and raise :class:`UserError`, naming the file, where its content changed."""
    try:
        entries = read_meta(data.directory)["arrays"]
    except Damaged as error:
        raise UserError(f"{data.name}: {error}. Remove {data.directory} and prepare it again.") from error
    for name, entry in entries.items():
        path = data.directory / f"{name}.npy"
        actual = cache.sha256_file(path) if path.is_file() else "nothing"
        if actual != entry["sha256"]:
            raise UserError(
                f"{data.name}: {path} changed since it was prepared: expected sha256 {entry['sha256']}, got {actual}. "
                f"Remove {data.directory} and prepare it again."
            )


def _open_valid(
    name: str, directory: Path, expected: str | None, identity: str | None, level: int
) -> PreparedData | None:
    try:
        if not any(directory.iterdir()):
            return None
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        pass  # `read_meta` says what is wrong
    try:
        meta = read_meta(directory)
        data = _open(name, directory, meta)
    except Damaged as error:
        logger.log(level, "%s: prepared data is damaged, preparing it again: %s", name, error)
        return None
    if expected is not None and data.fingerprint != expected:
        logger.log(level, "%s: prepared data is of another release (%s), preparing it again", name, data.fingerprint)
        return None
    if identity is not None and meta.get("identity", identity) != identity:  # older ones do not say
        logger.log(level, "%s: prepared data is of other raw files than there are now, preparing it again", name)
        return None
    return data


def _open(name: str, directory: Path, meta: Mapping[str, Any]) -> PreparedData:
    if meta.get("name", name) != name:
        raise Damaged(f"{directory} holds {meta['name']}")
    stored = {}
    for key, entry in meta["arrays"].items():
        path = directory / f"{key}.npy"
        if not path.is_file() or path.stat().st_size != entry["bytes"]:
            raise Damaged(f"{path} is missing or has the wrong size (expected {entry['bytes']} bytes)")
        try:
            stored[key] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise Damaged(f"{path}: {error}") from error
        if [stored[key].dtype.str, list(stored[key].shape)] != [entry["dtype"], entry["shape"]]:
            raise Damaged(f"{path} is not the array that {META} describes")
    arrays = _assembled(directory, stored, meta.get("kinds", {}))
    if any(key not in arrays for key in REQUIRED):
        raise Damaged(f"{directory / META} lacks a split")
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
            raise Damaged(f"{directory / META}: {key} is no {kind} of {', '.join(parts) or 'nothing'}") from error
    return arrays
