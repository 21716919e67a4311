"""Shallow water in 2D (depth h, velocity v): h_t + div(h v) = 0, (h v)_t + div(h v v) + grad(h^2 / 2) = 0."""

import math
from collections.abc import Sequence

import numpy as np

from orca_ray.simulation.hyperbolic import Boundary, sweep_axis
from orca_ray.simulation.simulation import Array, Fields, Simulation, centres, group_layout

GRAVITY = 1.0
INNER_DEPTH, OUTER_DEPTH = 2.0, 1.0
RADII = (0.3, 0.7)
LOW, HIGH = -2.5, 2.5
END = 1.0
NUM_FRAMES = 101
NUM_CELLS = 128
COURANT = 0.8


class Water:
    """Shallow water over a flat bed, a `System`; primitive fields: depth, velocities; conserved: depth, momenta."""

    positive: tuple[int, ...] = (0,)

    def primitive(self, conserved: Array) -> Array:
        """Return the primitive fields (depth, velocities) that correspond to conserved fields."""
        state = conserved.copy()
        state[1:] /= conserved[0]
        return state

    def drift(self, state: Array, slopes: Array) -> Array:
        """Return dw/dt of the primitive fields w = ``state`` if dw/dx = ``slopes``, with x along the first velocity."""
        result: Array = -state[1] * slopes
        result[0] -= state[0] * slopes[1]
        result[1] -= GRAVITY * slopes[0]
        return result

    def speed(self, conserved: Array, direction: int) -> Array:
        """Return the speed of the fastest wave along axis ``direction`` in each cell."""
        speed: Array = np.abs(conserved[1 + direction] / conserved[0]) + np.sqrt(GRAVITY * conserved[0])
        return speed

    def flux(self, left: Array, right: Array) -> Array:
        """Return the HLL flux between primitive fields; the transverse velocity is taken upwind (Toro 2001, ch. 10)."""
        wave_left, wave_right = np.sqrt(GRAVITY * left[0]), np.sqrt(GRAVITY * right[0])
        slowest = np.minimum(np.minimum(left[1] - wave_left, right[1] - wave_right), 0.0)
        fastest = np.maximum(np.maximum(left[1] + wave_left, right[1] + wave_right), 0.0)
        stream_left, stream_right = left[0] * left[1], right[0] * right[1]
        span = fastest - slowest
        product = slowest * fastest
        result = np.empty_like(left)
        result[0] = (fastest * stream_left - slowest * stream_right + product * (right[0] - left[0])) / span
        push_left = stream_left * left[1] + 0.5 * GRAVITY * left[0] ** 2
        push_right = stream_right * right[1] + 0.5 * GRAVITY * right[0] ** 2
        result[1] = (fastest * push_left - slowest * push_right + product * (stream_right - stream_left)) / span
        result[2:] = result[0] * np.where(result[0] >= 0, left[2:], right[2:])
        return result


def evolve(
    initial: Array, cell: float, interval: float, num_frames: int, top_speed: float, boundary: Boundary = "outflow"
) -> Array:
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
                conserved = sweep_axis(conserved, ratio, water, boundary, direction)
            order = order[::-1]
        frames[:, frame] = conserved[0]
    return frames


def cylinder(radius: float, x: Array) -> Array:
    """Return initial depth and momenta [3, X, X]: water at rest, deeper within ``radius`` of the origin."""
    deep = x[:, None] ** 2 + x[None, :] ** 2 <= radius**2
    depth = np.where(deep, INNER_DEPTH, OUTER_DEPTH)
    return np.stack([depth, np.zeros_like(depth), np.zeros_like(depth)])


def _solve(rngs: Sequence[np.random.Generator]) -> Fields:
    x = centres(LOW, HIGH, NUM_CELLS)
    initial = np.stack([cylinder(rng.uniform(*RADII), x) for rng in rngs], axis=1)
    top_speed = 2 * math.sqrt(GRAVITY * INNER_DEPTH)
    depths = evolve(initial, (HIGH - LOW) / NUM_CELLS, END / (NUM_FRAMES - 1), NUM_FRAMES, top_speed)
    return {"data": depths[..., None].astype(np.float32)}


_PARAMETERS = {
    "T_end": END, "n_time_steps": NUM_FRAMES - 1, "xdim": NUM_CELLS, "ydim": NUM_CELLS, "gravity": GRAVITY,
    "inner_height": INNER_DEPTH, "x_left": LOW, "x_right": HIGH, "y_bottom": LOW, "y_top": HIGH,
}  # fmt: skip
SIMULATION = Simulation(
    name="pdebench/shallow_water",
    equation="shallow water, g = 1, flat bed, on [-2.5, 2.5]^2, open to all sides, to t = 1; at rest, depth 2 within a "
    "radius uniform in [0.3, 0.7] and depth 1 without",
    numerics="finite volumes on 128 x 128 cells, MUSCL-Hancock sweeps with van Leer's slopes and HLL fluxes, Strang "
    "splitting, one step of 0.01 a frame; depth is written",
    layout=group_layout(1, "xy", LOW, HIGH, NUM_CELLS, END, NUM_FRAMES, parameters=_PARAMETERS, compression=None),
    batch=1,
    solve=_solve,
)
