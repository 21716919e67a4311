"""DeepSEA: 36 chromatin features (labels), predicted from 1000 bases of DNA."""

from pathlib import Path

import numpy as np

from orca_ray.data.npy import Npz
from orca_ray.data.splits import Indices
from orca_ray.errors import UserError
from orca_ray.tasks.arrays import Pair, fill_array, name_arrays
from orca_ray.tasks.nasbench360._shared import check_numbers
from orca_ray.tasks.task import Array, Arrays, Workspace

FILE = "deepsea_filtered.npz"
LENGTH = 1000
NUM_BASES = 4
NUM_LABELS = 36
NUM_SAMPLES = (71_753, 2490, 149_400)

_MEMBERS = {"train": "train", "validation": "val", "test": "test"}
"""Names of the published splits in the file.

ORCA's code trains on train and val together.
"""


def _build(workspace: Workspace) -> Arrays:
    """Return the arrays of the task; the file has all three splits."""
    path = workspace.file(FILE)
    content = Npz(
        path, [f"{axis}_{name}" for name in _MEMBERS.values() for axis in "xy"]
    )
    parts = [
        _split(workspace, path, content, split, name)
        for split, name in _MEMBERS.items()
    ]
    workspace.check_count(path, len(parts[0][1]), NUM_SAMPLES[0])
    return name_arrays(parts)


def _split(
    workspace: Workspace, path: Path, content: Npz, split: str, name: str
) -> Pair:
    """Return x [N, 4, 1000] and y [N, 36] of a split.

    Its unpacked sequences are freed before the next are read.
    """
    y = _zeros_and_ones(
        path,
        f"y_{name}",
        check_numbers(path, f"y_{name}", content[f"y_{name}"], (None, NUM_LABELS)),
    )
    sequences = check_numbers(
        path, f"x_{name}", content[f"x_{name}"], (len(y), LENGTH, NUM_BASES)
    )

    def one_hot(indices: Indices) -> Array:
        return _zeros_and_ones(path, f"x_{name}", sequences[indices]).transpose(0, 2, 1)

    x = fill_array(
        workspace, f"{split}_x", np.arange(len(y)), one_hot, (NUM_BASES, LENGTH)
    )
    return x, y.astype(np.float32)


def _zeros_and_ones(path: Path, field: str, values: Array) -> Array:
    """Return ``values``; UserError if a value is neither 0 nor 1."""
    wrong = (values != 0) & (values != 1)
    if wrong.any():
        raise UserError(
            f"{path}: {field} must hold 0 and 1 only, found {values[wrong][0]}"
        )
    return values
