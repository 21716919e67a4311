"""NinaPro DB5: 18 hand gestures.

They are predicted from windows of 52 time steps of 16 electrodes on the forearm.
"""

from pathlib import Path

import numpy as np

from orca_ray.data.npy import read_npy
from orca_ray.data.readers import check_not_finite
from orca_ray.tasks.arrays import name_arrays
from orca_ray.tasks.nasbench360._shared import check_numbers, class_labels
from orca_ray.tasks.task import Array, Arrays, Workspace

NUM_STEPS = 52
NUM_ELECTRODES = 16
NUM_CLASSES = 18

_FILES = ("train", "val", "test")
"""Names of the published splits.

ORCA's code trains on train and val together, as the protocol ``paper`` does.
"""


def _build(workspace: Workspace) -> Arrays:
    """Return the arrays of the task; there are files for all three splits."""
    parts = []
    for name in _FILES:
        x = _windows(workspace.file(f"ninaPro/ninapro_{name}.npy"))
        path = workspace.file(f"ninaPro/label_{name}.npy")
        parts.append(
            (
                x,
                class_labels(
                    path,
                    "labels",
                    read_npy(path, ndim=1, kind="fiu"),
                    len(x),
                    NUM_CLASSES,
                ),
            )
        )
    return name_arrays(parts)


def _windows(path: Path) -> Array:
    """Return the windows of a file as [N, 1, electrodes, steps] float32.

    They are stored as [N, steps, electrodes].
    """
    x = check_numbers(
        path,
        "windows",
        read_npy(path, ndim=3, kind="fiu"),
        (None, NUM_STEPS, NUM_ELECTRODES),
    )
    check_not_finite(path, "windows", x)
    return np.ascontiguousarray(x.transpose(0, 2, 1)[:, None], dtype=np.float32)
