"""Steps that builds of tasks share, and scales.

Models take out the scale of inputs and targets. Of spectrograms librosa is the judge;
what it said once is written down.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from orca_ray.data.prepared import Split
from orca_ray.data.rows import Rows, Target
from orca_ray.errors import UserError
from orca_ray.tasks import arrays
from orca_ray.tasks.scaling import input_statistics, with_target_statistics
from orca_ray.tasks.task import Scale
from orca_ray.testing.trials import make_data, make_task

DENSE = replace(make_task(Target("dense", shape=(12,))), loss="nrmse", metric="nrmse")


def statistics(x: Rows, scale: Scale) -> tuple[Tensor, Tensor]:
    found = input_statistics(x, scale)
    assert found is not None
    return found


def test_the_declaration_decides() -> None:
    """Declared scales do not depend on a sample of few rows.

    It may look standardised, or not, by chance.
    """
    x = np.random.default_rng(0).normal(size=(60, 2, 9)).astype(np.float32)
    padded = np.where(np.arange(9) < 5, x, 0)
    # They are standardised already.
    assert input_statistics(x, "measured") is None
    assert input_statistics(padded, "measured") is None
    assert input_statistics(x, "units") is not None
    assert input_statistics(x * 100 + 7, "standardised") is None
    assert input_statistics(x * 100 + 7, "measured") is not None
    data = replace(make_data(DENSE), y_mean=None, y_std=None)
    small_splits = {
        name: Split(split.x, np.asarray(split.y) / 40)
        for name, split in data.splits.items()
    }
    small = replace(data, splits=small_splits)
    standardised = replace(DENSE, target_scale="standardised")
    assert with_target_statistics(standardised, small) is small
    in_units = replace(DENSE, target_scale="units")
    y_std = with_target_statistics(in_units, small).y_std
    assert y_std == pytest.approx(small.train.y.std(), rel=1e-3)


@pytest.mark.parametrize("scale", [1e-3, 1e6])
def test_a_badly_scaled_channel_among_standardised_ones_is_found(scale: float) -> None:
    """The statistics of all values would not show it.

    If the channel is small, they are those of the other channels.
    """
    x = np.random.default_rng(0).normal(size=(400, 3, 9)).astype(np.float32)
    x[:, 1] *= scale
    mean, deviation = statistics(x, "measured")
    assert mean[[0, 2], 0].tolist() == [0, 0]
    assert deviation[[0, 2], 0].tolist() == [1, 1]
    assert float(deviation[1, 0]) == pytest.approx(x[:, 1].std(), rel=1e-5)
    mean, deviation = statistics(x[..., None] + 5, "units")
    assert mean.shape == (3, 1, 1)
    np.testing.assert_allclose(mean[:, 0, 0], x.mean(axis=(0, 2)) + 5, rtol=1e-4)
    np.testing.assert_allclose(deviation[:, 0, 0], x.std(axis=(0, 2)), rtol=1e-4)


def test_a_constant_channel_is_only_centred() -> None:
    x = np.random.default_rng(0).normal(size=(400, 4, 9)).astype(np.float32)
    x[:, 1] = 0
    x[:, 2] = 7
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
    np.testing.assert_allclose(
        deviation[:, 0], [0.5, 0.1], rtol=1e-5
    )  # its own deviation is 0.03


def test_targets_of_a_regression_get_statistics_where_they_need_them() -> None:
    data = make_data(DENSE)
    bare = replace(data, y_mean=None, y_std=None)
    far = replace(
        bare, splits={name: Split(s.x, s.y * 3 + 40) for name, s in data.splits.items()}
    )
    found = with_target_statistics(DENSE, far)
    assert found.y_mean == pytest.approx(far.train.y.mean(), rel=1e-3)
    assert found.y_std == pytest.approx(far.train.y.std(), rel=1e-3)
    assert with_target_statistics(DENSE, data) is data
    assert with_target_statistics(replace(DENSE, loss="masked_bce"), far) is far


def test_statistics_come_from_training_alone() -> None:
    train = np.array([[[0.0, 2.0, np.nan]], [[4.0, 6.0, 1.0]]])
    other = np.full((3, 1, 3), 100.0)
    labels = np.array([0, 1, 0])
    named = arrays.classification(
        [(train, labels[:2]), (other, labels), (other, labels)], axes=(0,)
    )
    np.testing.assert_allclose(
        named["train_x"], [[[-1, -1, 0]], [[1, 1, 0]]]
    )  # padding becomes the mean
    np.testing.assert_allclose(
        named["test_x"][..., :2], np.broadcast_to([[[49, 48]]], (3, 1, 2))
    )
    assert named["validation_y"].dtype == np.int64


def test_targets_stay_as_they_are_beside_their_statistics() -> None:
    x = np.zeros((2, 1, 2))
    y = np.array([[1.0, 10.0], [3.0, 30.0]])
    parts = [(x, y), (x, y + 5), (x, y)]
    pointwise = arrays.regression(parts)
    np.testing.assert_array_equal(pointwise["validation_y"], (y + 5).astype(np.float32))
    np.testing.assert_allclose(pointwise["y_mean"], [2, 20])
    np.testing.assert_allclose(pointwise["y_std"], [1, 10])
    np.testing.assert_allclose(
        arrays.regression(parts, target_axes=(0, 1))["y_mean"], [11]
    )


@given(
    st.lists(st.integers(1, 7), min_size=2, max_size=6),
    st.floats(-1e3, 1e3, allow_nan=False),
    st.integers(0, 2**32 - 1),
)
def test_statistics_do_not_depend_on_the_blocks(
    sizes: list[int], offset: float, seed: int
) -> None:
    values = (np.random.RandomState(seed).randn(sum(sizes), 3) + offset).astype(
        np.float32
    )
    mean, scale = arrays.pointwise(np.split(values, np.cumsum(sizes)[:-1]))
    wide = values.astype(np.float64)
    np.testing.assert_allclose(mean, wide.mean(axis=0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(scale, wide.std(axis=0, ddof=1) + 1e-5, rtol=1e-5)


LIBROSA_BANDS = slice(5, None, 18)
LIBROSA_FRAMES = slice(None, None, 20)
LIBROSA = [
    [33.620, -17.100, -19.218, -12.394, -0.624, -36.150],
    [8.939, -11.612, -18.694, -9.082, -0.307, -36.150],
    [-6.525, -12.966, 20.266, -5.097, 3.044, -36.150],
    [2.842, -7.451, -3.856, -5.533, 38.181, -36.150],
    [-6.462, -5.645, -6.699, -4.000, 2.743, -36.150],
    [-1.019, -0.867, -3.796, -0.286, -0.557, -36.150],
]
"""Decibels of `chirp` by librosa 0.11: ``melspectrogram(sr=22050, n_fft=1920,
win_length=661, hop_length=220, n_mels=96, htk=True, norm=None, pad_mode="reflect")``,
then ``power_to_db``.
"""


def chirp() -> npt.NDArray[np.float32]:
    """A second at 22,050 Hz: a rising tone under noise, then silence."""
    time = np.arange(22050) / 22050
    tone = 0.5 * np.sin(2 * np.pi * (200 + 2000 * time) * time)
    noise = 0.01 * np.random.RandomState(0).standard_normal(len(time))
    return np.where(time < 0.8, tone + noise, 0).astype(np.float32)


def test_numbers_of_librosa() -> None:
    found = arrays.log_mel(chirp())
    assert found.shape == (96, 101)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[LIBROSA_BANDS, LIBROSA_FRAMES], LIBROSA, atol=6e-4)


def test_other_rates_and_sizes() -> None:
    """A tone of 1000 Hz is loudest in its band.

    That holds for any rate and number of bands.
    """
    for sample_rate, n_mels, n_fft in (
        (22050, 96, 1920),
        (16000, 40, 1024),
        (8000, 20, 512),
    ):
        time = np.arange(sample_rate) / sample_rate
        tone = np.sin(2 * np.pi * 1000 * time).astype(np.float32)
        found = arrays.log_mel(
            tone, sample_rate=sample_rate, n_mels=n_mels, n_fft=n_fft
        )
        assert found.shape == (n_mels, 1 + sample_rate // int(0.01 * sample_rate))
        mel, highest = (
            2595 * np.log10(1 + hertz / 700) for hertz in (1000, sample_rate / 2)
        )
        assert abs(mel / highest * (n_mels + 1) - (int(found[:, 50].argmax()) + 1)) <= 1


def test_decibels_are_of_the_amplitude_and_cut_off_below_the_loudest() -> None:
    np.testing.assert_allclose(
        arrays.log_mel(chirp()[:12000]),
        arrays.log_mel(0.1 * chirp()[:12000]) + 20,
        atol=1e-3,
    )
    assert arrays.log_mel(chirp()).min() == pytest.approx(
        arrays.log_mel(chirp()).max() - 80, abs=1e-4
    )
    assert (
        arrays.log_mel(np.zeros(22050, np.float32)).tolist()
        == np.full((96, 101), -100.0).tolist()
    )


@pytest.mark.parametrize("shape", [(960,), (0,), (1, 22050)])
def test_what_has_no_spectrogram(shape: tuple[int, ...]) -> None:
    with pytest.raises(
        UserError, match=r"one channel of more than 960 samples, got shape"
    ):
        arrays.log_mel(np.zeros(shape, np.float32))
