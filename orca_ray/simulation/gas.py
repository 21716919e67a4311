"""Euler's equations of an ideal gas, for the sweeps of :mod:`orca_ray.simulation.hyperbolic`.

Primitive fields (density, velocities..., pressure), conserved ones (density, momenta..., total energy).
"""

import numpy as np

from orca_ray.simulation.hyperbolic import FLOOR
from orca_ray.simulation.simulation import Array

GAMMA = 5.0 / 3.0


class Gas:
    """An ideal gas in as many dimensions as it has velocities."""

    positive: tuple[int, ...] = (0, -1)

    def __init__(self, gamma: float = GAMMA) -> None:
        self.gamma = gamma

    def primitive(self, conserved: Array) -> Array:
        """Return (density, velocities..., pressure)."""
        state = np.empty_like(conserved)
        state[0] = conserved[0]
        state[1:-1] = conserved[1:-1] / conserved[0]
        kinetic = 0.5 * (conserved[1:-1] * state[1:-1]).sum(axis=0)
        state[-1] = np.maximum((self.gamma - 1) * (conserved[-1] - kinetic), FLOOR)
        return state

    def conserved(self, state: Array) -> Array:
        """Return (density, momenta..., total energy)."""
        result = np.empty_like(state)
        result[0] = state[0]
        result[1:-1] = state[0] * state[1:-1]
        result[-1] = self.energy(state)
        return result

    def energy(self, state: Array) -> Array:
        """Return the total energy per volume of a primitive state."""
        kinetic = 0.5 * state[0] * (state[1:-1] * state[1:-1]).sum(axis=0)
        total: Array = state[-1] / (self.gamma - 1) + kinetic
        return total

    def drift(self, state: Array, slopes: Array) -> Array:
        """Return -A(state) slopes for the direction of the first velocity."""
        density, velocity, pressure = state[0], state[1], state[-1]
        result: Array = -velocity * slopes
        result[0] -= density * slopes[1]
        result[1] -= slopes[-1] / density
        result[-1] -= self.gamma * pressure * slopes[1]
        return result

    def speed(self, conserved: Array, direction: int) -> Array:
        """Return the speed of the fastest wave along ``direction``."""
        state = self.primitive(conserved)
        speed: Array = np.abs(state[1 + direction]) + self._sound(state)
        return speed

    def flux(self, left: Array, right: Array) -> Array:
        """Return the flux of the HLLC solver (Toro, chapter 10), with the bounds of Davis for the outer waves.

        Only the side that the contact moves away from is worked out: where the flow is supersonic its clipped outer
        speed is 0 and leaves the plain flux.
        """
        sound_left, sound_right = self._sound(left), self._sound(right)
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
        clipped = np.where(from_left, np.minimum(slowest, 0.0), np.maximum(fastest, 0.0))
        return self._one_sided(state, contact, outer, mass, clipped)

    def _one_sided(self, state: Array, contact: Array, outer: Array, mass: Array, clipped: Array) -> Array:
        """Return F(state) + clipped * (U* - U), U* being the state between the outer wave and the contact."""
        density, velocity, pressure = state[0], state[1], state[-1]
        energy = self.energy(state)
        starred = mass / (outer - contact)  # density between the waves
        result = np.empty_like(state)
        stream = density * velocity
        result[0] = stream + clipped * (starred - density)
        result[1] = stream * velocity + pressure + clipped * (starred * contact - stream)
        for other in range(2, len(state) - 1):
            result[other] = result[0] * state[other]
        gained = (contact - velocity) * (contact + pressure / mass)
        result[-1] = velocity * (energy + pressure) + clipped * (starred * (energy / density + gained) - energy)
        return result

    def _sound(self, state: Array) -> Array:
        found: Array = np.sqrt(self.gamma * state[-1] / state[0])
        return found
