from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orca_ray.data.readers import check_labels, check_not_finite, check_shape
from orca_ray.errors import UserError

Array = np.ndarray[Any, Any]


def test_what_is_not_finite_is_found_in_any_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orca_ray.data.readers._SLICE_BYTES", 32)
    array = np.ones((20, 3), np.float32)
    check_not_finite(Path("x.npy"), "data", array)
    check_not_finite(Path("x.npy"), "data", np.arange(3))
    array[17, 2] = np.nan
    with pytest.raises(UserError, match=r"x\.npy, data: expected finite numbers, found nan at index \[17, 2\]"):
        check_not_finite(Path("x.npy"), "data", array)
    with pytest.raises(UserError, match=r"x\.npy: expected finite numbers, found -inf at index \[0\]"):
        check_not_finite(Path("x.npy"), "", np.array(-np.inf))


@pytest.mark.filterwarnings("error")
def test_a_number_above_the_largest_of_float32_is_refused() -> None:
    check_not_finite(Path("x.npy"), "", np.array([3.4e38]))
    with pytest.raises(
        UserError, match=r"x\.npy: expected finite numbers up to 3\.40.*e\+38 \(float32\), found 1e\+39 at"
    ):
        check_not_finite(Path("x.npy"), "", np.array([0, 1e39]))


def test_another_shape_is_refused() -> None:
    check_shape(Path("x.npy"), "data", np.ones((5, 52, 16)), (None, 52, 16))
    for shape in [(5, 16, 52), (5, 52), (5, 52, 16, 1)]:
        with pytest.raises(UserError, match=r"x\.npy, data: expected shape \[any, 52, 16\], found \[5, "):
            check_shape(Path("x.npy"), "data", np.ones(shape), (None, 52, 16))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([1, 24, 25]), "expected labels from 1 to 24, found 25 at 2"),
        (np.array([0, 1]), "found 0 at 0"),
        (np.array([[1.0, 1.5]]), "found 1.5 at 1"),
        (np.array([1.0, np.nan]), "found nan at 1"),
        (np.array(["1"]), "expected whole numbers, found str"),
    ],
)
def test_labels_out_of_range(labels: Array, message: str) -> None:
    check_labels(Path("x.npy"), "label", np.array([1, 24.0]), 1, 24)
    with pytest.raises(UserError, match=rf"x\.npy, label: .*{message}"):
        check_labels(Path("x.npy"), "label", labels, 1, 24)
