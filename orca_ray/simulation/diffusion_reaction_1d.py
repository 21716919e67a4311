"""Diffusion and logistic growth in one dimension: u_t = nu u_xx + rho u (1 - u), periodic, nu = 0.5, rho = 1."""

from collections.abc import Sequence

import numpy as np

from orca_ray.simulation.files import TensorLayout
from orca_ray.simulation.simulation import Array, Fields, Simulation, centres, tensor_coordinates
from orca_ray.simulation.stiff import evolve_spectral
from orca_ray.simulation.waves import sample_waves, to_unit_range

NU = 0.5
RHO = 1.0
END = 1.0
NUM_FRAMES = 101
NUM_POINTS = 1024
STEPS_PER_FRAME = 5


def evolve(
    initial: Array, nu: float, rho: float, interval: float, num_frames: int, steps: int = STEPS_PER_FRAME
) -> Array:
    """Solve with diffusion coefficient ``nu`` and growth rate ``rho``; for the rest, see `evolve_spectral`."""
    return evolve_spectral(
        initial, lambda k: rho - nu * k**2, lambda k: -rho, interval=interval, num_frames=num_frames, steps=steps
    )


def _solve(rngs: Sequence[np.random.Generator]) -> Fields:
    x = centres(0.0, 1.0, NUM_POINTS)
    initial = np.stack([to_unit_range(sample_waves(rng)(x)) for rng in rngs])
    return {"tensor": evolve(initial, NU, RHO, END / (NUM_FRAMES - 1), NUM_FRAMES).astype(np.float32)}


SIMULATION = Simulation(
    name="pdebench/diffusion_reaction_1d",
    equation="u_t = 0.5 u_xx + u (1 - u) on [0, 1), periodic, to t = 1; initial fields scaled to [0, 1]",
    numerics=f"Fourier pseudo-spectral on 1024 points, two thirds dealiased, ETDRK4, {STEPS_PER_FRAME} steps a frame",
    layout=TensorLayout(
        datasets={"tensor": (NUM_FRAMES, NUM_POINTS)},
        coordinates=lambda: tensor_coordinates("x", 0.0, 1.0, NUM_POINTS, END, NUM_FRAMES),
        attributes={"Nu": NU, "rho": RHO},
    ),
    batch=8,
    solve=_solve,
)
