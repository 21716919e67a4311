"""Spherical CIFAR-100."""

from pathlib import Path

import numpy as np

from orca_ray.tasks.nasbench360.cifar import SPHERICAL as TASK
from tests.tasks.nasbench360.twin_data import ordered, prepare, training_rows
from tests.twins.nasbench360_series_files import save_spherical, spherical_content


def test_pixels_are_divided_by_255(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    content = spherical_content()
    content["test"]["images"][0, :, 5, 7] = [0, 51, 255]
    save_spherical(raw, content)
    data = prepare(TASK, tmp_path)
    np.testing.assert_allclose(data.test.x[:1][0, :, 5, 7], [0, 0.2, 1], rtol=1e-7)
    np.testing.assert_array_equal(data.test.y, content["test"]["labels"])


def test_validation_is_carved_from_train_with_every_class(tmp_path: Path) -> None:
    data = prepare(TASK, tmp_path)
    content = spherical_content()["train"]
    assert (len(data.train), len(data.validation), len(data.test)) == (200, 100, 100)
    assert sorted(data.validation.y) == list(range(100))
    x, y = ordered(*training_rows(data))
    images, labels = ordered(content["images"] / np.float32(255), content["labels"])
    np.testing.assert_array_equal(x, images)
    np.testing.assert_array_equal(y, labels)
