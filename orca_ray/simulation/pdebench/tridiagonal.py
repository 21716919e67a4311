"""Solver of tridiagonal systems, for implicit time steps of stiff equations."""

import numpy as np

from orca_ray.simulation import Array


class Tridiagonal:
    """B tridiagonal, symmetric, positive definite systems of N unknowns.

    They are factored together by LAPACK's pttrf.
    """

    def __init__(self, diagonal: Array, off: Array) -> None:
        """Factor the matrices.

        Diagonals are ``diagonal`` [B, N]; ``off`` [B, 1] is the value next to the
        diagonal. Raises ArithmeticError if a matrix is not positive definite.
        """
        from scipy.linalg import lapack

        coupling = np.repeat(off, diagonal.shape[1], axis=1)
        coupling[:, -1] = 0.0  # no coupling between two systems
        self._solver = lapack.dpttrs
        self._pivots, self._factors, failed = lapack.dpttrf(
            diagonal.ravel(), coupling.ravel()[:-1]
        )
        if failed:
            raise ArithmeticError(
                f"the system is not positive definite at unknown {failed - 1}"
            )

    def solve(self, right: Array) -> Array:
        """Return the solutions [B, N] for the right-hand sides [B, N]."""
        solution: Array = self._solver(self._pivots, self._factors, right.ravel())[0]
        return solution.reshape(right.shape)
