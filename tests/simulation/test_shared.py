"""What the equations share: initial fields, exponential stepping, tridiagonal systems."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orca_ray.simulation.periodic import sample_waves, to_unit_range
from orca_ray.simulation.stiff import Etdrk4, Modes, Periodic, Tridiagonal


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), low=st.sampled_from([0.0, -1.0]))
def test_an_initial_field_is_periodic_and_bounded_by_its_amplitudes(seed: int, low: float) -> None:
    period = 1.0 - low
    waves = sample_waves(np.random.default_rng(seed), low=low, period=period, windowed=0.5)
    x = np.linspace(low, low + period, 200, endpoint=False)
    values = waves(x)
    np.testing.assert_allclose(waves(x + 3 * period), values, atol=1e-9)
    assert np.abs(values).max() <= waves.amplitudes.sum()
    assert waves.numbers.sum() > 0
    if waves.window is not None:
        assert np.abs(waves(np.array([low, low + period - 1e-9]))).max() < 1e-6


def test_scaling_to_the_unit_range() -> None:
    scaled = to_unit_range(np.array([-3.0, 1.0, 5.0]))
    assert scaled.tolist() == [0.0, 0.5, 1.0]
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
