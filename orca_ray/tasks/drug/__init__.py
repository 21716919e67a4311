"""DrugCell's data: the response of a cell line to a drug.

An input is the fingerprint of the drug, followed by the mutations of the cell line.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from orca_ray.data.npy import read_npy
from orca_ray.data.readers import check_not_finite, check_shape
from orca_ray.data.splits import Indices
from orca_ray.errors import UserError
from orca_ray.tasks.arrays import fill_array, hold_out, name_arrays
from orca_ray.tasks.task import SPLIT_SEED, Array, Arrays, Workspace, declared_tasks

WIDTH = 3840
"""Number of features of an input, of drug and cell line together."""


class Screen(NamedTuple):
    """The rows of a file of a screen."""

    path: Path
    """File of the inputs, for errors."""
    x: Array
    """[N, 1, 3840]: inputs, a memory map."""
    y: Array
    """[N] float32: responses."""


def _build(workspace: Workspace) -> Arrays:
    """Return the arrays of a screen; validation is a tenth of the training file."""
    screen = _read_screen(workspace, "train")
    test_screen = _read_screen(workspace, "test")
    num_rows = len(screen.x)
    parts = hold_out(screen.path, num_rows, max(1, num_rows // 10), SPLIT_SEED)
    # Sorted, so that rows are read in the order of the file.
    train, validation = (np.sort(part) for part in parts)
    test = np.arange(len(test_screen.x))
    return name_arrays(
        [
            (_inputs(workspace, "train", screen, train), screen.y[train]),
            (
                _inputs(workspace, "validation", screen, validation),
                screen.y[validation],
            ),
            (_inputs(workspace, "test", test_screen, test), test_screen.y),
        ]
    )


def _read_screen(workspace: Workspace, split: str) -> Screen:
    """Return the rows of the files of ``split``; UserError if a file is invalid."""
    name = f"drug_sep/{workspace.task.split('/')[1]}_{split}"
    x_path = workspace.file(f"{name}_feat.npy")
    y_path = workspace.file(f"{name}_label.npy")
    x = read_npy(x_path, kind="fiub")
    check_shape(x_path, "", x, (None, 1, WIDTH))
    y = read_npy(y_path, kind="fiu")
    if y.shape not in ((len(x),), (len(x), 1)) or not len(x):
        raise UserError(
            f"{y_path}: expected shape [{len(x)}] or [{len(x)}, 1], as {x_path.name}"
            f" has {len(x)} rows (at least 1), found {list(y.shape)}"
        )
    check_not_finite(y_path, "", y)
    return Screen(x_path, x, np.asarray(y, np.float32).reshape(-1))


def _inputs(
    workspace: Workspace, split: str, screen: Screen, indices: Indices
) -> Array:
    """Return the inputs [n, 1, 3840] of the rows ``indices``; UserError for NaN."""

    def read(batch: Indices) -> Array:
        rows = screen.x[batch]
        check_not_finite(screen.path, "", rows)
        return rows

    return fill_array(workspace, f"{split}_x", indices, read, (1, WIDTH))


TASKS = declared_tasks(__name__)
