"""Numerics against exact solutions.

They are of shallow water, Darcy flow, and the stepper of stiff equations.
"""

import math

import numpy as np
import pytest

from orca_ray.simulation import Array, centres, darcy
from orca_ray.simulation.hyperbolic import evolve_water
from orca_ray.simulation.stiff import Etdrk4


def _depths(initial: Array, cell: float, end: float, frames: int = 2) -> Array:
    top = 2 * math.sqrt(float(initial[0].max()))
    return evolve_water(initial, cell, end / (frames - 1), frames, top)


def _stoker(x: Array, t: float, deep: float, shallow: float) -> Array:
    """Return the depth of a dam break onto a wet bed at rest, dam at 0.

    Stoker, Water Waves, 1957, section 10.8; g = 1.
    """
    from scipy.optimize import brentq

    fast = math.sqrt(deep)

    def excess(depth: float) -> float:
        behind_rarefaction = 2 * (fast - math.sqrt(depth))
        shock_speed = math.sqrt((depth + shallow) / (2 * depth * shallow))
        behind_shock = (depth - shallow) * shock_speed
        return behind_rarefaction - behind_shock

    plateau = brentq(excess, shallow, deep)
    velocity = 2 * (fast - math.sqrt(plateau))
    shock = velocity * plateau / (plateau - shallow)
    fan = (2 * fast - x / t) ** 2 / 9
    tail = velocity - math.sqrt(plateau)
    head = -fast
    return np.select(
        [x < head * t, x < tail * t, x < shock * t],
        [np.full_like(x, deep), fan, plateau],
        shallow,
    )


@pytest.mark.parametrize("direction", [0, 1])
def test_a_straight_dam_against_stoker(direction: int) -> None:
    errors = []
    for n in (100, 200, 400):
        x = centres(-1.0, 1.0, n)
        line = np.where(x < 0, 2.0, 1.0)
        initial = np.zeros((3, 1, n, 1))
        initial[0, 0, :, 0] = line
        if direction == 1:
            initial = initial.swapaxes(2, 3)
        depths = _depths(initial, 2 / n, 0.5)
        expected = _stoker(x, 0.5, 2.0, 1.0)
        errors.append(float(np.abs(depths[0, -1].ravel() - expected).mean()))
    assert errors[2] < 2e-3, errors
    # The mean error of a shock falls as the cell.
    order = math.log2(errors[0] / errors[2]) / 2
    assert order > 0.8


def test_the_linear_part_is_exact_whatever_the_step() -> None:
    rates = np.array([0.0, -1e-9, -1.0, -50.0, -1e7])
    stepped = Etdrk4(rates, 2.0).step(np.ones(5), np.zeros_like)
    np.testing.assert_allclose(stepped, np.exp(2 * rates), rtol=1e-12)


def _manufactured(n: int) -> float:
    """The error for u = sin(pi x) sin(2 pi y) and a = 2 + cos(pi x) y."""
    x, y = np.meshgrid(*[centres(0.0, 1.0, n)] * 2, indexing="ij")
    pi = np.pi
    a = 2 + np.cos(pi * x) * y
    u = np.sin(pi * x) * np.sin(2 * pi * y)
    u_x = pi * np.cos(pi * x) * np.sin(2 * pi * y)
    u_y = 2 * pi * np.sin(pi * x) * np.cos(2 * pi * y)
    a_x = -pi * np.sin(pi * x) * y
    a_y = np.cos(pi * x)
    source = -(a_x * u_x + a_y * u_y - 5 * pi**2 * a * u)
    return float(np.abs(darcy.solve_steady(a, source) - u).max())


def test_darcy_is_of_second_order() -> None:
    errors = [_manufactured(n) for n in (16, 32, 64)]
    assert np.log2(errors[1] / errors[2]) == pytest.approx(2, abs=0.1), errors
    assert errors[2] < 2e-3
