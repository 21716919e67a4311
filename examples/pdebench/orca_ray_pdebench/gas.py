"""An ideal gas for the finite volume method of `orca_ray.simulation.hyperbolic`, and
its viscous stress in 2D.

The last field of a gas is its total energy (conserved) or pressure (primitive).
"""

import math
from dataclasses import dataclass

import numpy as np

from orca_ray.simulation import Array
from orca_ray.simulation.hyperbolic import FLOOR

GAMMA = 5.0 / 3.0
_SAFETY = 0.9
_LONGEST = 300.0
"""Maximum product of time step and `Stress.stiffness`; longer steps are stable, but
damp long waves too little.
"""


class Gas:
    """Euler's equations of an ideal gas in one or more dimensions."""

    positive: tuple[int, ...] = (0, -1)
    """Indices of the primitive fields that must stay positive."""

    def primitive(self, conserved: Array) -> Array:
        """Return the primitive fields (density, velocities..., pressure) that
        correspond to conserved fields.
        """
        state = np.empty_like(conserved)
        state[0] = conserved[0]
        state[1:-1] = conserved[1:-1] / conserved[0]
        kinetic = 0.5 * (conserved[1:-1] * state[1:-1]).sum(axis=0)
        state[-1] = np.maximum((GAMMA - 1) * (conserved[-1] - kinetic), FLOOR)
        return state

    def conserved(self, state: Array) -> Array:
        """Return the conserved fields (density, momenta..., total energy) of the
        primitive fields ``state``.
        """
        result = np.empty_like(state)
        result[0] = state[0]
        result[1:-1] = state[0] * state[1:-1]
        result[-1] = self.energy(state)
        return result

    def energy(self, state: Array) -> Array:
        """Return the total energy per volume of the primitive fields ``state``."""
        kinetic = 0.5 * state[0] * (state[1:-1] * state[1:-1]).sum(axis=0)
        total: Array = state[-1] / (GAMMA - 1) + kinetic
        return total

    def drift(self, state: Array, slopes: Array) -> Array:
        """Return dw/dt of the primitive fields w = ``state`` if dw/dx = ``slopes``,
        with x along the first velocity.
        """
        result: Array = -state[1] * slopes
        result[0] -= state[0] * slopes[1]
        result[1] -= slopes[-1] / state[0]
        result[-1] -= GAMMA * state[-1] * slopes[1]
        return result

    def speed(self, conserved: Array, direction: int) -> Array:
        """Return the speed of the fastest wave along axis ``direction`` in each cell."""
        state = self.primitive(conserved)
        speed: Array = np.abs(state[1 + direction]) + self._sound(state)
        return speed

    def flux(self, left: Array, right: Array) -> Array:
        """Return the flux between primitive fields by the HLLC Riemann solver (Toro,
        chapter 10); Davis' wave speeds.

        Only the side from which the contact wave moves away is computed; in supersonic
        flow, the outer wave speed of this side becomes 0.
        """
        sound_left = self._sound(left)
        sound_right = self._sound(right)
        slowest = np.minimum(left[1] - sound_left, right[1] - sound_right)
        fastest = np.maximum(left[1] + sound_left, right[1] + sound_right)
        mass_left = left[0] * (slowest - left[1])
        mass_right = right[0] * (fastest - right[1])
        contact = right[-1] - left[-1] + mass_left * left[1] - mass_right * right[1]
        contact /= mass_left - mass_right
        from_left = contact >= 0
        state = np.where(from_left, left, right)
        outer = np.where(from_left, slowest, fastest)
        mass = np.where(from_left, mass_left, mass_right)
        clipped = np.where(
            from_left, np.minimum(slowest, 0.0), np.maximum(fastest, 0.0)
        )
        return self._one_sided(state, contact, outer, mass, clipped)

    def _one_sided(
        self, state: Array, contact: Array, outer: Array, mass: Array, clipped: Array
    ) -> Array:
        """Return F(U) + clipped * (U* - U): U is ``state``, F its flux, U* the state
        between outer and contact wave.
        """
        density = state[0]
        velocity = state[1]
        pressure = state[-1]
        energy = self.energy(state)
        starred = mass / (outer - contact)  # density of U*
        result = np.empty_like(state)
        stream = density * velocity
        result[0] = stream + clipped * (starred - density)
        result[1] = (
            stream * velocity + pressure + clipped * (starred * contact - stream)
        )
        for other in range(2, len(state) - 1):
            result[other] = result[0] * state[other]
        gained = (contact - velocity) * (contact + pressure / mass)
        result[-1] = velocity * (energy + pressure) + clipped * (
            starred * (energy / density + gained) - energy
        )
        return result

    def _sound(self, state: Array) -> Array:
        speed: Array = np.sqrt(GAMMA * state[-1] / state[0])
        return speed


