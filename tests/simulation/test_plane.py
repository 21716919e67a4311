"""Diffusion with reaction, and Darcy flow, in two dimensions."""

from collections.abc import Callable

import numpy as np
import pytest

from orca_ray.simulation import darcy, diffusion_reaction_2d
from orca_ray.simulation.simulation import Array, centres


def _order(coarse: float, fine: float) -> float:
    return float(np.log2(coarse / fine))


def test_diffusion_alone_lets_nothing_out_and_damps_each_cosine_at_its_rate() -> None:
    n, cell = 32, 2 / 32
    noise = np.random.default_rng(0).standard_normal((2, n, n))
    frames = diffusion_reaction_2d.evolve(noise, 0.5, 4, cell=cell, reacting=False)
    total = frames.sum(axis=(-1, -2))
    np.testing.assert_allclose(total, np.broadcast_to(total[0], total.shape), atol=1e-11)

    x = (np.arange(n) + 0.5) / n
    wave = np.cos(3 * np.pi * x)[:, None] * np.cos(np.pi * x)[None, :]
    frames = diffusion_reaction_2d.evolve(np.stack([wave, wave]), 0.5, 4, cell=cell, reacting=False)
    lowest = sum((2 / cell * np.sin(np.pi * number / (2 * n))) ** 2 for number in (3, 1))
    for field, diffusion in enumerate(diffusion_reaction_2d.DIFFUSION):
        np.testing.assert_allclose(frames[-1, field], np.exp(-1.5 * diffusion * lowest) * wave, atol=1e-12)


def test_a_uniform_field_follows_the_reaction_alone() -> None:
    from scipy.integrate import solve_ivp

    def rates(_: float, y: Array) -> Array:
        return diffusion_reaction_2d.reaction(y)

    exact = solve_ivp(rates, (0, 5), [0.8, -0.3], rtol=1e-11, atol=1e-12).y[:, -1]
    initial = np.broadcast_to(np.array([0.8, -0.3])[:, None, None], (2, 4, 4))
    frames = diffusion_reaction_2d.evolve(initial, 0.05, 101, cell=0.5)
    np.testing.assert_allclose(frames[-1, :, 0, 0], exact, atol=1e-7)


def test_the_steps_from_white_noise_are_fine_enough_and_of_fourth_order() -> None:
    noise = np.random.default_rng(1).standard_normal((2, 32, 32))
    cell = (diffusion_reaction_2d.HIGH - diffusion_reaction_2d.LOW) / diffusion_reaction_2d.NUM_CELLS

    def run(factor: int) -> Array:
        return diffusion_reaction_2d.evolve(noise, 0.05, 5, cell=cell, steps=2 * factor, first_steps=8 * factor)

    exact = run(8)
    errors = [float(np.abs(run(factor) - exact).max()) for factor in (1, 2)]
    assert errors[0] < 1e-4, errors
    assert _order(*errors) == pytest.approx(4, abs=0.5)


def _manufactured(n: int) -> float:
    """The error for u = sin(pi x) sin(2 pi y) and a = 2 + cos(pi x) y."""
    x, y = np.meshgrid(*[centres(0.0, 1.0, n)] * 2, indexing="ij")
    pi = np.pi
    a = 2 + np.cos(pi * x) * y
    u = np.sin(pi * x) * np.sin(2 * pi * y)
    u_x, u_y = pi * np.cos(pi * x) * np.sin(2 * pi * y), 2 * pi * np.sin(pi * x) * np.cos(2 * pi * y)
    source = -(-pi * np.sin(pi * x) * y * u_x + np.cos(pi * x) * u_y - 5 * pi**2 * a * u)
    return float(np.abs(darcy.solve_steady(a, source) - u).max())


def _layered(n: int) -> float:
    """The error for u = sin(2 pi x) / a sin(pi y), of which neither u nor a u_x jumps where a does, at x = 1/2."""
    x, y = np.meshgrid(*[centres(0.0, 1.0, n)] * 2, indexing="ij")
    a = np.where(x < 0.5, 1.0, 0.1)
    wave = np.sin(2 * np.pi * x) * np.sin(np.pi * y)
    return float(np.abs(darcy.solve_steady(a, 5 * np.pi**2 * wave) - wave / a).max())


@pytest.mark.parametrize(("error", "most"), [(_manufactured, 2e-3), (_layered, 0.02)])
def test_darcy_is_of_second_order_across_a_jump_too(error: Callable[[int], float], most: float) -> None:
    errors = [error(n) for n in (16, 32, 64)]
    assert _order(errors[1], errors[2]) == pytest.approx(2, abs=0.1), errors
    assert errors[2] < most
