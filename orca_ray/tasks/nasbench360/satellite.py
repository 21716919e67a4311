"""Satellite: 24 classes of land cover.

They are predicted from 46 observations of one pixel over a year. Inputs are the values
in the files, as in ORCA's code. NAS-Bench-360's own loaders standardise each series.
"""

from pathlib import Path

import numpy as np

from orca_ray.data.npy import read_npy
from orca_ray.data.readers import check_not_finite
from orca_ray.tasks.nasbench360._shared import (
    check_numbers,
    class_labels,
    get_entries,
    published_splits,
)
from orca_ray.tasks.task import Array, Arrays, Workspace

TRAIN_FILE = "satellite_train.npy"
TEST_FILE = "satellite_test.npy"
LENGTH = 46
NUM_CLASSES = 24  # numbered from 1 in the files


def _build(workspace: Workspace) -> Arrays:
    """Return the arrays of the task."""
    path = workspace.file(TRAIN_FILE)
    test_path = workspace.file(TEST_FILE)
    return published_splits(
        workspace, path, _series(path), _series(test_path), lambda x: x[:, None]
    )


def _series(path: Path) -> tuple[Array, Array]:
    """Read a file; return series [N, 46] and classes [N], numbered from 0.

    Raises UserError if the file is invalid.
    """
    content = read_npy(path, pickled=True)
    if (
        isinstance(content, np.ndarray)
        and content.shape == ()
        and content.dtype == object
    ):
        content = content.item()
    data, label = get_entries(path, content, "data", "label")
    data = check_numbers(path, "data", data, (None, LENGTH))
    check_not_finite(path, "data", data)
    return data, class_labels(path, "label", label, len(data), NUM_CLASSES, first=1)
