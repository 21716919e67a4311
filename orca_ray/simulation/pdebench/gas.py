"""An ideal gas for the finite volume method, and its viscous stress in 2D.

The method is `orca_ray.simulation.hyperbolic`. The last field of a gas is its total
energy (conserved) or pressure (primitive).
"""

import math
from dataclasses import dataclass

import numpy as np

from orca_ray.simulation import Array
from orca_ray.simulation.hyperbolic import FLOOR

GAMMA = 5.0 / 3.0
"""Adiabatic exponent of the gas."""
_SAFETY = 0.9
"""Share of the largest stable explicit step that a stage may take."""
_MAX_STIFF_STEP = 300.0
"""Maximum product of time step and `Stress.stiffness`.

Longer steps are stable, but damp long waves too little.
"""


class Gas:
    """Euler's equations of an ideal gas in one or more dimensions."""

    positive: tuple[int, ...] = (0, -1)
    """Indices of the primitive fields that must stay positive."""

    def primitive(self, conserved: Array) -> Array:
        """Return the primitive fields of conserved fields.

        They are density, velocities and pressure.
        """
        state = np.empty_like(conserved)
        state[0] = conserved[0]
        state[1:-1] = conserved[1:-1] / conserved[0]
        kinetic = 0.5 * (conserved[1:-1] * state[1:-1]).sum(axis=0)
        state[-1] = np.maximum((GAMMA - 1) * (conserved[-1] - kinetic), FLOOR)
        return state

    def conserved(self, state: Array) -> Array:
        """Return the conserved fields of the primitive fields ``state``.

        They are density, momenta and total energy.
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
        """Return dw/dt of the primitive fields w = ``state`` if dw/dx = ``slopes``.

        x is along the first velocity.
        """
        result: Array = -state[1] * slopes
        result[0] -= state[0] * slopes[1]
        result[1] -= slopes[-1] / state[0]
        result[-1] -= GAMMA * state[-1] * slopes[1]
        return result

    def speed(self, conserved: Array, direction: int) -> Array:
        """Return the speed of the fastest wave along an axis in each cell."""
        state = self.primitive(conserved)
        speed: Array = np.abs(state[1 + direction]) + self._sound(state)
        return speed

    def flux(self, left: Array, right: Array) -> Array:
        """Return the flux between primitive fields by the HLLC Riemann solver.

        The solver is that of Toro, chapter 10, with Davis' wave speeds. Only the side
        from which the contact wave moves away is computed; in supersonic flow, the
        outer wave speed of this side becomes 0.
        """
        sound_left = self._sound(left)
        sound_right = self._sound(right)
        slowest = np.minimum(left[1] - sound_left, right[1] - sound_right)
        fastest = np.maximum(left[1] + sound_left, right[1] + sound_right)
        mass_flux_left = left[0] * (slowest - left[1])
        mass_flux_right = right[0] * (fastest - right[1])
        contact = right[-1] - left[-1]
        contact = contact + mass_flux_left * left[1] - mass_flux_right * right[1]
        contact /= mass_flux_left - mass_flux_right
        from_left = contact >= 0
        state = np.where(from_left, left, right)
        outer_speed = np.where(from_left, slowest, fastest)
        mass_flux = np.where(from_left, mass_flux_left, mass_flux_right)
        clipped_speed = np.where(
            from_left, np.minimum(slowest, 0.0), np.maximum(fastest, 0.0)
        )
        return self._one_sided(state, contact, outer_speed, mass_flux, clipped_speed)

    def _one_sided(
        self,
        state: Array,
        contact: Array,
        outer_speed: Array,
        mass_flux: Array,
        clipped_speed: Array,
    ) -> Array:
        """Return F(U) + s (U* - U) for the primitive fields U = ``state``.

        F is the flux, U* the state between outer and contact wave, and s the
        ``clipped_speed``. ``contact`` is the speed of the contact wave, and
        ``mass_flux`` the flux of mass through the outer wave.
        """
        density = state[0]
        velocity = state[1]
        pressure = state[-1]
        energy = self.energy(state)
        star_density = mass_flux / (outer_speed - contact)
        momentum = density * velocity
        result = np.empty_like(state)
        result[0] = momentum + clipped_speed * (star_density - density)
        result[1] = (
            momentum * velocity
            + pressure
            + clipped_speed * (star_density * contact - momentum)
        )
        for transverse in range(2, len(state) - 1):
            result[transverse] = result[0] * state[transverse]
        gain = (contact - velocity) * (contact + pressure / mass_flux)
        star_energy = star_density * (energy / density + gain)
        jump = star_energy - energy
        result[-1] = velocity * (energy + pressure) + clipped_speed * jump
        return result

    def _sound(self, state: Array) -> Array:
        speed: Array = np.sqrt(GAMMA * state[-1] / state[0])
        return speed


@dataclass(frozen=True)
class Stress:
    """Viscous stress eta (grad v + grad v^T - 2/3 div v) + zeta div v in 2D.

    Cells are periodic, with sides ``cell``.
    """

    eta: float
    zeta: float
    cell: float

    def rates(self, density: Array, changing: Array) -> Array:
        """Return d/dt of ``changing`` by the stress alone.

        ``changing`` is (two momenta, energy) [3, X, Y]; ``density`` is [X, Y].
        """
        velocity = np.pad(changing[:2] / density, ((0, 0), (1, 1), (1, 1)), "wrap")
        result = self._through_faces(velocity)
        swapped = velocity[::-1].swapaxes(1, 2)
        across = self._through_faces(swapped).swapaxes(1, 2)
        result[0] += across[1]
        result[1] += across[0]
        result[2] += across[2]
        return result

    def _through_faces(self, velocity: Array) -> Array:
        """Return the part of `rates` [3, X, Y] due to faces across the first axis.

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
        """Return an upper bound of the eigenvalues of `rates`, in 1 / time."""
        return (
            4
            * (2 * self.eta + self.eta / 3 + self.zeta)
            / (float(density.min()) * self.cell**2)
        )

    def step(self, density: Array, changing: Array, dt: float) -> Array:
        """Return ``changing`` after a time ``dt`` of any length.

        The method is of second order, and conserves momentum and energy.
        """
        count = math.ceil(dt * self.stiffness(density) / _MAX_STIFF_STEP)
        for _ in range(count):
            changing = self._legendre_step(density, changing, dt / count)
        return changing

    def _legendre_step(self, density: Array, changing: Array, dt: float) -> Array:
        """Return ``changing`` after one Runge-Kutta-Legendre step of second order.

        With s stages, it may be (s^2 + s - 2) / 4 times as long as an explicit Euler
        step (Meyer et al. 2014).
        """
        explicit = 2 * _SAFETY / self.stiffness(density)
        stages = max(3, math.ceil((math.sqrt(9 + 16 * dt / explicit) - 1) / 2))
        stages |= 1  # an odd number damps better
        width = 4 / (stages * stages + stages - 2)
        start = dt * self.rates(density, changing)
        before = changing.copy()
        current = changing + _weight(1) * width * start
        scaled = np.empty_like(current)
        for stage in range(2, stages + 1):
            mu = (2 * stage - 1) / stage * _weight(stage) / _weight(stage - 1)
            nu = -(stage - 1) / stage * _weight(stage) / _weight(stage - 2)
            slope = self.rates(density, current)
            slope *= mu * width * dt
            before *= nu
            before += slope
            before += np.multiply(current, mu, out=scaled)
            before += np.multiply(changing, 1 - mu - nu, out=scaled)
            start_factor = mu * width * (_weight(stage - 1) - 1)
            before += np.multiply(start, start_factor, out=scaled)
            before, current = current, before
        return current


def _weight(stage: int) -> float:
    """Return the coefficient b of a stage of the Runge-Kutta-Legendre method."""
    if stage <= 2:
        return 1 / 3
    return (stage * stage + stage - 2) / (2 * stage * (stage + 1))
