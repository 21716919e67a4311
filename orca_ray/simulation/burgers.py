"""Burgers' equation in one dimension: u_t + (u^2 / 2)_x = (nu / pi) u_xx with nu = 1, periodic.

PDEBench divides nu by pi: the diffusion coefficient of its ``Nu1.0`` set is 0.318.
"""

from collections.abc import Sequence

import numpy as np

from orca_ray.simulation.files import TensorLayout
from orca_ray.simulation.simulation import Array, Fields, Simulation, centres, tensor_coordinates
from orca_ray.simulation.stiff import evolve_spectral
from orca_ray.simulation.waves import sample_waves

NU = 1.0
END = 2.0
NUM_FRAMES = 201
NUM_POINTS = 1024
STEPS_PER_FRAME = 10


def evolve(initial: Array, diffusion: float, interval: float, num_frames: int, steps: int = STEPS_PER_FRAME) -> Array:
    """Solve with the factor ``diffusion`` of u_xx; for other arguments and the result, see `evolve_spectral`."""
    return evolve_spectral(
        initial, lambda k: -diffusion * k**2, lambda k: -0.5j * k, interval=interval, num_frames=num_frames, steps=steps
    )


def _solve(rngs: Sequence[np.random.Generator]) -> Fields:
    x = centres(0.0, 1.0, NUM_POINTS)
    initial = np.stack([sample_waves(rng)(x) for rng in rngs])
    return {"tensor": evolve(initial, NU / np.pi, END / (NUM_FRAMES - 1), NUM_FRAMES).astype(np.float32)}


SIMULATION = Simulation(
    name="pdebench/burgers",
    equation="u_t + (u^2 / 2)_x = (1 / pi) u_xx on [0, 1), periodic, to t = 2",
    numerics=f"Fourier pseudo-spectral on 1024 points, two thirds dealiased, ETDRK4, {STEPS_PER_FRAME} steps of "
    f"{END / (NUM_FRAMES - 1) / STEPS_PER_FRAME:g} a frame",
    layout=TensorLayout(
        datasets={"tensor": (NUM_FRAMES, NUM_POINTS)},
        coordinates=lambda: tensor_coordinates("x", 0.0, 1.0, NUM_POINTS, END, NUM_FRAMES),
        attributes={"Nu": NU},
    ),
    batch=8,
    solve=_solve,
)
