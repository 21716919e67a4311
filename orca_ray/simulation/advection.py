"""Advection in one dimension: u_t + 0.4 u_x = 0, periodic. The solution is the initial field, moved."""

from collections.abc import Sequence

import numpy as np

from orca_ray.simulation.files import TensorLayout
from orca_ray.simulation.simulation import Array, Fields, Simulation, centres, frame_times
from orca_ray.simulation.waves import Waves, draw_waves

BETA = 0.4
END = 2.0
NUM_FRAMES = 201
NUM_POINTS = 1024


def solution(initial: Waves, x: Array, times: Array) -> Array:
    """Return u at ``times`` [T] and ``x`` [X], exactly: [T, X]."""
    return initial(x[None, :] - BETA * times[:, None])


def _solve(rngs: Sequence[np.random.Generator]) -> Fields:
    x, times = centres(0.0, 1.0, NUM_POINTS), frame_times(END, NUM_FRAMES)
    return {"tensor": np.stack([solution(draw_waves(rng), x, times).astype(np.float32) for rng in rngs])}


def line_coordinates(low: float, high: float, num_points: int, end: float, num_frames: int) -> dict[str, Array]:
    """Return the coordinate datasets of a file in one dimension.

    The times of PDEBench's single-file sets have one entry more than there are frames.
    """
    one_more = frame_times(end * num_frames / (num_frames - 1), num_frames + 1)
    return {"x-coordinate": centres(low, high, num_points), "t-coordinate": one_more}


SIMULATION = Simulation(
    name="pdebench/advection",
    equation="u_t + 0.4 u_x = 0 on [0, 1), periodic, to t = 2",
    numerics="exact: the initial field evaluated at x - 0.4 t, at the centres of 1024 cells",
    layout=TensorLayout(
        datasets={"tensor": (NUM_FRAMES, NUM_POINTS)},
        coordinates=lambda: line_coordinates(0.0, 1.0, NUM_POINTS, END, NUM_FRAMES),
        attributes={"beta": BETA},
    ),
    batch=16,
    solve=_solve,
)
