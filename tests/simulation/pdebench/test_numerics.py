"""Numerics against exact solutions: gas, viscosity and tridiagonal systems."""

import math
from typing import NamedTuple

import numpy as np
import pytest

from orca_ray.simulation import Array, centres
from orca_ray.simulation.pdebench import cfd_1d
from orca_ray.simulation.pdebench.cfd_1d import Periodic
from orca_ray.simulation.pdebench.gas import GAMMA, Stress
from orca_ray.simulation.pdebench.tridiagonal import Tridiagonal

MU = 4 / 3 * 0.1 + 0.1
"""Viscosity of the equations in 1D."""
LEFT_DENSITY = 1.0
"""Density of Sod's tube on the left of the membrane."""
RIGHT_DENSITY = 0.125
"""Density of Sod's tube on the right of the membrane."""
LEFT_PRESSURE = 1.0
"""Pressure of Sod's tube on the left of the membrane."""
RIGHT_PRESSURE = 0.1
"""Pressure of Sod's tube on the right of the membrane."""


def sod_density(x: Array, t: float, gamma: float) -> Array:
    """Return the density of Sod's shock tube, membrane at 0 (Toro, chapter 4)."""
    from scipy.optimize import brentq

    sound_left = math.sqrt(gamma)
    sound_right = math.sqrt(gamma * RIGHT_PRESSURE / RIGHT_DENSITY)
    exponent = (gamma - 1) / (2 * gamma)

    def fan_velocity(p: float) -> float:
        return float(2 * sound_left / (gamma - 1) * (p**exponent - 1))

    def shock_velocity(p: float) -> float:
        impedance = (gamma + 1) * p + (gamma - 1) * RIGHT_PRESSURE
        return (p - RIGHT_PRESSURE) * math.sqrt(2 / RIGHT_DENSITY / impedance)

    p = brentq(
        lambda p: fan_velocity(p) + shock_velocity(p), RIGHT_PRESSURE, LEFT_PRESSURE
    )
    velocity = shock_velocity(p)
    ratio = p / RIGHT_PRESSURE
    squeeze = (gamma - 1) / (gamma + 1)
    behind_shock = RIGHT_DENSITY * (ratio + squeeze) / (squeeze * ratio + 1)
    front = sound_right * math.sqrt((gamma + 1) / (2 * gamma) * ratio + exponent)
    behind_fan = p ** (1 / gamma)
    tail = velocity - sound_left * p**exponent
    base = np.maximum(2 / (gamma + 1) - squeeze / sound_left * x / t, 1e-9)
    inside_fan = base ** (2 / (gamma - 1))
    edges = [x < -sound_left * t, x < tail * t, x < velocity * t, x < front * t]
    densities = [np.ones_like(x), inside_fan, behind_fan, behind_shock]
    return np.select(edges, densities, RIGHT_DENSITY)


def test_sods_tube() -> None:
    errors = []
    for num_cells in (100, 200, 400):
        x = centres(-1.0, 1.0, num_cells)
        density = np.where(x < 0, LEFT_DENSITY, RIGHT_DENSITY)
        pressure = np.where(x < 0, LEFT_PRESSURE, RIGHT_PRESSURE)
        tube = np.stack([density, np.zeros(num_cells), pressure])
        frames = cfd_1d.evolve(tube[:, None], 0.0, 2 / num_cells, 0.4, 2, "outflow")
        exact = sod_density(x, 0.4, GAMMA)
        errors.append(float(np.abs(frames[0, 0, -1] - exact).mean()))
    assert errors[2] < 3e-3, errors
    assert math.log2(errors[0] / errors[2]) / 2 > 0.75


def damped_sound(mu: float, k: float) -> complex:
    """Return lambda of a plane wave exp(i k x + lambda t) on a gas at rest.

    The gas has density 1 and pressure 1. Linearised: density r, velocity v, pressure p
    with r' = -i k v, v' = -i k p - mu k^2 v, p' = -gamma i k v.
    """
    damping = mu * k * k / 2
    return complex(-damping, -math.sqrt(GAMMA * k * k - damping**2))


def sound_error(num_cells: int, mu: float) -> float:
    """Return the error of a small wave after half a period, relative to its height."""
    k = math.pi
    height = 1e-6
    end = 0.5
    rate = damped_sound(mu, k)
    x = centres(-1.0, 1.0, num_cells)

    def exact(t: float) -> Array:
        velocity = height * np.exp(1j * k * x + rate * t)
        density = 1 - 1j * k / rate * velocity
        pressure = 1 - GAMMA * 1j * k / rate * velocity
        return np.stack([density, velocity, pressure]).real

    frames = cfd_1d.evolve(exact(0.0)[:, None], mu, 2 / num_cells, end, 2)
    return float(np.abs(frames[:, 0, -1] - exact(end)).mean()) / height


