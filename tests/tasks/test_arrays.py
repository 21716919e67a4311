"""Steps that builds of tasks share, and the scales of inputs and targets.

Spectrograms are compared with recorded values of librosa.
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


def measure(x: Rows, scale: Scale) -> tuple[Tensor, Tensor]:
    """Return the mean and the deviation of each channel, which must be measured."""
    statistics = input_statistics(x, scale)
    assert statistics is not None
    return statistics


def test_a_declared_scale_of_inputs_decides_and_not_a_sample_of_few_rows() -> None:
    standard = np.random.default_rng(0).normal(size=(60, 2, 9)).astype(np.float32)
    padded = np.where(np.arange(9) < 5, standard, 0)
    in_units = standard * 100 + 7
    assert input_statistics(standard, "measured") is None
    assert input_statistics(padded, "measured") is None
    assert input_statistics(in_units, "measured") is not None
    assert input_statistics(standard, "units") is not None
    assert input_statistics(in_units, "standardised") is None


def test_a_declared_scale_of_targets_decides() -> None:
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
    # Statistics of all values are those of the other channels if this one is small.
    x = np.random.default_rng(0).normal(size=(400, 3, 9)).astype(np.float32)
    x[:, 1] *= scale
    mean, deviation = measure(x, "measured")
    assert mean[[0, 2], 0].tolist() == [0, 0]
    assert deviation[[0, 2], 0].tolist() == [1, 1]
    assert float(deviation[1, 0]) == pytest.approx(x[:, 1].std(), rel=1e-5)
    mean, deviation = measure(x[..., None] + 5, "units")
    assert mean.shape == (3, 1, 1)
    np.testing.assert_allclose(mean[:, 0, 0], x.mean(axis=(0, 2)) + 5, rtol=1e-4)
    np.testing.assert_allclose(deviation[:, 0, 0], x.std(axis=(0, 2)), rtol=1e-4)


def test_a_constant_channel_is_only_centred() -> None:
    x = np.random.default_rng(0).normal(size=(400, 4, 9)).astype(np.float32)
    x[:, 1] = 0
    x[:, 2] = 7
    x[:, 3] = 7 * (1 + 1e-7 * x[:, 3])  # rounding
    mean, deviation = measure(x, "measured")
    np.testing.assert_allclose(mean[:, 0], [0, 0, 7, 7], rtol=1e-5)
    assert deviation[:, 0].tolist() == [1, 1, 1, 1]
    assert input_statistics(x[:, :2], "measured") is None


def test_rare_values_of_an_almost_constant_channel_stay_small() -> None:
    x = np.zeros((400, 2, 10), dtype=np.float32)
    x[:200, 0] = 1
    x[:, 1, 0] = np.arange(400) % 100 == 0  # one value in 1000
    mean, deviation = measure(x, "units")
    np.testing.assert_allclose(mean[:, 0], [0.5, 0.001], rtol=1e-5)
    # The second channel's own deviation is 0.03.
    np.testing.assert_allclose(deviation[:, 0], [0.5, 0.1], rtol=1e-5)


def test_targets_of_a_regression_get_statistics_where_they_need_them() -> None:
    data = make_data(DENSE)
    far_splits = {
        name: Split(split.x, split.y * 3 + 40) for name, split in data.splits.items()
    }
    far = replace(data, splits=far_splits, y_mean=None, y_std=None)
    measured = with_target_statistics(DENSE, far)
    assert measured.y_mean == pytest.approx(far.train.y.mean(), rel=1e-3)
    assert measured.y_std == pytest.approx(far.train.y.std(), rel=1e-3)
    assert with_target_statistics(DENSE, data) is data
    assert with_target_statistics(replace(DENSE, loss="masked_bce"), far) is far


def test_statistics_come_from_training_alone() -> None:
    train = np.array([[[0.0, 2.0, np.nan]], [[4.0, 6.0, 1.0]]])
    held_out = np.full((3, 1, 3), 100.0)
    labels = np.array([0, 1, 0])
    splits = [(train, labels[:2]), (held_out, labels), (held_out, labels)]
    named = arrays.classification(splits, axes=(0,))
    # Padding becomes the mean.
    np.testing.assert_allclose(named["train_x"], [[[-1, -1, 0]], [[1, 1, 0]]])
    assert named["test_x"].shape == (3, 1, 3)
    np.testing.assert_allclose(named["test_x"][..., 0], 49)
    np.testing.assert_allclose(named["test_x"][..., 1], 48)
    assert named["validation_y"].dtype == np.int64


def test_targets_stay_as_they_are_beside_their_statistics() -> None:
    x = np.zeros((2, 1, 2))
    y = np.array([[1.0, 10.0], [3.0, 30.0]])
    splits = [(x, y), (x, y + 5), (x, y)]
    pointwise = arrays.regression(splits)
    np.testing.assert_array_equal(pointwise["validation_y"], (y + 5).astype(np.float32))
    np.testing.assert_allclose(pointwise["y_mean"], [2, 20])
    np.testing.assert_allclose(pointwise["y_std"], [1, 10])
    with_one_scale = arrays.regression(splits, target_axes=(0, 1))
    np.testing.assert_allclose(with_one_scale["y_mean"], [11])


@given(
    st.lists(st.integers(1, 7), min_size=2, max_size=6),
    st.floats(-1e3, 1e3, allow_nan=False),
    st.integers(0, 2**32 - 1),
)
def test_statistics_do_not_depend_on_the_blocks(
    sizes: list[int], offset: float, seed: int
) -> None:
    noise = np.random.RandomState(seed).randn(sum(sizes), 3)
    values = (noise + offset).astype(np.float32)
    blocks = np.split(values, np.cumsum(sizes)[:-1])
    mean, scale = arrays.pointwise_statistics(blocks)
    exact = values.astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean(axis=0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(scale, exact.std(axis=0, ddof=1) + 1e-5, rtol=1e-5)


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
"""Decibels of `make_chirp` by librosa 0.11: ``melspectrogram(sr=22050, n_fft=1920,
win_length=661, hop_length=220, n_mels=96, htk=True, norm=None, pad_mode="reflect")``,
then ``power_to_db``.
"""


def make_chirp() -> npt.NDArray[np.float32]:
    """Return a second at 22,050 Hz: a rising tone under noise, then silence."""
    time = np.arange(22050) / 22050
    tone = 0.5 * np.sin(2 * np.pi * (200 + 2000 * time) * time)
    noise = 0.01 * np.random.RandomState(0).standard_normal(len(time))
    return np.where(time < 0.8, tone + noise, 0).astype(np.float32)


def test_a_spectrogram_is_that_of_librosa() -> None:
    spectrogram = arrays.log_mel(make_chirp())
    assert spectrogram.shape == (96, 101)
    assert spectrogram.dtype == np.float32
    sampled = spectrogram[LIBROSA_BANDS, LIBROSA_FRAMES]
    np.testing.assert_allclose(sampled, LIBROSA, atol=6e-4)


@pytest.mark.parametrize(
    ("sample_rate", "n_mels", "n_fft"),
    [(22050, 96, 1920), (16000, 40, 1024), (8000, 20, 512)],
)
def test_a_tone_is_loudest_in_its_band(
    sample_rate: int, n_mels: int, n_fft: int
) -> None:
    hertz = 1000
    time = np.arange(sample_rate) / sample_rate
    tone = np.sin(2 * np.pi * hertz * time).astype(np.float32)
    spectrogram = arrays.log_mel(
        tone, sample_rate=sample_rate, n_mels=n_mels, n_fft=n_fft
    )
    assert spectrogram.shape == (n_mels, 1 + sample_rate // int(0.01 * sample_rate))
    mel = 2595 * np.log10(1 + hertz / 700)
    highest_mel = 2595 * np.log10(1 + sample_rate / 2 / 700)
    band = mel / highest_mel * (n_mels + 1)
    loudest_band = int(spectrogram[:, 50].argmax()) + 1
    assert abs(band - loudest_band) <= 1


def test_decibels_are_of_the_amplitude() -> None:
    sound = make_chirp()[:12000]
    decibels = arrays.log_mel(sound)
    np.testing.assert_allclose(arrays.log_mel(0.1 * sound) + 20, decibels, atol=1e-3)


def test_decibels_are_cut_off_below_the_loudest() -> None:
    decibels = arrays.log_mel(make_chirp())
    assert decibels.min() == pytest.approx(decibels.max() - 80, abs=1e-4)
    silence = arrays.log_mel(np.zeros(22050, np.float32))
    np.testing.assert_array_equal(silence, np.full((96, 101), -100.0))


@pytest.mark.parametrize("shape", [(960,), (0,), (1, 22050)])
def test_short_sounds_and_several_channels_have_no_spectrogram(
    shape: tuple[int, ...],
) -> None:
    message = "one channel of more than 960 samples, got shape"
    with pytest.raises(UserError, match=message):
        arrays.log_mel(np.zeros(shape, np.float32))
