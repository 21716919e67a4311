"""DeepSEA."""

from pathlib import Path

import numpy as np

from orca_ray.data.prepared import SPLITS
from orca_ray.tasks.nasbench360.deepsea import TASK
from tests.tasks.nasbench360.twin_data import prepare
from tests.twins.nasbench360_series_files import deepsea_content, save_deepsea


def test_bases_become_channels(tmp_path: Path) -> None:
    data = prepare(TASK, tmp_path)
    content = deepsea_content()
    for split, name in zip(SPLITS, ("train", "val", "test"), strict=True):
        x = np.asarray(data.splits[split].x)
        assert x.shape == (len(content[f"x_{name}"]), 4, 1000)
        assert x[5, 2, 300] == content[f"x_{name}"][5, 300, 2]
        np.testing.assert_array_equal(x, content[f"x_{name}"].transpose(0, 2, 1))
        np.testing.assert_array_equal(data.splits[split].y, content[f"y_{name}"])


def test_other_types_of_numbers_give_the_same_arrays(tmp_path: Path) -> None:
    fingerprints = set()
    for dtype in (np.uint8, np.bool_, np.float64, np.int64):
        directory = tmp_path / np.dtype(dtype).name
        (directory / "raw").mkdir(parents=True)
        save_deepsea(directory / "raw", {key: array.astype(dtype) for key, array in deepsea_content().items()})
        fingerprints.add(prepare(TASK, directory).fingerprint)
    assert len(fingerprints) == 1
