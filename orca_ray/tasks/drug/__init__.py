"""DrugCell's data: the response of a cell line to a drug, from the drug's fingerprint and the cell line's mutations."""

from pathlib import Path
from typing import Any

import numpy as np

from orca_ray.data.npy import read_npy
from orca_ray.data.readers import check_not_finite, check_shape
from orca_ray.data.splits import Indices
from orca_ray.discovery import tables
from orca_ray.errors import UserError
from orca_ray.tasks.arrays import filled, hold_out, named
from orca_ray.tasks.task import SPLIT_SEED, Array, Arrays, RawFile, Target, Task, Workspace

WIDTH = 3840
"""Number of features of an input: the fingerprint of a drug, followed by the mutations of a cell line."""
_FIELDS = {"train": ("train_feat", "train_label"), "test": ("test_feat", "test_label")}


def _task(name: str, citation: str, terms: str, **declared: Any) -> Task:
    """Return the task of the screen that the table ``[name]`` of ``tasks.toml`` declares.

    Validation is a tenth of the training file. Targets are the responses as in the files, neither standardised nor
    clipped, as in ORCA's code.
    """
    return Task(
        name=f"drug/{name}",
        domain="drug response",
        input_shape=(1, WIDTH),
        target=Target("scalar"),
        loss="mse",
        metric="one_minus_r2",
        input_scale="units",
        target_scale="units",
        num_samples=None,  # not published; users bring their own files
        licence="not stated; the arrays are derived from public screens",
        citation=f"{citation}; Kuenzi et al., DrugCell, Cancer Cell, 2020",
        files=tuple(RawFile(path=f"drug_sep/{name}_{field}.npy") for pair in _FIELDS.values() for field in pair),
        terms=f"{terms}; put the four arrays into the raw directory yourself.",
        build=lambda workspace: _build(workspace, name),
        **declared,
    )


def _build(workspace: Workspace, name: str) -> Arrays:
    given, given_y = _read(workspace, name, "train")
    test, test_y = _read(workspace, name, "test")
    path, test_path = (workspace.file(f"drug_sep/{name}_{x}.npy") for x, _ in _FIELDS.values())
    parts = hold_out(path, len(given), max(1, len(given) // 10), SPLIT_SEED)
    train, validation = (np.sort(part) for part in parts)  # to read rows in the order of the file
    x = _filled(workspace, "train", path, given, train)
    x_validation = _filled(workspace, "validation", path, given, validation)
    x_test = _filled(workspace, "test", test_path, test, np.arange(len(test)))
    return named([(x, given_y[train]), (x_validation, given_y[validation]), (x_test, test_y)])


def _read(workspace: Workspace, name: str, split: str) -> tuple[Array, Array]:
    """Return inputs [N, 1, 3840] as a memory map of the file, and responses [N] float32; UserError if invalid."""
    x_path, y_path = (workspace.file(f"drug_sep/{name}_{field}.npy") for field in _FIELDS[split])
    x = read_npy(x_path, kind="fiub")
    check_shape(x_path, "", x, (None, 1, WIDTH))
    y = read_npy(y_path, kind="fiu")
    if y.shape not in ((len(x),), (len(x), 1)) or not len(x):
        raise UserError(
            f"{y_path}: expected shape [{len(x)}] or [{len(x)}, 1], as {x_path.name} has {len(x)} rows (at least 1), "
            f"found {list(y.shape)}"
        )
    check_not_finite(y_path, "", y)
    return x, np.asarray(y, np.float32).reshape(-1)


def _filled(workspace: Workspace, split: str, path: Path, rows: Array, indices: Indices) -> Array:
    def read(batch: Indices) -> Array:
        check_not_finite(path, "", rows[batch])
        return rows[batch]

    return filled(workspace, f"{split}_x", indices, read, (1, WIDTH))


TASKS = tuple(_task(name, **declared) for name, declared in tables(__name__, "tasks.toml").items())
