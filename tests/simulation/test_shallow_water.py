"""Shallow water: rest, balances, symmetry, and the dam break of Stoker."""

import math

import numpy as np
import pytest

from orca_ray.simulation import shallow_water
from orca_ray.simulation.hyperbolic import sweep_axis
from orca_ray.simulation.simulation import Array, centres


def _depths(initial: Array, cell: float, end: float, frames: int = 2, **options: str) -> Array:
    top = 2 * math.sqrt(float(initial[0].max()))
    return shallow_water.evolve(initial, cell, end / (frames - 1), frames, top, **options)  # type: ignore[arg-type]


def test_a_lake_at_rest_stays_at_rest() -> None:
    still = np.zeros((3, 1, 16, 16))
    still[0] = 1.7
    assert _depths(still, 0.1, 1.0) == pytest.approx(1.7, abs=1e-14)


def test_the_water_of_the_file_stays_within_the_square_and_the_wave_is_round() -> None:
    n = 64
    x = centres(shallow_water.LOW, shallow_water.HIGH, n)
    depths = _depths(shallow_water.cylinder(0.5, x)[:, None], 5 / n, 1.0, 11)[0]
    mass = depths.sum(axis=(-1, -2))
    np.testing.assert_allclose(mass, mass[0], rtol=1e-7)  # the wave has not come to the edge at t = 1
    for turned in (depths[:, ::-1], depths[:, :, ::-1]):
        np.testing.assert_allclose(turned, depths, atol=1e-12)
    np.testing.assert_allclose(depths[-1].T, depths[-1], atol=5e-3)  # sweeps take turns: the axes are not quite alike
    assert depths.min() > 0.3
    diagonal = np.hypot(x, x)
    np.testing.assert_allclose(np.interp(1.5, x, depths[-1, :, n // 2]), np.interp(1.5, diagonal[n // 2 :],
                               np.diag(depths[-1])[n // 2 :]), atol=0.03)  # fmt: skip


@pytest.mark.parametrize("direction", [0, 1])
def test_water_carries_its_velocity_across_a_wave_along(direction: int) -> None:
    """One dam breaks in a stream across it: wherever the water goes, it streams as fast."""
    depth = np.where(np.arange(32) < 16, 2.0, 1.0)[:, None] * np.ones(3)
    still = np.zeros_like(depth)
    conserved = np.stack([depth, still, 0.3 * depth])[:, None]
    if direction == 1:
        conserved = conserved[[0, 2, 1]].swapaxes(2, 3)
    for _ in range(8):
        conserved = sweep_axis(conserved, 0.4, shallow_water.Water(), "periodic", direction)
    assert (np.abs(conserved[0] - 1.5) < 0.3).any()  # neither of the two depths at rest
    np.testing.assert_allclose(conserved[2 - direction], 0.3 * conserved[0], rtol=1e-12)


def _stoker(x: Array, t: float, deep: float, shallow: float) -> Array:
    """Depth of a dam break onto a wet bed at rest, dam at 0 (Stoker, Water Waves, 1957, section 10.8; g = 1)."""
    from scipy.optimize import brentq

    fast = math.sqrt(deep)

    def excess(depth: float) -> float:
        behind_rarefaction = 2 * (fast - math.sqrt(depth))
        return behind_rarefaction - (depth - shallow) * math.sqrt((depth + shallow) / (2 * depth * shallow))

    middle = brentq(excess, shallow, deep)
    velocity = 2 * (fast - math.sqrt(middle))
    shock = velocity * middle / (middle - shallow)
    fan = (2 * fast - x / t) ** 2 / 9
    tail, head = velocity - math.sqrt(middle), -fast
    return np.select([x < head * t, x < tail * t, x < shock * t], [np.full_like(x, deep), fan, middle], shallow)


@pytest.mark.parametrize("direction", [0, 1])
def test_a_straight_dam_against_stoker(direction: int) -> None:
    errors = []
    for n in (100, 200, 400):
        x = centres(-1.0, 1.0, n)
        line = np.where(x < 0, 2.0, 1.0)
        initial = np.zeros((3, 1, n, 1))
        initial[0, 0, :, 0] = line
        depths = _depths(initial if direction == 0 else initial.swapaxes(2, 3), 2 / n, 0.5)
        errors.append(float(np.abs(depths[0, -1].ravel() - _stoker(x, 0.5, 2.0, 1.0)).mean()))
    assert errors[2] < 2e-3, errors
    assert math.log2(errors[0] / errors[2]) / 2 > 0.8  # the mean error of a shock falls as the cell
