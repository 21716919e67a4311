"""The scale that a task declares decides what is taken out of its inputs and targets."""

from dataclasses import replace

import numpy as np
import pytest
from torch import Tensor

from orca_ray.data.prepared import Split
from orca_ray.data.rows import Rows, Target
from orca_ray.tasks.scaling import input_statistics, with_target_statistics
from orca_ray.tasks.task import Scale
from orca_ray.testing.trials import make_data, make_task

DENSE = replace(make_task(Target("dense", shape=(12,))), loss="nrmse", metric="nrmse")


def statistics(x: Rows, scale: Scale) -> tuple[Tensor, Tensor]:
    found = input_statistics(x, scale)
    assert found is not None
    return found


def test_the_declaration_decides() -> None:
    """A sample of few rows may look standardised, or not, by chance: declared scales do not depend on it."""
    x = np.random.default_rng(0).normal(size=(60, 2, 9)).astype(np.float32)
    padded = x * (np.arange(9) < 5)
    assert [input_statistics(each, "measured") for each in (x, padded)] == [None, None]  # standardised already
    assert input_statistics(x, "units") is not None
    assert input_statistics(x * 100 + 7, "standardised") is None
    assert input_statistics(x * 100 + 7, "measured") is not None
    data = replace(make_data(DENSE), y_mean=None, y_std=None)
    near = replace(data, splits={name: Split(s.x, np.asarray(s.y) / 40) for name, s in data.splits.items()})
    assert with_target_statistics(replace(DENSE, target_scale="standardised"), near) is near
    assert with_target_statistics(replace(DENSE, target_scale="units"), near).y_std == pytest.approx(
        near.train.y.std(), rel=1e-3
    )


def test_statistics_are_each_channels_own() -> None:
    x = np.random.default_rng(0).normal(size=(4000, 3, 9))
    x = (x * np.array([1, 10, 0])[:, None] + np.array([5, -3, 7])[:, None]).astype(np.float32)
    mean, deviation = statistics(x, "measured")
    assert mean.shape == deviation.shape == (3, 1)
    np.testing.assert_allclose(mean[:, 0], [5, -3, 7], atol=0.5)
    np.testing.assert_allclose(deviation[:, 0], [1, 10, 1], rtol=0.1)  # a constant channel is not blown up
    assert statistics(x[:, :, :, None].repeat(2, axis=3), "units")[0].shape == (3, 1, 1)


@pytest.mark.parametrize("scale", [1e-3, 1e6])
def test_a_badly_scaled_channel_among_standardised_ones_is_found(scale: float) -> None:
    """The mean and deviation of all values are those of the other channels, if this one is small."""
    x = np.random.default_rng(0).normal(size=(400, 3, 9)).astype(np.float32)
    x[:, 1] *= scale
    mean, deviation = statistics(x, "measured")
    assert mean[[0, 2], 0].tolist() == [0, 0]
    assert deviation[[0, 2], 0].tolist() == [1, 1]
    assert float(deviation[1, 0]) == pytest.approx(x[:, 1].std(), rel=1e-5)
    np.testing.assert_allclose(statistics(x, "units")[1][:, 0], x.std(axis=(0, 2)), rtol=1e-5)


def test_a_constant_channel_is_only_centred() -> None:
    x = np.random.default_rng(0).normal(size=(400, 4, 9)).astype(np.float32)
    x[:, 1], x[:, 2] = 0, 7
    x[:, 3] = 7 * (1 + 1e-7 * x[:, 3])  # rounding
    mean, deviation = statistics(x, "measured")
    np.testing.assert_allclose(mean[:, 0], [0, 0, 7, 7], rtol=1e-5)
    assert deviation[:, 0].tolist() == [1, 1, 1, 1]
    assert input_statistics(x[:, :2], "measured") is None


def test_rare_values_of_an_almost_constant_channel_stay_small() -> None:
    x = np.zeros((400, 2, 10), dtype=np.float32)
    x[:200, 0] = 1
    x[:, 1, 0] = np.arange(400) % 100 == 0  # one value in 1000
    mean, deviation = statistics(x, "units")
    np.testing.assert_allclose(mean[:, 0], [0.5, 0.001], rtol=1e-5)
    np.testing.assert_allclose(deviation[:, 0], [0.5, 0.1], rtol=1e-5)  # its own deviation is 0.03


def test_targets_of_a_regression_get_statistics_where_they_need_them() -> None:
    data = make_data(DENSE)
    bare = replace(data, y_mean=None, y_std=None)
    far = replace(bare, splits={name: Split(s.x, s.y * 3 + 40) for name, s in data.splits.items()})
    found = with_target_statistics(DENSE, far)
    assert found.y_mean == pytest.approx(far.train.y.mean(), rel=1e-3)
    assert found.y_std == pytest.approx(far.train.y.std(), rel=1e-3)
    assert with_target_statistics(DENSE, data) is data
    assert with_target_statistics(replace(DENSE, loss="masked_bce"), far) is far
