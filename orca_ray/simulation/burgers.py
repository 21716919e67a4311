"""Burgers' equation in one dimension: u_t + (u^2 / 2)_x = (nu / pi) u_xx with nu = 1, periodic.

PDEBench divides its nu by pi, so the ``Nu1.0`` set has the diffusion coefficient 0.318.
"""

from collections.abc import Sequence

import numpy as np

from orca_ray.simulation.advection import line_coordinates
from orca_ray.simulation.exponential import Etdrk4, Modes
from orca_ray.simulation.files import TensorLayout
from orca_ray.simulation.simulation import Array, Fields, Simulation, centres
from orca_ray.simulation.waves import draw_waves

NU = 1.0
END = 2.0
NUM_FRAMES = 201
NUM_POINTS = 1024
STEPS_PER_FRAME = 10


def evolve(initial: Array, diffusion: float, interval: float, num_frames: int, steps: int = STEPS_PER_FRAME) -> Array:
    """Solve from ``initial`` [B, X] on a period of 1 and return the frames [B, num_frames, X], the first of them it.

    Args:
        initial: u at equally spaced points, X even.
        diffusion: coefficient of u_xx.
        interval: time between frames.
        num_frames: the initial one counted.
        steps: time steps a frame.
    """
    num_points = initial.shape[-1]
    k = 2 * np.pi * np.arange(num_points // 2 + 1)
    stepper = Etdrk4(-diffusion * k**2, interval / steps)
    # Modes above two thirds would alias back when u is squared (Orszag 1971).
    gradient = np.where(np.arange(len(k)) <= num_points // 3, -0.5j * k, 0.0)

    def nonlinear(modes: Modes) -> Modes:
        return gradient * np.fft.rfft(np.fft.irfft(modes, num_points) ** 2)

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
    initial = np.stack([draw_waves(rng)(x) for rng in rngs])
    return {"tensor": evolve(initial, NU / np.pi, END / (NUM_FRAMES - 1), NUM_FRAMES).astype(np.float32)}


SIMULATION = Simulation(
    name="pdebench/burgers",
    equation="u_t + (u^2 / 2)_x = (1 / pi) u_xx on [0, 1), periodic, to t = 2",
    numerics=f"Fourier pseudo-spectral on 1024 points, two thirds dealiased, ETDRK4, {STEPS_PER_FRAME} steps of "
    f"{END / (NUM_FRAMES - 1) / STEPS_PER_FRAME:g} a frame",
    layout=TensorLayout(
        datasets={"tensor": (NUM_FRAMES, NUM_POINTS)},
        coordinates=lambda: line_coordinates(0.0, 1.0, NUM_POINTS, END, NUM_FRAMES),
        attributes={"Nu": NU},
    ),
    batch=8,
    solve=_solve,
)
