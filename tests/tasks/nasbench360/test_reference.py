"""Tasks whose arrays equal what the reference's loaders yield; other tests compare those that differ from it."""

from pathlib import Path

import numpy as np
import pytest

from orca_ray.data.prepared import SPLITS
from orca_ray.tasks.nasbench360 import cifar, deepsea, ninapro, satellite
from orca_ray.tasks.task import Task
from tests.tasks.nasbench360.reference_loaders import reference_arrays
from tests.tasks.nasbench360.twin_data import ordered, prepare, raw_twin, training_rows
from tests.tasks.reference_utils import needs_reference

pytestmark = needs_reference


@pytest.mark.parametrize(("loader", "task"), [("deepsea", deepsea.TASK), ("ninapro", ninapro.TASK)])
def test_published_splits(loader: str, task: Task, tmp_path: Path) -> None:
    data = prepare(task, tmp_path)
    theirs = reference_arrays(loader, raw_twin(task, tmp_path), tmp_path, valid=True)
    for split in SPLITS:
        np.testing.assert_array_equal(data.splits[split].x, theirs[f"{split}_x"])
        np.testing.assert_array_equal(data.splits[split].y, theirs[f"{split}_y"])
    x, y = training_rows(data)
    theirs = reference_arrays(loader, raw_twin(task, tmp_path), tmp_path, valid=False)
    np.testing.assert_array_equal(x, theirs["train_x"])
    np.testing.assert_array_equal(y, theirs["train_y"])


@pytest.mark.parametrize(
    ("loader", "task", "part"),
    [
        ("satellite", satellite.TASK, "train"),
        ("spherical", cifar.SPHERICAL, "train"),
        # Its training set is augmented; its validation set is the whole of it without.
        ("cifar", cifar.CIFAR100, "validation"),
    ],
)
def test_validation_carved_from_train(loader: str, task: Task, part: str, tmp_path: Path) -> None:
    data = prepare(task, tmp_path)
    theirs = reference_arrays(loader, raw_twin(task, tmp_path), tmp_path, valid=part == "validation")
    np.testing.assert_array_equal(data.test.x, theirs["test_x"])
    np.testing.assert_array_equal(data.test.y, theirs["test_y"])
    expected = ordered(theirs[f"{part}_x"], theirs[f"{part}_y"])
    for ours, each in zip(ordered(*training_rows(data)), expected, strict=True):
        np.testing.assert_array_equal(ours, each)
