"""Networks of `fno` and `minirocket`: spectral convolutions with known results, and features by their definition."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch

from orca_ray.data.rows import Target
from orca_ray.models.fourier import SpectralConvolution, build_fourier
from orca_ray.models.minirocket import MiniRocketBody, fit_dilations


def spectral(size: tuple[int, int], modes: int, weight: torch.Tensor) -> SpectralConvolution:
    """Return a convolution of one channel whose factors of frequencies are ``weight`` [rows, columns] complex."""
    made = SpectralConvolution(1, size, modes)
    with torch.no_grad():
        made.weight.copy_(torch.view_as_real(weight.expand(made.weight.shape[:-1]).contiguous()))
    return made


def test_the_derivative_of_a_wave() -> None:
    angles = torch.arange(32) * (2 * math.pi / 32)
    derivative = spectral((1, 32), 5, 1j * torch.arange(5)[None].to(torch.complex64))
    wave = (3 + torch.sin(2 * angles) - torch.cos(4 * angles)).reshape(1, 1, 1, 32)
    expected = 2 * torch.cos(2 * angles) + 4 * torch.sin(4 * angles)
    assert derivative(wave).flatten().tolist() == pytest.approx(expected.tolist(), abs=1e-4)


@pytest.mark.parametrize("size", [(1, 15), (6, 8), (7, 5)])
def test_all_frequencies_kept_is_the_identity(size: tuple[int, int]) -> None:
    x = torch.randn(2, 1, *size)
    assert torch.allclose(spectral(size, 99, torch.ones(1, 1, dtype=torch.complex64))(x), x, atol=1e-5)


def test_only_low_frequencies_pass() -> None:
    first, second = torch.meshgrid(torch.arange(16) * math.pi / 8, torch.arange(16) * math.pi / 8, indexing="ij")
    low, high = torch.cos(-2 * first + second), torch.cos(3 * first) + torch.cos(2 * second)
    passed = spectral((16, 16), 2, torch.ones(1, 1, dtype=torch.complex64))((low + high)[None, None])
    assert torch.allclose(passed[0, 0], low, atol=1e-5)


def test_a_field_may_have_another_resolution_and_several_channels() -> None:
    target = Target("dense", shape=(3, 24, 20))
    model = build_fourier(width=8, layers=2, modes=4, dropout=0.0, input_shape=(2, 12, 10), target=target, seed=0)
    assert model(torch.randn(2, 2, 12, 10)).shape == (2, 3, 24, 20)


def test_it_computes_in_float32_under_autocast() -> None:
    made, x = SpectralConvolution(4, (8, 8), 3), torch.randn(1, 4, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(made(x), made(x.float()))
        assert made(x.bfloat16()).dtype == torch.float32


def test_dilations_of_short_and_long_series() -> None:
    assert fit_dilations(9, 10_000, 32) == {1: 119}
    assert fit_dilations(16, 10_000, 32) == {1: 119}
    # Exponents are 0 ... 2 in 32 steps: 16, 9, 6 and 1 of them floor to 1, 2, 3, 4. Each stands for 119 / 32 features,
    # i.e. 59.5, 33.5, 22.3, 3.7, and the first two get what rounding down leaves.
    assert fit_dilations(33, 10_000, 32) == {1: 60, 2: 34, 3: 22, 4: 3}
    assert fit_dilations(33, 84, 32) == {1: 1}


@pytest.mark.parametrize("channels", [1, 5])
def test_features_are_the_shares_of_the_definition(channels: int) -> None:
    dilations, length = {1: 2, 3: 1}, 30
    body = MiniRocketBody(length, channels, dilations, seed=3)
    random = np.random.default_rng(0)
    x, biases = random.normal(size=(4, length, channels)), random.normal(size=84 * 3)
    body.biases.copy_(torch.from_numpy(biases))
    found = body(torch.from_numpy(x).float())[:, 0].numpy()
    column = 0
    for number, (dilation, each) in enumerate(dilations.items()):
        padded = np.pad(x, ((0, 0), (4 * dilation, 4 * dilation), (0, 0)))
        for kernel, places in enumerate(combinations(range(9), 3)):
            used = np.flatnonzero(body.weights[number, kernel].any(dim=1).numpy())
            outputs = np.zeros((4, length))
            for tap in range(9):
                window = padded[:, tap * dilation : tap * dilation + length, used].sum(axis=2)
                outputs += (2 if tap in places else -1) * window
            valid = outputs if (number + kernel) % 2 == 0 else outputs[:, 4 * dilation : length - 4 * dilation]
            for _ in range(each):
                assert found[:, column] == pytest.approx((valid > biases[column]).mean(axis=1), abs=1e-6)
                column += 1


def test_biases_are_quantiles_of_a_training_series() -> None:
    body = MiniRocketBody(20, 1, {1: 3}, seed=0)
    series = torch.randn(20, 1, generator=torch.Generator().manual_seed(0))
    body.fit(lambda number: series.expand(number, -1, -1))
    levels = np.arange(1, 84 * 3 + 1) * (np.sqrt(5) + 1) / 2 % 1
    kernel = np.array([2, 2, 2, -1, -1, -1, -1, -1, -1])
    outputs = np.correlate(series[:, 0].numpy(), kernel, mode="same")
    assert body.biases[:3].numpy() == pytest.approx(np.quantile(outputs, levels[:3]), abs=1e-4)


def test_channels_are_subsets_of_one_to_nine_that_the_seed_decides() -> None:
    used = MiniRocketBody(40, 20, {1: 1, 2: 1, 3: 1}, seed=0).weights.any(dim=3)
    sizes = used.sum(dim=2)
    assert (int(sizes.min()), int(sizes.max())) == (1, 9)
    assert used.any(dim=(0, 1)).all()
    assert torch.equal(used, MiniRocketBody(40, 20, {1: 1, 2: 1, 3: 1}, seed=0).weights.any(dim=3))
    assert not torch.equal(used, MiniRocketBody(40, 20, {1: 1, 2: 1, 3: 1}, seed=1).weights.any(dim=3))
    assert MiniRocketBody(40, 1, {1: 1}, seed=0).weights.any(dim=3).all()
