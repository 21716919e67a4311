"""Compressible Navier-Stokes equations in two dimensions: an ideal gas, Mach number 1, eta = zeta = 0.1, periodic.

rho_t + div(rho v) = 0, (rho v)_t + div(rho v v) + grad p = div sigma, E_t + div(v (E + p)) = div(v sigma) with
sigma = eta (grad v + grad v^T - 2/3 div v) + zeta div v. The viscosity is dynamic and constant with the whole stress,
as in the paper; PDEBench's generator multiplies it by the density and omits the mixed derivatives.
"""

import math
from collections.abc import Sequence

import numpy as np

from orca_ray.simulation.gas import GAMMA, Gas, Stress
from orca_ray.simulation.hyperbolic import Boundary, sweep_axis
from orca_ray.simulation.simulation import Array, Fields, Simulation, centres, tensor_layout

ETA = ZETA = 0.1
MACH = 1.0
END = 1.0
NUM_FRAMES = 21
NUM_CELLS = 128
COURANT = 0.8
RANGE = (0.1, 10.0)
"""Range of the mean density and of the mean temperature."""
CONTRAST = (0.01, 0.2)
"""Range of the mean deviation of density and of pressure, relative to their means."""
_TOP_WAVE = 4
_WINDOW_WIDTH = 0.01
_LEAST = 0.05
_FIELDS = ("density", "Vx", "Vy", "pressure")


def evolve(
    initial: Array, eta: float, zeta: float, cell: float, interval: float, num_frames: int,
    boundary: Boundary = "periodic",
) -> Array:  # fmt: skip
    """Solve from density, velocities and pressure, ``initial`` [4, X, Y], on cells with sides of ``cell``.

    Returns frames [4, num_frames, X, Y], a time of ``interval`` apart, ``initial`` first. ``eta`` is the shear and
    ``zeta`` the bulk viscosity, both 0 with an outflow boundary. A step is x, y, stress, y, x (Strang 1968).
    """
    gas, stress = Gas(), Stress(eta, zeta, cell)
    frames = np.empty((4, num_frames, *initial.shape[1:]))
    frames[:, 0] = initial
    conserved = gas.conserved(initial)
    for frame in range(1, num_frames):
        left = interval
        while left > 0:
            fastest = max(float(gas.speed(conserved, direction).max()) for direction in (0, 1))
            count = math.ceil(left * fastest / (2 * COURANT * cell))
            dt = left / count
            for direction in (0, 1):
                conserved = sweep_axis(conserved, 0.5 * dt / cell, gas, boundary, direction)
            if eta or zeta:
                conserved[1:] = stress.step(conserved[0], conserved[1:], dt)
            for direction in (1, 0):
                conserved = sweep_axis(conserved, 0.5 * dt / cell, gas, boundary, direction)
            left = left - dt if count > 1 else 0.0
        frames[:, frame] = gas.primitive(conserved)
    return frames


def sample_initial(rng: np.random.Generator, x: Array) -> Array:
    """Sample density, velocities and pressure [4, X, X] as PDEBench describes them (windows as in `sample_waves`).

    Sums of sine waves over all pairs of wave numbers from 1 to 4 with random phases, velocities scaled to the mean Mach
    number, density and pressure to a random mean deviation and clipped to at least a twentieth of their mean. Half of
    the samples are uniform and at rest outside a window.
    """
    density, temperature = rng.uniform(*RANGE, size=2)
    pressure = density * temperature
    waves = _random_fields(rng, x)
    waves[1:3] *= MACH * math.sqrt(GAMMA * temperature) / np.sqrt((waves[1:3] ** 2).sum(axis=0)).mean()
    for field, mean in ((0, density), (3, pressure)):
        contrast = rng.uniform(*CONTRAST) / np.abs(waves[field]).mean()
        waves[field] = mean * np.maximum(1 + contrast * waves[field], _LEAST)
    if rng.uniform() < 0.5:
        inside = _edge(rng, x)[:, None] * _edge(rng, x)[None, :]
        outside = np.array([density, 0.0, 0.0, pressure])[:, None, None]
        waves = outside + inside * (waves - outside)
    return waves


def _random_fields(rng: np.random.Generator, x: Array) -> Array:
    numbers = np.array([number for number in range(-_TOP_WAVE, _TOP_WAVE + 1) if number])
    along, across = (axis.ravel() for axis in np.meshgrid(numbers, numbers, indexing="ij"))
    heights = (along**2 + across**2) ** -0.25
    coefficients = heights * np.exp(1j * rng.uniform(0, 2 * np.pi, size=(4, heights.size)))
    row, column = (np.exp(2j * np.pi * np.outer(wave, x)) for wave in (along, across))
    fields: Array = np.einsum("fk,kx,ky->fxy", coefficients, row, column, optimize=True).imag
    return fields


def _edge(rng: np.random.Generator, x: Array) -> Array:
    left, right = rng.uniform(0.1, 0.45), rng.uniform(0.55, 0.9)
    return 0.5 * (np.tanh((x - left) / _WINDOW_WIDTH) - np.tanh((x - right) / _WINDOW_WIDTH))


def _solve(rngs: Sequence[np.random.Generator]) -> Fields:
    x = centres(0.0, 1.0, NUM_CELLS)
    interval = END / (NUM_FRAMES - 1)
    initial = [sample_initial(rng, x) for rng in rngs]
    frames = np.stack([evolve(each, ETA, ZETA, 1 / NUM_CELLS, interval, NUM_FRAMES) for each in initial], axis=1)
    return dict(zip(_FIELDS, frames.astype(np.float32), strict=True))


SIMULATION = Simulation(
    name="pdebench/cfd_2d",
    equation="compressible Navier-Stokes, ideal gas with gamma = 5/3, eta = zeta = 0.1, initial Mach number 1, on "
    "[0, 1)^2, periodic, to t = 1",
    numerics="finite volumes on 128 x 128 cells, MUSCL-Hancock sweeps with van Leer's slopes and HLLC fluxes, stress "
    f"by Runge-Kutta-Legendre of second order, Strang splitting, Courant number {COURANT}",
    layout=tensor_layout(
        ("density", "pressure", "Vx", "Vy"), "xy", 0.0, 1.0, NUM_CELLS, END, NUM_FRAMES, eta=ETA, zeta=ZETA, M=MACH
    ),
    batch=1,
    solve=_solve,
)
