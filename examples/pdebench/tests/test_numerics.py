"""Numerics against exact solutions: gas and viscosity, and tridiagonal systems."""

import math

import numpy as np
import pytest
from orca_ray_pdebench import cfd_1d
from orca_ray_pdebench.cfd_1d import Periodic
from orca_ray_pdebench.gas import GAMMA, Stress
from orca_ray_pdebench.tridiagonal import Tridiagonal

from orca_ray.simulation import Array, centres

MU = 4 / 3 * 0.1 + 0.1


def _sod(x: Array, t: float, gamma: float) -> Array:
    """Density of Sod's shock tube, membrane at 0 (Toro, chapter 4)."""
    from scipy.optimize import brentq

    sound_left = math.sqrt(gamma)
    sound_right = math.sqrt(gamma * 0.1 / 0.125)

    def fan(p: float) -> float:
        return float(
            2 * sound_left / (gamma - 1) * (p ** ((gamma - 1) / (2 * gamma)) - 1)
        )

    def shock(p: float) -> float:
        return (p - 0.1) * math.sqrt(2 / 0.125 / ((gamma + 1) * p + (gamma - 1) * 0.1))

    p = brentq(lambda p: fan(p) + shock(p), 0.1, 1.0)
    velocity = shock(p)
    squeeze = (gamma - 1) / (gamma + 1)
    behind_shock = 0.125 * (p / 0.1 + squeeze) / (squeeze * p / 0.1 + 1)
    front = sound_right * math.sqrt(
        (gamma + 1) / (2 * gamma) * p / 0.1 + (gamma - 1) / (2 * gamma)
    )
    behind_fan = p ** (1 / gamma)
    tail = velocity - sound_left * p ** ((gamma - 1) / (2 * gamma))
    inside = np.maximum(2 / (gamma + 1) - squeeze / sound_left * x / t, 1e-9) ** (
        2 / (gamma - 1)
    )
    edges = [x < -sound_left * t, x < tail * t, x < velocity * t, x < front * t]
    return np.select(edges, [np.ones_like(x), inside, behind_fan, behind_shock], 0.125)


def test_sods_tube() -> None:
    errors = []
    for n in (100, 200, 400):
        x = centres(-1.0, 1.0, n)
        tube = np.stack(
            [np.where(x < 0, 1.0, 0.125), np.zeros(n), np.where(x < 0, 1.0, 0.1)]
        )
        frames = cfd_1d.evolve(tube[:, None], 0.0, 2 / n, 0.4, 2, "outflow")
        errors.append(float(np.abs(frames[0, 0, -1] - _sod(x, 0.4, GAMMA)).mean()))
    assert errors[2] < 3e-3, errors
    assert math.log2(errors[0] / errors[2]) / 2 > 0.75


def _damped_sound(mu: float, k: float) -> complex:
    """Return lambda of a plane wave exp(i k x + lambda t) on a gas of density 1 and
    pressure 1 at rest.

    Linearised: density r, velocity v, pressure p with r' = -i k v, v' = -i k p - mu k^2
        v, p' = -gamma i k v.
    """
    return complex(-mu * k * k / 2, -math.sqrt(GAMMA * k * k - (mu * k * k / 2) ** 2))


def _sound_error(n: int, mu: float) -> float:
    """The error of a wave of amplitude 1e-6 after half a period of time, relative to
    it.
    """
    k = math.pi
    height = 1e-6
    end = 0.5
    rate = _damped_sound(mu, k)
    x = centres(-1.0, 1.0, n)

    def exact(t: float) -> Array:
        velocity = height * np.exp(1j * k * x + rate * t)
        return np.stack(
            [
                1 - 1j * k / rate * velocity,
                velocity,
                1 - GAMMA * 1j * k / rate * velocity,
            ]
        ).real

    frames = cfd_1d.evolve(exact(0.0)[:, None], mu, 2 / n, end, 2)
    return float(np.abs(frames[:, 0, -1] - exact(end)).mean()) / height


