"""Spectral convolutions with known results: derivative, identity, and low pass."""

import math

import pytest
import torch

from orca_ray.data.rows import Target
from orca_ray.models.fourier import SpectralConvolution, build_fourier


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
