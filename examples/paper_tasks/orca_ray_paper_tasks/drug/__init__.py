"""DrugCell's data: the response of a cell line to a drug, from the drug's fingerprint
and the cell line's mutations.
"""

from pathlib import Path

import numpy as np

from orca_ray.data.npy import read_npy
from orca_ray.data.readers import check_not_finite, check_shape
from orca_ray.data.splits import Indices
from orca_ray.errors import UserError
from orca_ray.tasks.arrays import filled, hold_out, named
from orca_ray.tasks.task import SPLIT_SEED, Array, Arrays, Workspace, declared_tasks

WIDTH = 3840
"""Number of features of an input: the fingerprint of a drug, followed by the mutations
of a cell line.
"""


def _build(workspace: Workspace) -> Arrays:
    """Return the arrays of a screen; validation is a tenth of the training file."""
    path, given, given_y = _read(workspace, "train")
    test_path, test, test_y = _read(workspace, "test")
    parts = hold_out(path, len(given), max(1, len(given) // 10), SPLIT_SEED)
    train, validation = (
        np.sort(part) for part in parts
    )  # to read rows in the order of the file
    x = _filled(workspace, "train", path, given, train)
    x_validation = _filled(workspace, "validation", path, given, validation)
    x_test = _filled(workspace, "test", test_path, test, np.arange(len(test)))
    return named(
        [(x, given_y[train]), (x_validation, given_y[validation]), (x_test, test_y)]
    )


def _read(workspace: Workspace, split: str) -> tuple[Path, Array, Array]:
    """Return a file, its inputs [N, 1, 3840] as a memory map, and responses [N]
    float32; UserError if invalid.
    """
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
    return x_path, x, np.asarray(y, np.float32).reshape(-1)


def _filled(
    workspace: Workspace, split: str, path: Path, rows: Array, indices: Indices
) -> Array:
    def read(batch: Indices) -> Array:
        check_not_finite(path, "", rows[batch])
        return rows[batch]

    return filled(workspace, f"{split}_x", indices, read, (1, WIDTH))


TASKS = declared_tasks(__name__)
