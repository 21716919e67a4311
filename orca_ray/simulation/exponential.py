"""Exponential time stepping: the stiff linear part of an equation exactly, the rest to fourth order."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from orca_ray.simulation.simulation import Array

Modes = npt.NDArray[Any]
_CONTOUR_POINTS = 32


class Etdrk4:
    """ETDRK4 for du/dt = L u + N(u) with a diagonal real L (Cox and Matthews, J. Comput. Phys. 176, 2002, eqs. 26-29).

    Its coefficients are means over a circle around L dt, where the formulas themselves would cancel (Kassam and
    Trefethen, SIAM J. Sci. Comput. 26, 2005).
    """

    def __init__(self, linear: Array, dt: float) -> None:
        """Prepare steps of ``dt``.

        Args:
            linear: L of every mode, in a shape that broadcasts with the modes.
            dt: step.
        """
        z = linear * dt
        angles = np.pi * (np.arange(_CONTOUR_POINTS) + 0.5) / _CONTOUR_POINTS  # the upper half: L is real
        circle = z[..., None] + np.exp(1j * angles)
        exponential = np.exp(circle)
        self._whole = np.exp(z)
        self._half = np.exp(z / 2)
        self._stage = dt * np.mean(np.expm1(circle / 2) / circle, axis=-1).real
        cubed = circle**3
        first = (-4 - circle + exponential * (4 - 3 * circle + circle**2)) / cubed
        middle = 2 * (2 + circle + exponential * (circle - 2)) / cubed
        last = (-4 - 3 * circle - circle**2 + exponential * (4 - circle)) / cubed
        self._first, self._middle, self._last = (dt * np.mean(part, axis=-1).real for part in (first, middle, last))

    def step(self, modes: Modes, nonlinear: Callable[[Modes], Modes]) -> Modes:
        """Return the modes one step later; ``nonlinear`` maps modes to those of N."""
        slope = nonlinear(modes)
        halfway = self._half * modes
        a = halfway + self._stage * slope
        slope_a = nonlinear(a)
        b = halfway + self._stage * slope_a
        slope_b = nonlinear(b)
        c = self._half * a + self._stage * (2 * slope_b - slope)
        slope_c = nonlinear(c)
        following: Modes = (
            self._whole * modes
            + self._first * slope
            + self._middle * (slope_a + slope_b)
            + self._last * slope_c
        )  # fmt: skip
        return following
