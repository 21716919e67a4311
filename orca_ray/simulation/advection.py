"""Advection in one dimension: u_t + 0.4 u_x = 0, periodic. The exact solution is the shifted initial field."""

from collections.abc import Sequence

import numpy as np

from orca_ray.simulation.files import TensorLayout
from orca_ray.simulation.simulation import Array, Fields, Simulation, centres, frame_times, tensor_coordinates
from orca_ray.simulation.waves import Waves, sample_waves

BETA = 0.4
END = 2.0
NUM_FRAMES = 201
NUM_POINTS = 1024


def solution(initial: Waves, x: Array, times: Array) -> Array:
    """Return the exact solution u [T, X] at ``times`` [T] and positions ``x`` [X]; ``initial`` is u at time 0."""
    return initial(x[None, :] - BETA * times[:, None])


def _solve(rngs: Sequence[np.random.Generator]) -> Fields:
    x, times = centres(0.0, 1.0, NUM_POINTS), frame_times(END, NUM_FRAMES)
    return {"tensor": np.stack([solution(sample_waves(rng), x, times).astype(np.float32) for rng in rngs])}


SIMULATION = Simulation(
    name="pdebench/advection",
    equation="u_t + 0.4 u_x = 0 on [0, 1), periodic, to t = 2",
    numerics="exact: the initial field evaluated at x - 0.4 t, at the centres of 1024 cells",
    layout=TensorLayout(
        datasets={"tensor": (NUM_FRAMES, NUM_POINTS)},
        coordinates=lambda: tensor_coordinates("x", 0.0, 1.0, NUM_POINTS, END, NUM_FRAMES),
        attributes={"beta": BETA},
    ),
    batch=16,
    solve=_solve,
)
