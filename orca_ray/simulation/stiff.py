"""Exponential time stepping (ETDRK4) for stiff equations."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from orca_ray.simulation import Array

Modes = npt.NDArray[Any]
Symbol = Callable[[Array], Any]
"""Function that maps wave numbers to the factors by which an operator multiplies the
Fourier coefficients.
"""
_CONTOUR_POINTS = 32
"""Number of points on the circle over which coefficients are averaged."""


class Etdrk4:
    """Fourth-order method ETDRK4 for du/dt = L u + N(u).

    L is a real diagonal matrix and N a nonlinear function. See Cox and Matthews 2002,
    eqs. 26-29. Coefficients are means over a circle around L dt, which avoids
    cancellation.
    """

    def __init__(self, linear: Array, dt: float) -> None:
        """Compute the coefficients for time steps ``dt``.

        ``linear`` is the diagonal of L and broadcasts with u.
        """
        z = linear * dt
        # Angles of the upper half are enough, as L is real.
        angles = np.pi * (np.arange(_CONTOUR_POINTS) + 0.5) / _CONTOUR_POINTS
        circle = z[..., None] + np.exp(1j * angles)
        exponential = np.exp(circle)
        self._whole = np.exp(z)
        self._half = np.exp(z / 2)

        def coefficient(values: Modes) -> Array:
            """Return the mean over the circle, times ``dt``."""
            return np.asarray(dt * np.mean(values, axis=-1).real)

        self._stage = coefficient(np.expm1(circle / 2) / circle)
        cubed = circle**3
        first = (-4 - circle + exponential * (4 - 3 * circle + circle**2)) / cubed
        between = 2 * (2 + circle + exponential * (circle - 2)) / cubed
        last = (-4 - 3 * circle - circle**2 + exponential * (4 - circle)) / cubed
        self._first = coefficient(first)
        self._between = coefficient(between)
        self._last = coefficient(last)

    def step(self, modes: Modes, nonlinear: Callable[[Modes], Modes]) -> Modes:
        """Return u after one time step.

        ``modes`` is u before the step, and ``nonlinear`` is the function N.
        """
        slope = nonlinear(modes)
        halfway = self._half * modes
        a = halfway + self._stage * slope
        slope_a = nonlinear(a)
        b = halfway + self._stage * slope_a
        slope_b = nonlinear(b)
        c = self._half * a + self._stage * (2 * slope_b - slope)
        slope_c = nonlinear(c)
        next_modes: Modes = self._whole * modes + self._first * slope
        next_modes += self._between * (slope_a + slope_b)
        next_modes += self._last * slope_c
        return next_modes


def evolve_spectral(
    initial: Array,
    linear: Symbol,
    quadratic: Symbol,
    *,
    interval: float,
    num_frames: int,
    steps: int,
) -> Array:
    """Return solutions of u_t = L u + Q (u^2), periodic on [0, 1).

    They are frames [B, num_frames, X], ``initial`` first. ``initial`` [B, X] is u at X
    equally spaced points; X is even. ``linear`` and ``quadratic`` are the Fourier
    symbols of the operators L and Q. Frames are a time ``interval`` apart, with
    ``steps`` time steps in between.
    """
    num_points = initial.shape[-1]
    k = 2 * np.pi * np.arange(num_points // 2 + 1)
    stepper = Etdrk4(linear(k), interval / steps)
    # Q is applied to the lower two thirds of the modes only, because squaring u aliases
    # the others (Orszag 1971).
    factor = np.where(np.arange(len(k)) <= num_points // 3, quadratic(k), 0.0)

    def nonlinear(modes: Modes) -> Modes:
        return factor * np.fft.rfft(np.fft.irfft(modes, num_points) ** 2)

    frames = np.empty((len(initial), num_frames, num_points))
    frames[:, 0] = initial
    modes: Modes = np.fft.rfft(initial)
    for frame in range(1, num_frames):
        for _ in range(steps):
            modes = stepper.step(modes, nonlinear)
        frames[:, frame] = np.fft.irfft(modes, num_points)
    return frames
