"""Exponential stepping, tridiagonal systems and Darcy flow, compared with exact solutions and refinement."""

import numpy as np
import pytest

from orca_ray.simulation import darcy
from orca_ray.simulation.simulation import centres
from orca_ray.simulation.stiff import Etdrk4, Periodic, Tridiagonal


def test_the_linear_part_is_exact_whatever_the_step() -> None:
    rates = np.array([0.0, -1e-9, -1.0, -50.0, -1e7])
    stepped = Etdrk4(rates, 2.0).step(np.ones(5), np.zeros_like)
    np.testing.assert_allclose(stepped, np.exp(2 * rates), rtol=1e-12)


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


def _manufactured(n: int) -> float:
    """The error for u = sin(pi x) sin(2 pi y) and a = 2 + cos(pi x) y."""
    x, y = np.meshgrid(*[centres(0.0, 1.0, n)] * 2, indexing="ij")
    pi = np.pi
    a = 2 + np.cos(pi * x) * y
    u = np.sin(pi * x) * np.sin(2 * pi * y)
    u_x, u_y = pi * np.cos(pi * x) * np.sin(2 * pi * y), 2 * pi * np.sin(pi * x) * np.cos(2 * pi * y)
    source = -(-pi * np.sin(pi * x) * y * u_x + np.cos(pi * x) * u_y - 5 * pi**2 * a * u)
    return float(np.abs(darcy.solve_steady(a, source) - u).max())


def test_darcy_is_of_second_order() -> None:
    errors = [_manufactured(n) for n in (16, 32, 64)]
    assert np.log2(errors[1] / errors[2]) == pytest.approx(2, abs=0.1), errors
    assert errors[2] < 2e-3
