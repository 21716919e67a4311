"""What the equations share, the scalar ones on a line, and diffusion with reaction and Darcy flow in the plane.

They are compared with exact solutions, balances and refinement.
"""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orca_ray.simulation import darcy, diffusion_reaction_2d, diffusion_sorption, periodic
from orca_ray.simulation.periodic import sample_waves, to_unit_range
from orca_ray.simulation.simulation import Array, centres
from orca_ray.simulation.stiff import Etdrk4, Modes, Periodic, Tridiagonal


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), low=st.sampled_from([0.0, -1.0]))
def test_an_initial_field_is_periodic_and_bounded_by_its_amplitudes(seed: int, low: float) -> None:
    period = 1.0 - low
    whole, windowed = (
        sample_waves(np.random.default_rng(seed), low=low, period=period, windowed=share) for share in (0.0, 1.0)
    )
    drawn = np.random.default_rng(seed)
    drawn.integers(0, 4, size=2)  # the numbers of the waves
    amplitudes = drawn.uniform(size=4)
    x = np.linspace(low, low + period, 200, endpoint=False)
    for waves in (whole, windowed):
        values = waves(x)
        np.testing.assert_allclose(waves(x + 3 * period), values, atol=1e-9)
        assert 0 < np.abs(values).max() <= amplitudes.sum()
    assert np.ptp(whole(x)) > 0
    assert np.abs(windowed(np.array([low, low + period - 1e-9]))).max() < 1e-6


def test_scaling_to_the_unit_range() -> None:
    assert to_unit_range(np.array([-3.0, 1.0, 5.0])).tolist() == [0.0, 0.5, 1.0]
    assert to_unit_range(np.full(4, 2.0)).tolist() == [0.0] * 4


def test_the_linear_part_is_exact_whatever_the_step() -> None:
    rates = np.array([0.0, -1e-9, -1.0, -50.0, -1e7])
    stepped = Etdrk4(rates, 2.0).step(np.ones(5), np.zeros_like)
    np.testing.assert_allclose(stepped, np.exp(2 * rates), rtol=1e-12)


def test_exponential_stepping_is_of_fourth_order() -> None:
    """u' = -u + u^2 / 2 has the solution 2 / (1 + 3 e^t) for u(0) = 1/2."""

    def square(u: Modes) -> Modes:
        return 0.5 * u * u

    errors = []
    for steps in (8, 16):
        stepper, u = Etdrk4(np.array([-1.0]), 1.0 / steps), np.array([0.5])
        for _ in range(steps):
            u = stepper.step(u, square)
        errors.append(abs(u[0] - 2 / (1 + 3 * np.e)))
    assert np.log2(errors[0] / errors[1]) == pytest.approx(4, abs=0.3)


@pytest.mark.parametrize("kind", [Tridiagonal, Periodic])
@pytest.mark.parametrize("size", [3, 17])
def test_tridiagonal_systems_against_dense_ones(kind: type[Tridiagonal] | type[Periodic], size: int) -> None:
    rng = np.random.default_rng(1)
    diagonal, right = rng.uniform(2, 3, size=(2, 5, size))
    off = np.array([[0.0], [0.9], [-0.9], [0.1], [-0.5]])
    found = kind(diagonal, off).solve(right)
    for b in range(5):
        matrix = np.diag(diagonal[b]) + off[b] * (np.eye(size, k=1) + np.eye(size, k=-1))
        if kind is Periodic:
            matrix[0, -1] = matrix[-1, 0] = off[b, 0]
        np.testing.assert_allclose(matrix @ found[b], right[b], atol=1e-13)


def test_a_system_that_is_not_positive_definite_is_refused() -> None:
    with pytest.raises(ArithmeticError, match="at unknown 1"):
        Tridiagonal(np.array([[1.0, 1.0, 1.0]]), np.array([[2.0]]))


def _order(coarse: float, fine: float) -> float:
    return float(np.log2(coarse / fine))


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

    def run(factor: int) -> Array:
        return diffusion_reaction_2d.evolve(noise, 0.05, 5, steps=2 * factor, first_steps=8 * factor)

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
