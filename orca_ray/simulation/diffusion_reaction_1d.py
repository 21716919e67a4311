"""Diffusion and logistic growth in one dimension: u_t = nu u_xx + rho u (1 - u), periodic, nu = 0.5, rho = 1."""

from collections.abc import Sequence

import numpy as np

from orca_ray.simulation.advection import line_coordinates
from orca_ray.simulation.exponential import Etdrk4, Modes
from orca_ray.simulation.files import TensorLayout
from orca_ray.simulation.simulation import Array, Fields, Simulation, centres
from orca_ray.simulation.waves import draw_waves, to_unit_range

NU = 0.5
RHO = 1.0
END = 1.0
NUM_FRAMES = 101
NUM_POINTS = 1024
STEPS_PER_FRAME = 5


def evolve(
    initial: Array, nu: float, rho: float, interval: float, num_frames: int, steps: int = STEPS_PER_FRAME
) -> Array:
    """Solve from ``initial`` [B, X] on a period of 1 and return the frames [B, num_frames, X], the first of them it.

    Args:
        initial: u at equally spaced points, X even.
        nu: diffusion coefficient.
        rho: growth rate.
        interval: time between frames.
        num_frames: the initial one counted.
        steps: time steps a frame.
    """
    num_points = initial.shape[-1]
    k = 2 * np.pi * np.arange(num_points // 2 + 1)
    stepper = Etdrk4(rho - nu * k**2, interval / steps)
    growth = np.where(np.arange(len(k)) <= num_points // 3, -rho, 0.0)

    def nonlinear(modes: Modes) -> Modes:
        return growth * np.fft.rfft(np.fft.irfft(modes, num_points) ** 2)

    frames = np.empty((len(initial), num_frames, num_points))
    frames[:, 0] = initial
    modes: Modes = np.fft.rfft(initial)
    for frame in range(1, num_frames):
        for _ in range(steps):
            modes = stepper.step(modes, nonlinear)
        frames[:, frame] = np.fft.irfft(modes, num_points)
    return frames


def _solve(rngs: Sequence[np.random.Generator]) -> Fields:
    x = centres(0.0, 1.0, NUM_POINTS)
    initial = np.stack([to_unit_range(draw_waves(rng)(x)) for rng in rngs])
    return {"tensor": evolve(initial, NU, RHO, END / (NUM_FRAMES - 1), NUM_FRAMES).astype(np.float32)}


SIMULATION = Simulation(
    name="pdebench/diffusion_reaction_1d",
    equation="u_t = 0.5 u_xx + u (1 - u) on [0, 1), periodic, to t = 1; initial fields scaled to [0, 1]",
    numerics=f"Fourier pseudo-spectral on 1024 points, two thirds dealiased, ETDRK4, {STEPS_PER_FRAME} steps a frame",
    layout=TensorLayout(
        datasets={"tensor": (NUM_FRAMES, NUM_POINTS)},
        coordinates=lambda: line_coordinates(0.0, 1.0, NUM_POINTS, END, NUM_FRAMES),
        attributes={"Nu": NU, "rho": RHO},
    ),
    batch=8,
    solve=_solve,
)
