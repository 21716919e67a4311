"""Prepared task data: ``.npy`` files with a fingerprint.

The files are ``prepared/<name>/<version>/{train,validation,test}_{x,y}.npy`` and
``meta.json``. They are memory-mapped, so that all processes of a node share their
memory. One process builds the data in ``prepared/<name>/.partial-<version>``, while
other processes wait. An interrupted build continues there. The complete directory is
renamed to ``<version>``.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from orca_ray.data import cache, layout
from orca_ray.data.layout import (
    REQUIRED,
    SPLITS,
    STATISTICS,
    Arrays,
    Build,
    SplitName,
    fingerprint,
)
from orca_ray.data.npy import read_npy
from orca_ray.data.raw import Workspace
from orca_ray.data.rows import (
    KINDS,
    Array,
    LazyRows,
    Rows,
    joined_rows,
    num_bytes,
    selected_rows,
)
from orca_ray.data.splits import stratified_share
from orca_ray.errors import UserError
from orca_ray.options import Protocol

__all__ = [
    "HELD_OUT",
    "PAPER",
    "REQUIRED",
    "SPLITS",
    "STATISTICS",
    "Array",
    "Arrays",
    "Build",
    "PreparedData",
    "Split",
    "SplitName",
    "directory_of",
    "fingerprint",
    "held_rows",
    "join_splits",
    "num_folds",
    "open_prepared",
    "prepare",
    "under_protocol",
    "verify",
    "with_fold",
    "with_train_fraction",
]

logger = logging.getLogger(__name__)

HELD_OUT = Protocol.HELD_OUT.value
PAPER = Protocol.PAPER.value
COPIED_BYTES = 2**30
"""Largest size of inputs or targets that are copied when they are joined or selected.