@pytest.mark.parametrize("mu", [0.0, MU])
def test_sound_travels_and_decays_as_it_should_to_second_order(mu: float) -> None:
    errors = [sound_error(num_cells, mu) for num_cells in (32, 64, 128)]
    assert errors[2] < 4e-3, errors
    assert math.log2(errors[1] / errors[2]) > 1.7, errors


def spectral_derivative(field: Array, axis: int) -> Array:
    """Return the derivative of a periodic field [N, N] on [0, 1)^2 along an axis.

    It is exact for a field of few waves.
    """
    n = field.shape[axis]
    wave_numbers = np.broadcast_to(2j * np.pi * np.fft.fftfreq(n, 1 / n), (n, n))
    k = np.moveaxis(wave_numbers, -1, axis)
    modes = k * np.fft.fft(field, axis=axis)
    derivative: Array = np.fft.ifft(modes, axis=axis).real
    return derivative


def stress_errors(n: int) -> Array:
    """Return the largest errors of the rates [3], relative to the largest rates.

    The rates are those of both momenta and of energy.
    """
    eta = 0.1
    zeta = 0.3
    x = 2 * np.pi * centres(0.0, 1.0, n)
    density = 2 + np.sin(x)[:, None] * np.cos(x)[None, :]
    along = np.sin(x[:, None] + 2 * x[None, :])
    across = np.cos(2 * x)[:, None] * np.sin(x + 1)[None, :]
    v = np.stack([along, across])
    slopes = np.array([[spectral_derivative(v[i], j) for j in (0, 1)] for i in (0, 1)])
    sigma = eta * (slopes + slopes.swapaxes(0, 1))
    sigma[[0, 1], [0, 1]] += (zeta - 2 / 3 * eta) * (slopes[0, 0] + slopes[1, 1])
    work = np.einsum("ixy,ijxy->jxy", v, sigma)
    exact = np.stack(
        [
            spectral_derivative(flux[0], 0) + spectral_derivative(flux[1], 1)
            for flux in (*sigma, work)
        ]
    )
    energy = np.full((n, n), 50.0)
    rates = Stress(eta, zeta, 1 / n).rates(density, np.stack([*(density * v), energy]))
    errors: Array = np.abs(rates - exact).max(axis=(1, 2))
    errors /= np.abs(exact).max(axis=(1, 2))
    return errors


def test_the_stress_and_its_work_are_what_is_published() -> None:
    """sigma = eta (grad v + grad v^T - 2/3 div v) + zeta div v.

    Derivatives are those of Fourier's series.
    """
    coarse = stress_errors(32)
    fine = stress_errors(64)
    assert fine.max() < 0.02, fine
    assert np.log2(coarse / fine).min() > 1.8, (coarse, fine)


@pytest.mark.parametrize("size", [3, 17])
def test_periodic_systems_against_dense_ones(size: int) -> None:
    diagonal, off, right = random_systems(size)
    solutions = Periodic(diagonal, off).solve(right)
    for number, solution in enumerate(solutions):
        matrix = dense_matrix(diagonal[number], off[number])
        matrix[0, -1] = off[number, 0]
        matrix[-1, 0] = off[number, 0]
        np.testing.assert_allclose(matrix @ solution, right[number], atol=1e-13)


class Systems(NamedTuple):
    """Five systems of N unknowns."""

    diagonal: Array
    """Diagonals [5, N]."""
    off: Array
    """Value beside each diagonal [5, 1]."""
    right: Array
    """Right-hand sides [5, N]."""


def random_systems(size: int) -> Systems:
    rng = np.random.default_rng(1)
    diagonal, right = rng.uniform(2, 3, size=(2, 5, size))
    off = np.array([[0.0], [0.9], [-0.9], [0.1], [-0.5]])
    return Systems(diagonal, off, right)


def dense_matrix(diagonal: Array, off: Array) -> Array:
    """Return a tridiagonal matrix with a diagonal [N] and one value ``off`` [1]."""
    size = len(diagonal)
    beside = np.eye(size, k=1) + np.eye(size, k=-1)
    matrix: Array = np.diag(diagonal) + off * beside
    return matrix


@pytest.mark.parametrize("size", [3, 17])
def test_tridiagonal_systems_against_dense_ones(size: int) -> None:
    diagonal, off, right = random_systems(size)
    solutions = Tridiagonal(diagonal, off).solve(right)
    for number, solution in enumerate(solutions):
        matrix = dense_matrix(diagonal[number], off[number])
        np.testing.assert_allclose(matrix @ solution, right[number], atol=1e-13)


def test_a_system_that_is_not_positive_definite_is_refused() -> None:
    with pytest.raises(ArithmeticError, match="at unknown 1"):
        Tridiagonal(np.array([[1.0, 1.0, 1.0]]), np.array([[2.0]]))
