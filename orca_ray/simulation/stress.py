"""Viscous stress of a gas on a periodic two-dimensional grid, by a stabilised explicit method."""

import math
from dataclasses import dataclass

import numpy as np

from orca_ray.simulation.simulation import Array

_SAFETY = 0.9
_LONGEST = 300.0
"""Of a step, times the stiffness. A step of any length is stable, but may damp a wave to no less than a half; with this
one, waves of a 30th of the grid's wave number (on 128 cells, the fourth) decay as they should."""


@dataclass(frozen=True)
class Stress:
    """sigma = eta (grad v + grad v^T - 2/3 div v) + zeta div v, and what it does to momentum and energy."""

    eta: float
    zeta: float
    cell: float

    def rates(self, density: Array, changing: Array) -> Array:
        """Return d/dt of ``changing`` [3, X, Y] (two momenta, total energy) at fixed ``density`` [X, Y]."""
        velocity = _ring(changing[:2] / density)
        result = self._through_faces(velocity)
        turned = self._through_faces(velocity[::-1].swapaxes(1, 2)).swapaxes(1, 2)
        for field, other in enumerate((1, 0, 2)):
            result[field] += turned[other]
        return result

    def _through_faces(self, velocity: Array) -> Array:
        """Return what the faces across the first axis bring in, per time and volume.

        Args:
            velocity: [2, X + 2, Y + 2], with a ring of neighbours; along and across the first axis.
        """
        inner = velocity[:, :, 1:-1]
        normal = (inner[:, 1:] - inner[:, :-1]) / self.cell
        central = velocity[:, :, 2:] - velocity[:, :, :-2]
        across = (central[:, 1:] + central[:, :-1]) * (0.25 / self.cell)
        mean = 0.5 * (inner[:, 1:] + inner[:, :-1])
        bulk = self.zeta - 2 / 3 * self.eta
        flux = np.empty((3, *mean.shape[1:]))
        flux[0] = (2 * self.eta + bulk) * normal[0] + bulk * across[1]
        flux[1] = self.eta * (normal[1] + across[0])
        flux[2] = mean[0] * flux[0] + mean[1] * flux[1]
        return (flux[:, 1:] - flux[:, :-1]) / self.cell

    def stiffness(self, density: Array) -> float:
        """Return a bound of the magnitude of the eigenvalues of `rates`: those of the highest waves on the grid."""
        return 4 * (2 * self.eta + self.eta / 3 + self.zeta) / (float(density.min()) * self.cell**2)

    def step(self, density: Array, changing: Array, dt: float) -> Array:
        """Return ``changing`` after ``dt``, whatever its length: second order and stable.

        The totals of momentum and energy stay.
        """
        count = math.ceil(dt * self.stiffness(density) / _LONGEST)
        for _ in range(count):
            changing = self._legendre_step(density, changing, dt / count)
        return changing

    def _legendre_step(self, density: Array, changing: Array, dt: float) -> Array:
        """Return ``changing`` after one step.

        Runge-Kutta-Legendre of second order, with the s stages that (s^2 + s - 2) / 4 explicit steps need (Meyer,
        Balsara and Aslam, J. Comput. Phys. 257, 2014, eqs. 15-17).
        """
        explicit = 2 * _SAFETY / self.stiffness(density)
        stages = max(3, math.ceil((math.sqrt(9 + 16 * dt / explicit) - 1) / 2)) | 1  # odd ones damp better
        width = 4 / (stages * stages + stages - 2)
        start = dt * self.rates(density, changing)
        before, now = changing.copy(), changing + _weight(1) * width * start
        scaled = np.empty_like(now)
        for j in range(2, stages + 1):
            mu = (2 * j - 1) / j * _weight(j) / _weight(j - 1)
            nu = -(j - 1) / j * _weight(j) / _weight(j - 2)
            slope = self.rates(density, now)
            slope *= mu * width * dt
            before *= nu
            before += slope
            for factor, array in ((mu, now), (1 - mu - nu, changing), (mu * width * (_weight(j - 1) - 1), start)):
                before += np.multiply(array, factor, out=scaled)
            before, now = now, before
        return now


def _weight(j: int) -> float:
    return (j * j + j - 2) / (2 * j * (j + 1)) if j > 2 else 1 / 3


def _ring(fields: Array) -> Array:
    """Surround [F, X, Y] with the neighbours across the periodic edges."""
    wide = np.concatenate([fields[:, -1:], fields, fields[:, :1]], axis=1)
    return np.concatenate([wide[:, :, -1:], wide, wide[:, :, :1]], axis=2)
