"""Finite volume method for hyperbolic systems of equations (MUSCL-Hancock).

The module also solves the shallow-water equations by this method. A "sweep" is a time
step along one axis of the grid. Arrays are [F, ..., N] with F fields; the last axis is
that of the sweep. Conserved fields are (density, momenta..., others), primitive fields
(density, velocities..., others); the momentum and velocity along the sweep come first.
For water, density is depth.
"""

import math
from typing import Literal, Protocol

import numpy as np

from orca_ray.simulation import Array

Boundary = Literal["periodic", "outflow"]
FLOOR = 1e-8
"""Densities and pressures at the faces between cells are clamped to at least this
value.
"""
GRAVITY = 1.0
"""Gravitational acceleration."""
COURANT = 0.8
"""Largest distance that a wave moves in one time step, in cells."""


class System(Protocol):
    """Interface of a system of equations, such as `Water`."""

    positive: tuple[int, ...]
    """Indices of the primitive fields that must stay positive."""

    def primitive(self, conserved: Array) -> Array:
        """Return the primitive fields that correspond to conserved fields."""

    def drift(self, state: Array, slopes: Array) -> Array:
        """Return dw/dt of the primitive fields w = ``state``.

        dw/dx is ``slopes``, with x along the first velocity.
        """

    def flux(self, left: Array, right: Array) -> Array:
        """Return the flux between the primitive fields on both sides of each face."""


def sweep(
    conserved: Array, ratio: Array | float, system: System, boundary: Boundary
) -> Array:
    """Return the conserved fields [F, ..., N] after one time step along the last axis.

    Stable if ratio * speed <= 1. Second order in smooth regions, no new extrema
    elsewhere (van Leer's limited slopes, half step in primitive fields; Toro, Riemann
    Solvers and Numerical Methods for Fluid Dynamics, section 14.4). ``ratio`` is the
    time step divided by the cell size, a number or an array that broadcasts with [...,
    N]. The boundary "outflow" is open at both ends.
    """
    widths = [(0, 0)] * (conserved.ndim - 1) + [(2, 2)]
    mode: Literal["wrap", "edge"] = "wrap" if boundary == "periodic" else "edge"
    state = np.pad(system.primitive(conserved), widths, mode)
    slopes = _limited_slopes(state)
    state = state[..., 1:-1]
    halfway = state + 0.5 * ratio * system.drift(state, slopes)
    slopes *= 0.5
    left = (halfway + slopes)[..., :-1]
    right = (halfway - slopes)[..., 1:]
    for side in (left, right):
        for field in system.positive:
            np.maximum(side[field], FLOOR, out=side[field])
    flux = system.flux(left, right)
    return conserved - ratio * (flux[..., 1:] - flux[..., :-1])


def sweep_axis(
    conserved: Array, ratio: float, system: System, boundary: Boundary, direction: int
) -> Array:
    """Return the conserved fields [F, ..., X, Y] after a `sweep`.

    The sweep is along x (``direction`` 0) or y (``direction`` 1).
    """
    # `sweep` expects the momentum along its axis as the first momentum.
    order = np.arange(len(conserved))
    order[[1, 1 + direction]] = order[[1 + direction, 1]]
    turned = np.moveaxis(conserved[order], direction - 2, -1)
    return np.moveaxis(sweep(turned, ratio, system, boundary), -1, direction - 2)[order]


def _limited_slopes(state: Array) -> Array:
    """Return van Leer's slopes of the inner cells.

    They are the harmonic means of the differences to both sides, and 0 at extrema.
    """
    differences = state[..., 1:] - state[..., :-1]
    behind = differences[..., :-1]
    ahead = differences[..., 1:]
    product = behind * ahead
    total = behind + ahead
    # Where the product is positive, the sum is not zero. Elsewhere the slope is 0, so
    # any divisor will do.
    np.copyto(total, 1.0, where=product <= 0)
    np.maximum(product, 0.0, out=product)
    product *= 2.0
    product /= total
    return product


class Water:
    """Shallow water over a flat bed.

    Primitive fields: depth, velocities; conserved: depth, momenta.
    """

    positive: tuple[int, ...] = (0,)
    """Indices of the primitive fields that must stay positive."""

    def primitive(self, conserved: Array) -> Array:
        """Return primitive fields (depth, velocities) of conserved fields."""
        state = conserved.copy()
        state[1:] /= conserved[0]
        return state

    def drift(self, state: Array, slopes: Array) -> Array:
        """Return dw/dt of the primitive fields w = ``state``.

        dw/dx is ``slopes``, with x along the first velocity.
        """
        result: Array = -state[1] * slopes
        result[0] -= state[0] * slopes[1]
        result[1] -= GRAVITY * slopes[0]
        return result

    def flux(self, left: Array, right: Array) -> Array:
        """Return the HLL flux between primitive fields.

        The transverse velocity is taken upwind (Toro 2001, ch. 10).
        """
        wave_left = np.sqrt(GRAVITY * left[0])
        wave_right = np.sqrt(GRAVITY * right[0])
        slowest = np.minimum(
            np.minimum(left[1] - wave_left, right[1] - wave_right), 0.0
        )
        fastest = np.maximum(
            np.maximum(left[1] + wave_left, right[1] + wave_right), 0.0
        )
        momentum_left = left[0] * left[1]
        momentum_right = right[0] * right[1]
        span = fastest - slowest
        product = slowest * fastest

        def average(flux_left: Array, flux_right: Array, jump: Array) -> Array:
            weighted = fastest * flux_left - slowest * flux_right + product * jump
            return np.asarray(weighted / span)

        result = np.empty_like(left)
        result[0] = average(momentum_left, momentum_right, right[0] - left[0])
        momentum_flux_left = momentum_left * left[1] + 0.5 * GRAVITY * left[0] ** 2
        momentum_flux_right = momentum_right * right[1] + 0.5 * GRAVITY * right[0] ** 2
        jump = momentum_right - momentum_left
        result[1] = average(momentum_flux_left, momentum_flux_right, jump)
        result[2:] = result[0] * np.where(result[0] >= 0, left[2:], right[2:])
        return result


def evolve_water(
    initial: Array, cell: float, interval: float, num_frames: int, top_speed: float
) -> Array:
    """Solve the shallow-water equations in 2D for depth h and velocity v.

    They are h_t + div(h v) = 0 and (h v)_t + div(h v v) + grad(h^2 / 2) = 0.
    ``initial`` [3, B, X, Y] holds the depth and two momenta, in cells with sides
    ``cell``. Returns depths [B, num_frames, X, Y] at time intervals of ``interval``,
    the initial one first. ``top_speed`` is an upper bound of the wave speeds: 2 sqrt(g
    h) for water at rest with depths up to h. Sweeps alternate between the orders x, y
    and y, x, which is of second order in time (Strang 1968).
    """
    water = Water()
    steps = math.ceil(interval * top_speed / (COURANT * cell))
    ratio = interval / steps / cell
    frames = np.empty((initial.shape[1], num_frames, *initial.shape[2:]))
    frames[:, 0] = initial[0]
    conserved = initial
    order = (0, 1)
    for frame in range(1, num_frames):
        for _ in range(steps):
            for direction in order:
                conserved = sweep_axis(conserved, ratio, water, "outflow", direction)
            order = order[::-1]
        frames[:, frame] = conserved[0]
    return frames
