"""DeepSEA."""

from pathlib import Path

import numpy as np

from orca_ray.data.prepared import SPLITS
from orca_ray.tasks.nasbench360.deepsea import TASK
from tests.tasks.nasbench360.reference_loaders import reference_arrays
from tests.tasks.nasbench360.twin_data import prepare, raw_twin, training_rows
from tests.tasks.reference_utils import needs_reference
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


@needs_reference
def test_it_equals_what_the_reference_loads(tmp_path: Path) -> None:
    data = prepare(TASK, tmp_path)
    theirs = reference_arrays("deepsea", raw_twin(TASK, tmp_path), tmp_path, valid=True)
    for split in SPLITS:
        np.testing.assert_array_equal(data.splits[split].x, theirs[f"{split}_x"])
        np.testing.assert_array_equal(data.splits[split].y, theirs[f"{split}_y"])
    x, y = training_rows(data)
    theirs = reference_arrays("deepsea", tmp_path / "raw", tmp_path, valid=False)
    np.testing.assert_array_equal(x, theirs["train_x"])
    np.testing.assert_array_equal(y, theirs["train_y"])