Larger inputs and targets are read when they are needed.
"""


@dataclass(frozen=True)
class Split:
    """One split of prepared data, read-only."""

    x: Rows
    """Inputs [N, *input_shape], float32."""
    y: Array
    """Targets [N, ...] (see `rows.Target`).

    They are an array, or `LazyRows` if large targets were joined or selected.
    """
    group: Array | None = None
    """Sample ids [N] int64.

    Rows with the same id are parts of one sample, whose score uses their mean output.
    """
    weight: Array | None = None
    """Weights [N] of the samples, float64, above 0; None: all weights are equal.

    They are used when training samples are drawn, and when validation is scored.
    """

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class PreparedData:
    """The prepared data of one task.

    ``y_mean`` and ``y_std`` (float32, broadcastable to one target) convert a dense or
    scalar model output to the units of the data: ``output * y_std + y_mean``. They are
    None if targets are not scaled. ``fingerprint`` (16 hex digits) is a hash of all
    arrays; it is the same on every machine.
    """

    name: str
    fingerprint: str
    splits: Mapping[SplitName, Split]
    y_mean: Array | None
    y_std: Array | None
    directory: Path
    folds: Array | None = None
    """Fold of each sample of train, then of validation, from 1: int8 [R, N].

    The samples are divided into folds R times. None: there are no folds.
    """
    units: Array | None = None
    """Number of each sample's group, of train, then of validation and test [N].

    None: the samples are independent.
    """
    fold_training: Array | None = None
    """Which samples of train, then of validation, train for the validation split (first
    row) and for each fold (further rows): bool [1 + K, N].

    None: all samples train that are not in the fold.
    """

    @property
    def train(self) -> Split:
        """The training split."""
        return self.splits["train"]

    @property
    def validation(self) -> Split:
        """The validation split."""
        return self.splits["validation"]

    @property
    def test(self) -> Split:
        """The test split."""
        return self.splits["test"]


def directory_of(name: str, version: int, protocol: str = "held-out") -> Path:
    """Return the cache directory of a task's prepared data.

    It is ``…/VERSION``, or ``…/VERSION-paper`` for ``paper``.
    """
    suffix = "" if protocol == "held-out" else f"-{protocol}"
    return cache.home() / "prepared" / name / f"{version}{suffix}"


def open_prepared(
    name: str,
    directory: Path,
    *,
    expected: str | None = None,
    identity: str | None = None,
    level: int = logging.DEBUG,
) -> PreparedData | None:
    """Return the prepared data in ``directory``.

    Returns None if the data are missing, damaged, or do not match the arguments.
    ``expected`` is the required fingerprint, and ``identity`` the required identity
    (see `prepare`); None accepts any. Unless the directory is missing or empty, the
    reason for returning None is logged at ``level``.
    """
    try:
        if not any(directory.iterdir()):
            return None
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        pass  # `read_meta` gives the reason
    try:
        meta = layout.read_meta(directory)
        data = _open(name, directory, meta)
        # old data have no identity
        is_wanted = identity in (None, meta.get("identity", identity))
        if expected not in (None, data.fingerprint):
            reason = f"of another release ({data.fingerprint})"
        elif not is_wanted:
            reason = "of other raw files than there are now"
        else:
            return data
    except layout.Damaged as error:
        reason = f"damaged ({error})"
    logger.log(level, "%s: prepared data is %s, preparing it again", name, reason)
    return None


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
    documents: Mapping[str, str] | None = None,
) -> PreparedData:
    """Return the prepared data in ``directory``; build them if necessary.

    They are built if they are missing or damaged, or do not match the arguments.

    Args:
        name, directory: the task, and the directory of its prepared data, usually
            `directory_of` the task.
        build: function that makes the arrays from the raw files.
        raw: directory of the raw files; None: ``raw`` in the cache directory.
        protocol: protocol that selects the splits; passed to ``build``.
        expected: required fingerprint; existing data with another fingerprint are built
            again. None: any.
        identity: text that describes everything the build depends on: task, version,
            splits, and size and time of each raw file. An interrupted build of another
            identity is not continued.
        held: whether existing data with another identity are built again; if not, they
            are used.
        documents: files to write beside the arrays, as text by name.

    Raises:
        UserError: a split is missing, the raw data are wrong, the new data have another
            fingerprint than expected, the directory cannot be replaced, or the disk is
            full. At most an unfinished build is left behind.
    """
    wanted_identity = identity if held else None
    raw = raw or cache.home() / "raw"

    def existing(level: int) -> PreparedData | None:
        return open_prepared(
            name, directory, expected=expected, identity=wanted_identity, level=level
        )

    data = existing(logging.DEBUG)
    if data is not None:
        return data
    if directory.is_relative_to(cache.home()):
        cache.subdirectory("prepared")  # its error says what to do
    elif directory.exists() and not (directory / layout.META).is_file():
        raise UserError(
            f"{directory} is there and holds no prepared data: name a new directory"
        )
    with cache.lock(directory, name):
        data = existing(logging.WARNING)
        if data is not None:  # another process was faster
            return data
        logger.info("preparing %s in %s", name, directory)
        with layout.open_workspace(
            name, directory, raw, protocol, identity
        ) as workspace:
            arrays = _run_build(build, workspace)
            actual = layout.finish_build(
                name, workspace.directory, arrays, identity, documents
            )
            if expected not in (None, actual):
                raise UserError(
                    f"{name}: the prepared data has fingerprint {actual}, expected"
                    f" {expected}; it is discarded, because scores would not be"
                    " comparable. Fetch the raw files that belong to this version of"
                    " orca-ray."
                )
            layout.move_build(workspace.directory, directory)
    try:
        return _open(name, directory, layout.read_meta(directory))
    except layout.Damaged as error:
        raise UserError(
            f"{name}: prepared data is damaged right after it was written: {error};"
            " check disk"
        ) from error


def _run_build(build: Build, workspace: Workspace) -> Arrays:
    """Return the arrays of ``build(workspace)``.

    Messages of its UserErrors are extended by the task and the directory of raw files,
    unless they name one of these or the workspace.
    """
    try:
        return build(workspace)
    except UserError as error:
        text = str(error)
        places = (workspace.task, str(workspace.raw), str(workspace.directory))
        if any(place in text for place in places):
            raise
        # The cause is kept: it shows whether the disk is full.
        raise UserError(
            f"{workspace.task} (raw files in {workspace.raw}): {text}"
        ) from error.__cause__


def verify(data: PreparedData) -> None:
    """Compare each prepared file with its SHA-256 in ``meta.json``.

    Raises `UserError` for the first mismatch.
    """
    remedy = f"Remove {data.directory} and prepare it again."
    try:
        meta = layout.read_meta(data.directory)
    except layout.Damaged as error:
        raise UserError(f"{data.name}: {error}. {remedy}") from error
    hashes = {f"{name}.npy": entry["sha256"] for name, entry in meta["arrays"].items()}
    hashes |= meta.get("documents", {})
    for name, expected in hashes.items():
        path = data.directory / name
        actual = cache.sha256_file(path) if path.is_file() else "nothing"
        if actual != expected:
            raise UserError(
                f"{data.name}: {path} changed since it was prepared: expected sha256"
                f" {expected}, got {actual}. {remedy}"
            )


def _open(name: str, directory: Path, meta: Mapping[str, Any]) -> PreparedData:
    """Return the prepared data that ``meta`` describes.

    Raises Damaged if the files are not as described.
    """
    if meta.get("name", name) != name:
        raise layout.Damaged(f"{directory} holds {meta['name']}")
    stored = {
        key: _stored_array(directory / f"{key}.npy", entry)
        for key, entry in meta["arrays"].items()
    }
    arrays: dict[str, Array | Rows] = {
        key: array for key, array in stored.items() if "." not in key
    }
    for key, kind in meta.get("kinds", {}).items():
        arrays[key] = _composite_rows(directory, key, kind, stored)
    if any(key not in arrays for key in REQUIRED):
        raise layout.Damaged(f"{directory / layout.META} lacks a split")
    splits = {
        split: Split(
            arrays[f"{split}_x"], stored[f"{split}_y"], stored.get(f"{split}_group")
        )
        for split in SPLITS
    }
    return PreparedData(
        name,
        meta["fingerprint"],
        splits,
        stored.get("y_mean"),
        stored.get("y_std"),
        directory,
        stored.get("folds"),
        stored.get("units"),
        stored.get("fold_training"),
    )


def _stored_array(path: Path, entry: Mapping[str, Any]) -> Array:
    """Return the array in a file; raise Damaged if ``entry`` does not describe it."""
    if not path.is_file() or path.stat().st_size != entry["bytes"]:
        raise layout.Damaged(
            f"{path} is missing or has the wrong size (expected {entry['bytes']} bytes)"
        )
    try:
        array: Array = read_npy(path)
    except (UserError, OSError) as error:
        raise layout.Damaged(f"{path}: {error}") from error
    if array.dtype.str != entry["dtype"] or list(array.shape) != entry["shape"]:
        raise layout.Damaged(f"{path} is not the array that {layout.META} describes")
    return array


def _composite_rows(
    directory: Path, key: str, kind: str, stored: Mapping[str, Array]
) -> Rows:
    """Return the rows with the name ``key``, which are composed of stored parts."""
    parts = {
        name.split(".", 1)[1]: array
        for name, array in stored.items()
        if name.startswith(f"{key}.")
    }
    try:
        return KINDS[kind](parts)
    except (LookupError, ValueError) as error:
        content = ", ".join(parts) or "nothing"
        raise layout.Damaged(
            f"{directory / layout.META}: {key} is no {kind} of {content}"
        ) from error


def under_protocol(data: PreparedData, protocol: str) -> PreparedData:
    """Return the prepared data with the splits that a trial uses under ``protocol``.

    Under ``held-out``, these are the prepared splits: validation was split off the
    training data, and only confirm trials read test. ``paper`` follows the reference
    implementation of ORCA (``valid_split: False``): it trains on train and validation
    together, and selects epochs and hyper-parameters on test. Such scores are
    optimistic; they are comparable with published ones, but never shown on the same
    leaderboard as held-out scores. ``y_mean`` and ``y_std`` are not recomputed for the
    joined training split.
    """
    if protocol != PAPER:
        return data
    return replace(
        data,
        splits={
            "train": join_splits(data.train, data.validation),
            "validation": data.test,
            "test": data.test,
        },
    )


def join_splits(first: Split, second: Split) -> Split:
    """Return the rows of two splits as one.

    Sample ids of ``second`` are shifted, so that no id occurs in both.
    """
    x = _in_memory(joined_rows(first.x, second.x), first.x, second.x)
    y = _in_memory(joined_rows(first.y, second.y), first.y, second.y)
    group = None
    if first.group is not None and second.group is not None:
        shift = first.group.max() + 1 - second.group.min()
        group = np.concatenate([first.group, second.group + shift])
    weight = None
    if first.weight is not None and second.weight is not None:
        weight = np.concatenate([first.weight, second.weight])
    return Split(x, cast(Array, y), group, weight)


def with_fold(data: PreparedData, fold: int) -> PreparedData:
    """Return the prepared data with the splits that ``fold`` asks for.

    From 1 on, it is the fold that validates, while all other folds train, or those of
    their samples that `PreparedData.fold_training` says; folds are
    numbered through all divisions: if a division has 5 folds, 6 is the first of the
    second one. 0 and negative numbers mean what they mean for the option ``data.fold``
    (see `orca_ray.training.config.DataConfig`).
    Statistics remain those of the prepared training split. Raises UserError if there is
    no such fold.
    """
    if fold == 0:
        if data.fold_training is None:
            return data
        training_rows = np.flatnonzero(data.fold_training[0])
        train = _select_rows(data.train, training_rows)
        return replace(data, splits={**data.splits, "train": train})
    whole = join_splits(data.train, data.validation)
    if fold < 0:
        if fold == -1 and len(data.test):
            whole = join_splits(whole, data.test)
        return replace(data, splits={**data.splits, "train": whole})
    rows = held_rows(data, fold)
    if data.fold_training is None:
        training_rows = np.setdiff1d(np.arange(len(whole)), rows)
    else:
        training_rows = np.flatnonzero(data.fold_training[fold])
    parts: dict[SplitName, Split] = {
        "train": _select_rows(whole, training_rows),
        "validation": _select_rows(whole, rows),
    }
    return replace(data, splits={**data.splits, **parts})


def num_folds(data: PreparedData) -> int:
    """Return the number of folds of all divisions together; 0 if there are none."""
    return 0 if data.folds is None else int(data.folds.max(axis=1).sum())


def held_rows(data: PreparedData, fold: int) -> Array:
    """Return the rows of a fold, in train and validation joined.

    Raises UserError if there is no such fold.
    """
    if data.folds is None or not 1 <= fold <= num_folds(data):
        raise UserError(
            f"{data.name} has {num_folds(data)} folds: data.fold must be one of them,"
            f" got {fold}"
        )
    # A row of ``folds`` is a division, with the fold of each sample, from 1 on.
    sizes = data.folds.max(axis=1)
    division = int(np.searchsorted(np.cumsum(sizes), fold))
    return np.flatnonzero(data.folds[division] == fold - sizes[:division].sum())


def _select_rows(split: Split, rows: Array) -> Split:
    """Return the split with the given rows only."""
    x = _in_memory(selected_rows(split.x, rows), split.x)
    y = _in_memory(selected_rows(split.y, rows), split.y)
    group = None if split.group is None else split.group[rows]
    weight = None if split.weight is None else split.weight[rows]
    return Split(x, cast(Array, y), group, weight)


def _in_memory(rows: LazyRows, *sources: Rows) -> Rows:
    """Return ``rows`` as an array if they are small and the ``sources`` are arrays."""
    are_arrays = all(isinstance(source, np.ndarray) for source in sources)
    return rows[:] if are_arrays and num_bytes(rows) <= COPIED_BYTES else rows


def with_train_fraction(
    data: PreparedData, fraction: float, seed: int, *, classes: bool
) -> PreparedData:
    """Return the prepared data with a random share ``fraction`` of training samples.

    Other splits are not changed. With ``classes``, targets are class ids, and the share
    is drawn from each class (`splits.stratified_share`). Rows with the same id in
    `Split.group` are one sample. ``y_mean`` and ``y_std`` remain those of the whole
    training split.
    """
    train = data.train
    ids = np.arange(len(train)) if train.group is None else train.group
    _, firsts, samples = np.unique(ids, return_index=True, return_inverse=True)
    labels = np.asarray(train.y)[firsts] if classes else np.zeros(len(firsts))
    drawn = np.isin(samples, stratified_share(labels, fraction, seed))
    return replace(
        data,
        splits={**data.splits, "train": _select_rows(train, np.flatnonzero(drawn))},
    )
