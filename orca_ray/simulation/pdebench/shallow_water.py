"""Shallow water in 2D, at rest at first, and deeper within a circle.

Only the depth is written.
"""

import math
from collections.abc import Sequence

import numpy as np

from orca_ray.simulation import Array
from orca_ray.simulation.hyperbolic import GRAVITY, evolve_water
from orca_ray.simulation.pdebench.groups import group_layout
from orca_ray.simulation.pdebench.simulation import Fields, Grid, make_simulation

INNER_DEPTH = 2.0
"""Initial depth within the circle."""
OUTER_DEPTH = 1.0
"""Initial depth outside of the circle."""
RADII = (0.3, 0.7)
"""Range of the radius of the circle."""
GRID = Grid(low=-2.5, high=2.5, num_cells=128, end=1.0, num_frames=101)


def cylinder(radius: float, x: Array) -> Array:
    """Return initial depth and momenta [3, X, X] of water at rest.

    The water is deeper within ``radius`` of the origin.
    """
    deep = x[:, None] ** 2 + x[None, :] ** 2 <= radius**2
    depth = np.where(deep, INNER_DEPTH, OUTER_DEPTH)
    return np.stack([depth, np.zeros_like(depth), np.zeros_like(depth)])


def _solve(rngs: Sequence[np.random.Generator]) -> Fields:
    initial = np.stack([cylinder(rng.uniform(*RADII), GRID.x) for rng in rngs], axis=1)
    top_speed = 2 * math.sqrt(GRAVITY * INNER_DEPTH)
    depths = evolve_water(initial, GRID.cell, GRID.interval, GRID.num_frames, top_speed)
    return {"data": depths[..., None].astype(np.float32)}


_PARAMETERS = {
    "T_end": GRID.end,
    "n_time_steps": GRID.num_frames - 1,
    "xdim": GRID.num_cells,
    "ydim": GRID.num_cells,
    "gravity": GRAVITY,
    "inner_height": INNER_DEPTH,
    "x_left": GRID.low,
    "x_right": GRID.high,
    "y_bottom": GRID.low,
    "y_top": GRID.high,
}
SIMULATION = make_simulation(
    "shallow_water",
    group_layout(GRID, channels=1, axes="xy", parameters=_PARAMETERS, compression=None),
    _solve,
)