@pytest.mark.parametrize("mu", [0.0, MU])
def test_sound_travels_and_decays_as_it_should_to_second_order(mu: float) -> None:
    errors = [_sound_error(n, mu) for n in (32, 64, 128)]
    assert errors[2] < 4e-3, errors
    assert math.log2(errors[1] / errors[2]) > 1.7, errors


def _spectral(field: Array, axis: int) -> Array:
    """Return the derivative of a periodic field [N, N] on [0, 1)^2, exactly for one of
    few waves.
    """
    n = field.shape[axis]
    k = np.moveaxis(
        np.broadcast_to(2j * np.pi * np.fft.fftfreq(n, 1 / n), (n, n)), -1, axis
    )
    derivative: Array = np.fft.ifft(k * np.fft.fft(field, axis=axis), axis=axis).real
    return derivative


def _stress_errors(n: int) -> Array:
    """The largest error of the rates of both momenta and of energy, relative to their
    largest values.
    """
    eta = 0.1
    zeta = 0.3
    x = 2 * np.pi * centres(0.0, 1.0, n)
    density = 2 + np.sin(x)[:, None] * np.cos(x)[None, :]
    v = np.stack(
        [
            np.sin(x[:, None] + 2 * x[None, :]),
            np.cos(2 * x)[:, None] * np.sin(x + 1)[None, :],
        ]
    )
    slopes = np.array([[_spectral(v[i], j) for j in (0, 1)] for i in (0, 1)])
    sigma = eta * (slopes + slopes.swapaxes(0, 1))
    sigma[[0, 1], [0, 1]] += (zeta - 2 / 3 * eta) * (slopes[0, 0] + slopes[1, 1])
    work = np.einsum("ixy,ijxy->jxy", v, sigma)
    exact = np.stack(
        [sum(_spectral(flux[j], j) for j in (0, 1)) for flux in (*sigma, work)]
    )
    found = Stress(eta, zeta, 1 / n).rates(
        density, np.stack([*(density * v), np.full((n, n), 50.0)])
    )
    errors: Array = np.abs(found - exact).max(axis=(1, 2)) / np.abs(exact).max(
        axis=(1, 2)
    )
    return errors


def test_the_stress_and_its_work_are_what_is_published() -> None:
    """sigma = eta (grad v + grad v^T - 2/3 div v) + zeta div v, with derivatives by
    Fourier's series.
    """
    coarse = _stress_errors(32)
    fine = _stress_errors(64)
    assert fine.max() < 0.02, fine
    assert np.log2(coarse / fine).min() > 1.8, (coarse, fine)


@pytest.mark.parametrize("size", [3, 17])
def test_periodic_systems_against_dense_ones(size: int) -> None:
    rng = np.random.default_rng(1)
    diagonal, right = rng.uniform(2, 3, size=(2, 5, size))
    off = np.array([[0.0], [0.9], [-0.9], [0.1], [-0.5]])
    found = Periodic(diagonal, off).solve(right)
    for b in range(5):
        matrix = np.diag(diagonal[b]) + off[b] * (
            np.eye(size, k=1) + np.eye(size, k=-1)
        )
        matrix[0, -1] = matrix[-1, 0] = off[b, 0]
        np.testing.assert_allclose(matrix @ found[b], right[b], atol=1e-13)


@pytest.mark.parametrize("size", [3, 17])
def test_tridiagonal_systems_against_dense_ones(size: int) -> None:
    rng = np.random.default_rng(1)
    diagonal, right = rng.uniform(2, 3, size=(2, 5, size))
    off = np.array([[0.0], [0.9], [-0.9], [0.1], [-0.5]])
    found = Tridiagonal(diagonal, off).solve(right)
    for b in range(5):
        matrix = np.diag(diagonal[b]) + off[b] * (
            np.eye(size, k=1) + np.eye(size, k=-1)
        )
        np.testing.assert_allclose(matrix @ found[b], right[b], atol=1e-13)


def test_a_system_that_is_not_positive_definite_is_refused() -> None:
    with pytest.raises(ArithmeticError, match="at unknown 1"):
        Tridiagonal(np.array([[1.0, 1.0, 1.0]]), np.array([[2.0]]))
