"""Darcy flow: subsampled, standardised point by point."""

from pathlib import Path

import numpy as np
import pytest

from orca_ray.tasks.nasbench360.darcy_flow import TASK, TEST_FILE, TRAIN_FILE
from tests.raw_files.nasbench360_series import darcy_content, save_matlab5, save_matlab73
from tests.tasks.nasbench360.raw_data import prepare, training_rows


@pytest.mark.slow
@pytest.mark.parametrize(("protocol", "seen"), [("held-out", 11), ("paper", 12)])
def test_every_fifth_point_is_kept_and_statistics_are_of_what_trains(protocol: str, seen: int, tmp_path: Path) -> None:
    data = prepare(TASK, tmp_path, protocol)
    assert (len(data.train), len(data.validation), len(data.test)) == (11, 1, 3)
    content, test = darcy_content(12), darcy_content(3, 1)
    coefficients, solutions = (content[name][:, ::5, ::5] for name in ("coeff", "sol"))
    mean, std = coefficients[:seen].mean(axis=0), coefficients[:seen].std(axis=0, ddof=1) + 1e-5
    x, y = training_rows(data)
    np.testing.assert_allclose(x[:, 0], (coefficients - mean) / std, rtol=1e-5, atol=1e-5)
    # Coordinates run along columns in channel 1, and along rows in channel 2.
    ticks = np.broadcast_to(np.arange(85) / 84, (len(x), 85, 85))
    np.testing.assert_allclose(x[:, 1:], np.stack([ticks, ticks.swapaxes(1, 2)], axis=1), atol=1e-7)
    np.testing.assert_array_equal(y, solutions.astype(np.float32))
    np.testing.assert_allclose(data.test.x[:][:, 0], (test["coeff"][:, ::5, ::5] - mean) / std, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(data.test.y, test["sol"][:, ::5, ::5].astype(np.float32))
    assert data.y_mean is not None
    assert data.y_std is not None
    np.testing.assert_allclose(data.y_mean, solutions[:seen].mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(data.y_std, solutions[:seen].std(axis=0, ddof=1) + 1e-5, rtol=1e-5)


@pytest.mark.slow
def test_files_of_matlab_5_and_7_3_give_the_same_arrays(tmp_path: Path) -> None:
    fingerprints = set()
    for name, save in (("5", save_matlab5), ("7.3", save_matlab73)):
        raw = tmp_path / name / "raw"
        raw.mkdir(parents=True)
        save(raw / TRAIN_FILE, darcy_content(5))
        save(raw / TEST_FILE, darcy_content(3, 1))
        fingerprints.add(prepare(TASK, tmp_path / name).fingerprint)
    assert len(fingerprints) == 1
