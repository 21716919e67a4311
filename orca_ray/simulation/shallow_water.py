"""Shallow water in 2D (depth h, velocity v): h_t + div(h v) = 0, (h v)_t + div(h v v) + grad(h^2 / 2) = 0."""

import math
from collections.abc import Sequence

import numpy as np

from orca_ray.simulation.hyperbolic import GRAVITY, Water, sweep_axis
from orca_ray.simulation.simulation import Array, Fields, Grid, described

INNER_DEPTH, OUTER_DEPTH = 2.0, 1.0
RADII = (0.3, 0.7)
GRID = Grid(low=-2.5, high=2.5, num_cells=128, end=1.0, num_frames=101)
COURANT = 0.8


def evolve(initial: Array, cell: float, interval: float, num_frames: int, top_speed: float) -> Array:
    """Solve the equations from ``initial`` [3, B, X, Y] (depth, two momenta) on cells with sides ``cell``.

    Returns depths [B, num_frames, X, Y] at time intervals of ``interval``, the initial one first. ``top_speed`` is an
    upper bound of the wave speeds: 2 sqrt(g h) for water at rest with depths up to h. Sweeps alternate between the
    orders x, y and y, x, which is of second order in time (Strang 1968).
    """
    water = Water()
    steps = math.ceil(interval * top_speed / (COURANT * cell))
    ratio = interval / steps / cell
    frames = np.empty((initial.shape[1], num_frames, *initial.shape[2:]))
    frames[:, 0] = initial[0]
    conserved, order = initial, (0, 1)
    for frame in range(1, num_frames):
        for _ in range(steps):
            for direction in order:
                conserved = sweep_axis(conserved, ratio, water, "outflow", direction)
            order = order[::-1]
        frames[:, frame] = conserved[0]
    return frames


def cylinder(radius: float, x: Array) -> Array:
    """Return initial depth and momenta [3, X, X]: water at rest, deeper within ``radius`` of the origin."""
    deep = x[:, None] ** 2 + x[None, :] ** 2 <= radius**2
    depth = np.where(deep, INNER_DEPTH, OUTER_DEPTH)
    return np.stack([depth, np.zeros_like(depth), np.zeros_like(depth)])


def _solve(rngs: Sequence[np.random.Generator]) -> Fields:
    initial = np.stack([cylinder(rng.uniform(*RADII), GRID.x) for rng in rngs], axis=1)
    top_speed = 2 * math.sqrt(GRAVITY * INNER_DEPTH)
    depths = evolve(initial, GRID.cell, GRID.interval, GRID.num_frames, top_speed)
    return {"data": depths[..., None].astype(np.float32)}


_PARAMETERS = {
    "T_end": GRID.end, "n_time_steps": GRID.num_frames - 1, "xdim": GRID.num_cells, "ydim": GRID.num_cells,
    "gravity": GRAVITY, "inner_height": INNER_DEPTH, "x_left": GRID.low, "x_right": GRID.high, "y_bottom": GRID.low,
    "y_top": GRID.high,
}  # fmt: skip
SIMULATION = described("shallow_water", GRID.groups(1, "xy", _PARAMETERS, None), _solve)
