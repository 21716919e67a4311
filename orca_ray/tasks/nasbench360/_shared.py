"""Functions that tasks of NAS-Bench-360 share.

They check raw files, split samples, and read lists of files.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from orca_ray.data.raw import Workspace
from orca_ray.data.readers import check_labels, check_shape
from orca_ray.data.rows import Array
from orca_ray.data.splits import Indices
from orca_ray.discovery import tables
from orca_ray.errors import UserError, quoted, shorten
from orca_ray.tasks.arrays import fill_array, hold_out
from orca_ray.tasks.task import SPLIT_SEED


def get_entries(path: Path, content: Any, *keys: str) -> list[Any]:
    """Return the values of ``keys`` in ``content``.

    Raises UserError if ``content`` is no dictionary or lacks a key.
    """
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: expected a mapping with the keys {', '.join(keys)}, found"
            f" {type(content).__name__}"
        )
    absent = [key for key in keys if key not in content]
    if absent:
        raise UserError(
            f"{path}: the key {absent[0]!r} is missing; expected {', '.join(keys)},"
            f" found {quoted(list(content))}"
        )
    return [content[key] for key in keys]


def check_numbers(
    path: Path,
    field: str,
    value: Any,
    shape: tuple[int | None, ...],
    kinds: str = "biuf",
) -> Array:
    """Return ``value``, the ``field`` of a file, if it is an array of numbers.

    Raises UserError unless it has ``shape`` (None: any length) and a dtype of
    ``kinds``.
    """
    is_array = isinstance(value, np.ndarray)
    if not is_array or value.dtype.kind not in kinds:
        actual = f"an array of {value.dtype}" if is_array else type(value).__name__
        raise UserError(
            f"{path}: {field} must be an array of numbers (dtype kinds {kinds}), found"
            f" {actual}"
        )
    array: Array = value
    check_shape(path, field, array, shape)
    return array


def class_labels(
    path: Path, field: str, value: Any, count: int, num_classes: int, *, first: int = 0
) -> Array:
    """Return labels [count] int64 numbered from 0.

    In ``value`` they are numbered from ``first``. Raises UserError if the number of
    labels is not ``count``, or one is not whole or out of range.
    """
    if isinstance(value, list) and all(map(np.isscalar, value)):
        value = np.asarray(value)
    y = check_numbers(path, field, value, (count,), "iuf")
    check_labels(path, field, y, first, first + num_classes - 1)
    return np.asarray(y.astype(np.int64) - first)


def published_splits(
    workspace: Workspace,
    path: Path,
    given: tuple[Array, Array],
    test: tuple[Array, Array],
    scaled: Callable[[Array], Array],
) -> dict[str, Array]:
    """Return the arrays of a published training and ``test`` set.

    Each of ``given`` and ``test`` is (inputs [N, ...], labels [N]). Validation gets as
    many training samples as ``test`` has. ``scaled`` maps a batch of inputs in the file
    to prepared inputs. A warning is logged if the file ``path`` has fewer training
    samples than published (`Workspace.check_count`).
    """
    declared = tables("orca_ray.tasks.nasbench360", "tasks.toml")[
        workspace.task.split("/")[1]
    ]
    num_published = sum(declared["num_samples"][:2])  # train and validation
    workspace.check_count(path, len(given[1]), num_published)
    kept, held_out = (
        np.sort(part) for part in hold_out(path, given[1], len(test[1]), SPLIT_SEED)
    )
    samples_of_splits = {
        "train": (given, kept),
        "validation": (given, held_out),
        "test": (test, np.arange(len(test[1]))),
    }
    arrays: dict[str, Array] = {}
    for split, ((x, labels), indices) in samples_of_splits.items():

        def rows(part: Indices, x: Array = x) -> Array:
            return scaled(x[part])

        arrays[f"{split}_x"] = fill_array(
            workspace, f"{split}_x", indices, rows, scaled(x[:1]).shape[1:]
        )
        arrays[f"{split}_y"] = labels[indices]
    return arrays


def locate_files(raw: Path, listing: Path, names: Sequence[str]) -> list[str]:
    """Return the paths on this machine of the files ``names``, in their order.

    The names are read from the file ``listing``. Lists may hold paths of another
    machine. As many leading folders are dropped from all names as it takes to find the
    first file in ``raw`` or in the folder of ``listing``: ``/mnt/data/chunks/a.wav``
    may become ``chunks/a.wav``.

    Raises UserError, with list, row and name, if there are no names, a name contains
    ``..``, or a file is missing.
    """
    if not names:
        raise UserError(f"{listing}: expected one file a row, found none")
    root, first = _root(raw, listing, names[0])
    paths = []
    for row, name in enumerate(names, start=1):
        path = os.path.join(root, *_parts(listing, row, name)[first:])
        if not os.path.isfile(path):
            raise UserError(
                f"{listing}, row {row}: expected a file {path} for {name}, found none"
            )
        paths.append(path)
    return paths


def _root(raw: Path, listing: Path, name: str) -> tuple[Path, int]:
    """Return the folder of the listed files, and how many leading folders to drop.

    They are those with which the first ``name`` of the list is found.
    """
    parts = _parts(listing, 1, name)
    for first in range(len(parts)):
        for root in (raw, listing.parent):
            if os.path.isfile(
                root.joinpath(*parts[first:])
            ):  # False for a name that is too long
                return root, first
    raise UserError(
        f"{listing}, row 1: expected {shorten(name)}, or the end of it, below {raw},"
        " found no such file"
    )


def _parts(listing: Path, row: int, name: str) -> tuple[str, ...]:
    """Return the folders and the name of a listed file; UserError if it is invalid."""
    path = PurePosixPath(name)
    if ".." in path.parts or not path.name:
        raise UserError(
            f"{listing}, row {row}: expected a file below the raw directory, found"
            f" {quoted(name)}"
        )
    return path.relative_to("/").parts if path.is_absolute() else path.parts
