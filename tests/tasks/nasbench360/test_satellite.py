"""Satellite."""

from pathlib import Path

import numpy as np

from orca_ray.tasks.nasbench360.satellite import TASK
from tests.tasks.nasbench360.reference_loaders import reference_arrays
from tests.tasks.nasbench360.twin_data import ordered, prepare, raw_twin, training_rows
from tests.tasks.reference_utils import needs_reference
from tests.twins.nasbench360_series_files import satellite_content


def test_series_are_kept_as_they_are_and_labels_begin_at_zero(tmp_path: Path) -> None:
    data = prepare(TASK, tmp_path)
    content = satellite_content("test")
    np.testing.assert_array_equal(np.asarray(data.test.x)[:, 0], content["data"].astype(np.float32))
    np.testing.assert_array_equal(data.test.y, content["label"] - 1)


def test_validation_is_as_large_as_test_and_shares_nothing_with_train(tmp_path: Path) -> None:
    data = prepare(TASK, tmp_path)
    assert (len(data.train), len(data.validation), len(data.test)) == (96, 48, 48)
    assert np.bincount(data.validation.y).tolist() == [2] * 24
    content = satellite_content("train")
    x, y = ordered(*training_rows(data))
    series, labels = ordered(content["data"][:, None].astype(np.float32), content["label"] - 1)
    np.testing.assert_array_equal(x, series)
    np.testing.assert_array_equal(y, labels)


@needs_reference
def test_the_references_own_validation_lies_within_its_training_set(tmp_path: Path) -> None:
    """Why ours is drawn otherwise."""
    theirs = reference_arrays("satellite", raw_twin(TASK, tmp_path), tmp_path, valid=True)
    np.testing.assert_array_equal(theirs["validation_x"], theirs["train_x"][-48:])
    data = prepare(TASK, tmp_path)
    train, validation = ({row.tobytes() for row in np.asarray(split.x)} for split in (data.train, data.validation))
    assert not train & validation
