"""Many symmetric tridiagonal systems at once: laid end to end they are one long system, solved in linear time."""

import numpy as np

from orca_ray.simulation.simulation import Array


class Tridiagonal:
    """B positive definite systems of N unknowns, factored once (LAPACK's pttrf)."""

    def __init__(self, diagonal: Array, off: Array) -> None:
        """Factor the systems.

        Args:
            diagonal: [B, N].
            off: what couples the unknowns of system b, one number for all neighbours, [B, 1].
        """
        from scipy.linalg import lapack

        coupling = np.repeat(off, diagonal.shape[1], axis=1)
        coupling[:, -1] = 0.0  # the last of one system and the first of the next are strangers
        self._solver = lapack.dpttrs
        self._pivots, self._factors, failed = lapack.dpttrf(diagonal.ravel(), coupling.ravel()[:-1])
        if failed:
            raise ArithmeticError(f"the system is not positive definite at unknown {failed - 1}")

    def solve(self, right: Array) -> Array:
        """Return the unknowns [B, N] for the right sides [B, N]."""
        found: Array = self._solver(self._pivots, self._factors, right.ravel())[0]
        return found.reshape(right.shape)


class Periodic:
    """Systems as of `Tridiagonal` in which the first and the last unknown are neighbours, too.

    By the formula of Sherman and Morrison (Press et al., Numerical Recipes, section 2.7).
    """

    def __init__(self, diagonal: Array, off: Array) -> None:
        """Factor the systems; arguments as of `Tridiagonal`."""
        corner = -diagonal[:, :1]
        inner = diagonal.copy()
        inner[:, :1] -= corner
        inner[:, -1:] -= off * off / corner
        self._inner = Tridiagonal(inner, off)
        self._ratio = off / corner
        ends = np.zeros_like(diagonal)
        ends[:, :1] = corner
        ends[:, -1:] = off
        self._ends = self._inner.solve(ends)
        self._scale = 1.0 + self._seen(self._ends)

    def solve(self, right: Array) -> Array:
        """Return the unknowns [B, N] for the right sides [B, N]."""
        found = self._inner.solve(right)
        return found - self._ends * (self._seen(found) / self._scale)

    def _seen(self, unknowns: Array) -> Array:
        return unknowns[:, :1] + self._ratio * unknowns[:, -1:]
