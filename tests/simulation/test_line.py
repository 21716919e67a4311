"""The scalar equations in one dimension, against exact solutions, balances and refinement."""

import numpy as np
import pytest

from orca_ray.simulation import diffusion_sorption, periodic
from orca_ray.simulation.simulation import Array, centres


def _order(coarse: float, fine: float) -> float:
    return float(np.log2(coarse / fine))


def test_a_uniform_field_grows_as_the_logistic_function() -> None:
    start = np.array([0.0, 0.2, 0.7, 1.0])
    frames = periodic.evolve_growth(np.repeat(start[:, None], 16, axis=1), 0.5, 1.0, 0.01, 101)
    grown = start * np.e / (1 - start + start * np.e)
    np.testing.assert_allclose(frames[:, -1], np.repeat(grown[:, None], 16, axis=1), atol=1e-10)


def test_without_growth_waves_decay_as_in_the_heat_equation() -> None:
    x = centres(0.0, 1.0, 64)
    k = 2 * np.pi * np.array([[1.0], [3.0]])
    frames = periodic.evolve_growth(1 + np.sin(k * x), 0.5, 0.0, 0.01, 11)
    np.testing.assert_allclose(frames[:, -1], 1 + np.exp(-0.5 * k**2 * 0.1) * np.sin(k * x), atol=1e-12)


def test_diffusion_and_growth_together_are_converged_at_the_files_own_step() -> None:
    x = centres(0.0, 1.0, 128)
    initial = 0.5 + 0.5 * np.sin(2 * np.pi * x)[None]
    exact, own, once, twice = (
        periodic.evolve_growth(initial, 0.5, 1.0, 0.01, 31, *steps)[0, 1:] for steps in ((40,), (), (1,), (2,))
    )
    errors = np.abs(once - exact).max(), np.abs(twice - exact).max()
    assert np.abs(own - exact).max() < 1e-9
    assert _order(*errors) == pytest.approx(4, abs=0.5)
    assert exact.min() > 0
    assert exact.max() < 1


def _run(num_cells: int, steps: int, first_steps: int, *, frames: int = 5, start: float = 0.1) -> Array:
    evolved: Array = diffusion_sorption.evolve(np.full((1, num_cells), start), 20.0, frames, steps, first_steps)[0]
    return evolved


def test_sorption_is_of_second_order_in_space() -> None:
    coarse, middle, fine = (_run(n, 16, 64)[-1] for n in (64, 128, 256))
    paired = [field.reshape(64, -1).mean(axis=1) for field in (coarse, middle, fine)]  # of cells, to second order
    assert _order(np.abs(paired[0] - paired[1])[:32].max(), np.abs(paired[1] - paired[2])[:32].max()) > 1.7


def test_sorption_is_of_second_order_in_time() -> None:
    exact = _run(128, 128, 1024)[-1]
    errors = [np.abs(_run(128, n, 8 * n)[-1] - exact).max() for n in (2, 4, 8)]
    assert _order(errors[1], errors[2]) == pytest.approx(2, abs=0.35), errors
    own = diffusion_sorption.evolve(np.full((1, 128), 0.1), 5.0, 5)[0, -1]
    assert np.abs(own - diffusion_sorption.evolve(np.full((1, 128), 0.1), 5.0, 5, 64, 1024)[0, -1]).max() < 1e-4


def test_sorption_slows_diffusion_down() -> None:
    """R is the derivative of the content, and 3.9 at a tenth of the solubility."""
    u = np.array([0.01, 0.1, 0.9])
    slope = (diffusion_sorption.content(u + 1e-6) - diffusion_sorption.content(u - 1e-6)) / 2e-6
    np.testing.assert_allclose(diffusion_sorption.retardation(u), slope, rtol=1e-7)
    assert diffusion_sorption.retardation(np.array([0.1]))[0] == pytest.approx(3.88, abs=0.02)
