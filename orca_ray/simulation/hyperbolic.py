"""Finite volumes for hyperbolic systems: MUSCL-Hancock sweeps, one direction at a time.

Arrays are [F, ..., N], swept along the last axis, with the F fields (density or depth, velocity along the sweep, ...).
"""

from typing import Literal, Protocol

import numpy as np

from orca_ray.simulation.simulation import Array

Boundary = Literal["periodic", "outflow"]
FLOOR = 1e-8
"""Minimum density and pressure at a face."""


class System(Protocol):
    """System of conservation laws."""

    positive: tuple[int, ...]
    """Indices of fields that must stay positive."""

    def primitive(self, conserved: Array) -> Array:
        """Return (density, velocities, ...) of (density, momenta, ...)."""

    def drift(self, state: Array, slopes: Array) -> Array:
        """Return the rate of change of the primitive ``state``, -A(state) ``slopes``."""

    def flux(self, left: Array, right: Array) -> Array:
        """Return the flux of the conserved fields between two primitive states, by a Riemann solver."""

    def speed(self, conserved: Array, direction: int) -> Array:
        """Return the speed of the fastest wave along ``direction`` (0 for the first velocity), without axis F."""


def sweep(conserved: Array, ratio: Array | float, system: System, boundary: Boundary) -> Array:
    """Return the conserved fields [F, ..., N] after one step along the last axis; stable for ratio * speed <= 1.

    Second order in smooth regions (van Leer's limited slopes, Hancock's half step in primitive variables; Toro, Riemann
    Solvers and Numerical Methods for Fluid Dynamics, section 14.4), monotone elsewhere. ``ratio`` is the time step over
    the cell size, a number or an array that broadcasts with [..., N]; an outflow boundary is open to both sides.
    """
    state = _pad(system.primitive(conserved), 2, boundary)
    slopes = _limited_slopes(state)
    state = state[..., 1:-1]
    middle = state + 0.5 * ratio * system.drift(state, slopes)
    slopes *= 0.5
    left, right = (middle + slopes)[..., :-1], (middle - slopes)[..., 1:]
    for side in (left, right):
        for field in system.positive:
            np.maximum(side[field], FLOOR, out=side[field])
    flux = system.flux(left, right)
    return conserved - ratio * (flux[..., 1:] - flux[..., :-1])


def sweep_axis(conserved: Array, ratio: float, system: System, boundary: Boundary, direction: int) -> Array:
    """Sweep along the first or second of the last two axes, with its velocity swapped for the first."""
    order = np.arange(len(conserved))
    order[[1, 1 + direction]] = order[[1 + direction, 1]]
    turned = np.moveaxis(conserved[order], direction - 2, -1)
    return np.moveaxis(sweep(turned, ratio, system, boundary), -1, direction - 2)[order]


def _pad(fields: Array, width: int, boundary: Boundary) -> Array:
    if boundary == "periodic":
        return np.concatenate([fields[..., -width:], fields, fields[..., :width]], axis=-1)
    first, last = (np.repeat(edge, width, axis=-1) for edge in (fields[..., :1], fields[..., -1:]))
    return np.concatenate([first, fields, last], axis=-1)


def _limited_slopes(state: Array) -> Array:
    """Return van Leer's slopes (harmonic means of the differences to both sides, 0 at extrema) of the inner cells."""
    differences = state[..., 1:] - state[..., :-1]
    behind, ahead = differences[..., :-1], differences[..., 1:]
    product = behind * ahead
    total = behind + ahead
    # The sum is not zero where the product is positive; elsewhere the slope is 0 whatever the divisor.
    np.copyto(total, 1.0, where=product <= 0)
    np.maximum(product, 0.0, out=product)
    product *= 2.0
    product /= total
    return product
