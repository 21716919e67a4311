"""ECG: windows of records, standardised record by record."""

from pathlib import Path

import numpy as np
import pytest

from orca_ray.data.prepared import SPLITS
from orca_ray.tasks.nasbench360 import ecg
from orca_ray.tasks.nasbench360.ecg import TASK
from tests.raw_files.nasbench360_series import ecg_content, save_ecg
from tests.tasks.nasbench360.raw_data import prepare

LENGTHS = {"N": 2001, "A": 1084, "O": 1501, "~": 1051}
STARTS = {"N": [0, 500, 1000], "A": [0, 83], "O": [0, 250, 500], "~": [0, 25, 50]}


def _ramps(tmp_path: Path) -> list[tuple[str, int]]:
    """Write 40 records that rise from a number of their own, and return letter and number of each."""
    (tmp_path / "raw").mkdir()
    named = [("NAO~"[i % 4], 5000 + i) for i in range(40)]
    data = [np.arange(LENGTHS[letter]) * (1 + number % 7) + number for letter, number in named]
    save_ecg(tmp_path / "raw", {"data": np.array(data, dtype=object), "label": [letter for letter, _ in named]})
    return named


@pytest.mark.parametrize("protocol", ["held-out", "paper"])
def test_windows_begin_where_the_class_says_and_keep_the_order_of_records(protocol: str, tmp_path: Path) -> None:
    from sklearn.model_selection import train_test_split

    named = _ramps(tmp_path)
    data = prepare(TASK, tmp_path, protocol)
    if protocol == "held-out":
        train, rest = train_test_split(range(40), test_size=0.2, random_state=0)
        validation, test = train_test_split(rest, test_size=0.5, random_state=0)
    else:
        rest, test = train_test_split(range(40), test_size=0.1, random_state=0)
        train, validation = train_test_split(rest, test_size=1 / 9, random_state=0)
    assert (len(train), len(validation), len(test)) == (32, 4, 4)
    for split, records in zip(SPLITS, (train, validation, test), strict=True):
        expected_x, expected_y = [], []
        for record in records:
            letter, _ = named[record]
            length = LENGTHS[letter]
            # A ramp of n steps has mean (n - 1) / 2 and variance (n² - 1) / 12, whatever its slope.
            ramp = (np.arange(length) - (length - 1) / 2) / np.sqrt((length**2 - 1) / 12)
            expected_x += [ramp[start : start + 1000] for start in STARTS[letter]]
            expected_y += ["NAO~".index(letter)] * len(STARTS[letter])
        np.testing.assert_allclose(np.asarray(data.splits[split].x)[:, 0], expected_x, atol=1e-6)
        assert data.splits[split].y.tolist() == expected_y


@pytest.mark.parametrize(
    ("length", "label", "windows"), [(1000, 0, 0), (1001, 0, 1), (1500, 0, 1), (1501, 0, 2), (1083, 1, 1), (1084, 1, 2)]
)
def test_a_window_that_ends_with_its_record_is_none(length: int, label: int, windows: int) -> None:
    assert len(ecg._windows(np.arange(length), ecg.STRIDES[label])) == windows


def test_a_constant_record_becomes_zeros(tmp_path: Path) -> None:
    content = ecg_content()
    (tmp_path / "raw").mkdir()
    content["data"][:20] = [np.full(1300, 7, np.int16)] * 20
    save_ecg(tmp_path / "raw", content)
    x = np.asarray(prepare(TASK, tmp_path).train.x)
    assert np.isfinite(x).all()
    assert (x == 0).all(axis=(1, 2)).any()


def test_records_may_be_in_a_list(tmp_path: Path) -> None:
    content = ecg_content()
    (tmp_path / "raw").mkdir()
    save_ecg(tmp_path / "raw", content | {"data": list(content["data"])})
    expected = prepare(TASK, tmp_path / "array")
    assert prepare(TASK, tmp_path).fingerprint == expected.fingerprint
    assert all(set(expected.splits[split].y) == {0, 1, 2, 3} for split in SPLITS)
