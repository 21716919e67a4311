"""Finite volume method for hyperbolic systems (MUSCL-Hancock); a "sweep" is a time step along one axis of the grid.

Arrays are [F, ..., N] with F fields; the last axis is that of the sweep. Conserved fields are (density, momenta...,
others), primitive fields (density, velocities..., others), those along the sweep first. For water, density is depth.
"""

from typing import Literal, Protocol

import numpy as np

from orca_ray.simulation.simulation import Array

Boundary = Literal["periodic", "outflow"]
FLOOR = 1e-8
"""Densities and pressures at the faces between cells are clamped to at least this value."""


class System(Protocol):
    """A system of conservation laws."""

    positive: tuple[int, ...]
    """Indices of the primitive fields that must stay positive."""

    def primitive(self, conserved: Array) -> Array:
        """Return the primitive fields of conserved ones."""

    def drift(self, state: Array, slopes: Array) -> Array:
        """Return dw/dt of the primitive fields w = ``state`` if dw/dx = ``slopes``, with x along the first velocity."""

    def flux(self, left: Array, right: Array) -> Array:
        """Return the flux of the conserved fields at faces with the primitive fields ``left`` and ``right`` of them."""

    def speed(self, conserved: Array, direction: int) -> Array:
        """Return the speed [..., N] of the fastest wave along axis ``direction`` (0: that of the first velocity)."""


def sweep(conserved: Array, ratio: Array | float, system: System, boundary: Boundary) -> Array:
    """Return the conserved fields [F, ..., N] after one time step along the last axis; stable if ratio * speed <= 1.

    Second order in smooth regions, no new extrema elsewhere (van Leer's limited slopes, half step in primitive fields;
    Toro, Riemann Solvers and Numerical Methods for Fluid Dynamics, section 14.4). ``ratio`` is the time step divided by
    the cell size, a number or an array that broadcasts with [..., N]. The boundary "outflow" is open at both ends.
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
    """Do a `sweep` along axis ``direction`` (0 or 1) of the last two axes, with the momentum along it put first."""
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
    """Return van Leer's slopes of the inner cells: harmonic mean of the differences to both sides, 0 at extrema."""
    differences = state[..., 1:] - state[..., :-1]
    behind, ahead = differences[..., :-1], differences[..., 1:]
    product = behind * ahead
    total = behind + ahead
    # Where the product is positive, the sum is not zero. Elsewhere the slope is 0, so any divisor will do.
    np.copyto(total, 1.0, where=product <= 0)
    np.maximum(product, 0.0, out=product)
    product *= 2.0
    product /= total
    return product