@dataclass(frozen=True)
class Stress:
    """Viscous stress eta (grad v + grad v^T - 2/3 div v) + zeta div v in 2D, on
    periodic cells with sides ``cell``.
    """

    eta: float
    zeta: float
    cell: float

    def rates(self, density: Array, changing: Array) -> Array:
        """Return d/dt of ``changing`` [3, X, Y] = (two momenta, energy) by the stress
        alone; ``density`` is [X, Y].
        """
        velocity = np.pad(changing[:2] / density, ((0, 0), (1, 1), (1, 1)), "wrap")
        result = self._through_faces(velocity)
        turned = self._through_faces(velocity[::-1].swapaxes(1, 2)).swapaxes(1, 2)
        for field, other in enumerate((1, 0, 2)):
            result[field] += turned[other]
        return result

    def _through_faces(self, velocity: Array) -> Array:
        """Return the part of `rates` [3, X, Y] due to the faces between neighbouring
        cells along the first axis.

        ``velocity`` [2, X + 2, Y + 2] is (along, across the first axis), padded with
        its periodic neighbours.
        """
        interior = velocity[:, :, 1:-1]
        normal = (interior[:, 1:] - interior[:, :-1]) / self.cell
        central = velocity[:, :, 2:] - velocity[:, :, :-2]
        across = (central[:, 1:] + central[:, :-1]) * (0.25 / self.cell)
        mean = 0.5 * (interior[:, 1:] + interior[:, :-1])
        bulk = self.zeta - 2 / 3 * self.eta
        flux = np.empty((3, *mean.shape[1:]))
        flux[0] = (2 * self.eta + bulk) * normal[0] + bulk * across[1]
        flux[1] = self.eta * (normal[1] + across[0])
        flux[2] = mean[0] * flux[0] + mean[1] * flux[1]
        return (flux[:, 1:] - flux[:, :-1]) / self.cell

    def stiffness(self, density: Array) -> float:
        """Return an upper bound of the eigenvalue magnitudes of `rates`, in 1 / time."""
        return (
            4
            * (2 * self.eta + self.eta / 3 + self.zeta)
            / (float(density.min()) * self.cell**2)
        )

    def step(self, density: Array, changing: Array, dt: float) -> Array:
        """Return ``changing`` after a time ``dt`` of any length; second order,
        conserves momentum and energy.
        """
        count = math.ceil(dt * self.stiffness(density) / _LONGEST)
        for _ in range(count):
            changing = self._legendre_step(density, changing, dt / count)
        return changing

    def _legendre_step(self, density: Array, changing: Array, dt: float) -> Array:
        """Return ``changing`` after one step of the second-order Runge-Kutta-Legendre
        method.

        With s stages, it may be (s^2 + s - 2) / 4 times as long as an explicit Euler
        step (Meyer et al. 2014).
        """
        explicit = 2 * _SAFETY / self.stiffness(density)
        stages = (
            max(3, math.ceil((math.sqrt(9 + 16 * dt / explicit) - 1) / 2)) | 1
        )  # an odd number damps better
        width = 4 / (stages * stages + stages - 2)
        start = dt * self.rates(density, changing)
        before = changing.copy()
        now = changing + _weight(1) * width * start
        scaled = np.empty_like(now)
        for j in range(2, stages + 1):
            mu = (2 * j - 1) / j * _weight(j) / _weight(j - 1)
            nu = -(j - 1) / j * _weight(j) / _weight(j - 2)
            slope = self.rates(density, now)
            slope *= mu * width * dt
            before *= nu
            before += slope
            for factor, array in (
                (mu, now),
                (1 - mu - nu, changing),
                (mu * width * (_weight(j - 1) - 1), start),
            ):
                before += np.multiply(array, factor, out=scaled)
            before, now = now, before
        return now


def _weight(j: int) -> float:
    return (j * j + j - 2) / (2 * j * (j + 1)) if j > 2 else 1 / 3
