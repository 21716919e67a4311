"""NinaPro DB5."""

from pathlib import Path

import numpy as np

from orca_ray.data.prepared import SPLITS
from orca_ray.tasks.nasbench360.ninapro import TASK
from tests.tasks.nasbench360.twin_data import prepare, raw_twin


def test_electrodes_become_rows_and_time_runs_along_the_last_axis(tmp_path: Path) -> None:
    data = prepare(TASK, tmp_path)
    for split, name, count in zip(SPLITS, ("train", "val", "test"), (72, 36, 36), strict=True):
        windows = np.load(tmp_path / f"raw/ninaPro/ninapro_{name}.npy")
        x = np.asarray(data.splits[split].x)
        assert x.shape == (count, 1, 16, 52)
        assert x[3, 0, 11, 40] == np.float32(windows[3, 40, 11])
        np.testing.assert_array_equal(x[:, 0], windows.transpose(0, 2, 1).astype(np.float32))
        np.testing.assert_array_equal(data.splits[split].y, np.load(tmp_path / f"raw/ninaPro/label_{name}.npy"))


def test_labels_may_be_stored_as_floats(tmp_path: Path) -> None:
    path = raw_twin(TASK, tmp_path) / "ninaPro/label_train.npy"
    labels = np.load(path)
    np.save(path, labels.astype(np.float64))
    np.testing.assert_array_equal(prepare(TASK, tmp_path).train.y, labels)
