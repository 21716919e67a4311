"""Compressible Navier-Stokes equations of an ideal gas in two dimensions, periodic, initial Mach number 1.

rho_t + div(rho v) = 0, (rho v)_t + div(rho v v) + grad p = div sigma, E_t + div(v (E + p)) = div(v sigma) on [0, 1)^2
to t = 1, with density rho, velocity v, pressure p, energy E = p / (gamma - 1) + rho v^2 / 2, gamma = 5/3, and stress
sigma = eta (grad v + grad v^T - 2/3 div v) + zeta div v, eta = zeta = 0.1. The viscosities eta and zeta are constant,
as in the PDEBench paper; PDEBench's own generator multiplies them by the density and omits mixed derivatives of sigma.
"""

import math
from collections.abc import Sequence

import numpy as np

from orca_ray.simulation.files import TensorLayout
from orca_ray.simulation.gas import GAMMA, Gas, Stress
from orca_ray.simulation.hyperbolic import Boundary, sweep_axis
from orca_ray.simulation.simulation import Array, Fields, Simulation, centres, tensor_coordinates

ETA = ZETA = 0.1
MACH = 1.0
END = 1.0
NUM_FRAMES = 21
NUM_CELLS = 128
COURANT = 0.8
RANGE = (0.1, 10.0)
"""Range of the random mean density, and of the random mean temperature."""
CONTRAST = (0.01, 0.2)
"""Range of the random mean absolute deviation of density and of pressure, relative to their means."""

_TOP_WAVE = 4
_WINDOW_WIDTH = 0.01
_LEAST = 0.05
_FIELDS = ("density", "Vx", "Vy", "pressure")


def evolve(
    initial: Array, eta: float, zeta: float, cell: float, interval: float, num_frames: int,
    boundary: Boundary = "periodic",
) -> Array:  # fmt: skip
    """Solve the equations from ``initial`` [4, X, Y]: density, two velocities and pressure on square cells.

    Returns the fields at ``num_frames`` times, [4, num_frames, X, Y]: first ``initial``, then one frame per time
    ``interval``. ``cell`` is the side of a cell, ``eta`` the shear and ``zeta`` the bulk viscosity; both must be 0 with
    the boundary "outflow". Each time step is half a step without viscosity along x, then y, a viscous step, and half a
    step without viscosity along y, then x (Strang splitting, second order in time).
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
                conserved = sweep_axis(conserved, 0.5 * dt / cell, gas, boundary, direction, 2)
            if eta or zeta:
                conserved[1:] = stress.step(conserved[0], conserved[1:], dt)
            for direction in (1, 0):
                conserved = sweep_axis(conserved, 0.5 * dt / cell, gas, boundary, direction, 2)
            left = left - dt if count > 1 else 0.0
        frames[:, frame] = gas.primitive(conserved)
    return frames


def sample_initial(rng: np.random.Generator, x: Array) -> Array:
    """Sample random initial density, two velocities and pressure [4, X, X] on the grid ``x`` times ``x``.

    As PDEBench describes them, the fields are sums of sine waves with random phases, over all pairs of wave numbers of
    magnitude 1 to 4. Velocities are scaled so that their mean magnitude is the Mach number times the speed of sound.
    Density and pressure are scaled to a random mean deviation (`CONTRAST`) and clipped to at least 5 % of their mean.
    With probability 1/2, the fields are uniform and at rest outside a random rectangle (see also `sample_waves`).
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
    layout=TensorLayout(
        datasets=dict.fromkeys(("density", "pressure", "Vx", "Vy"), (NUM_FRAMES, NUM_CELLS, NUM_CELLS)),
        coordinates=lambda: tensor_coordinates("xy", 0.0, 1.0, NUM_CELLS, END, NUM_FRAMES),
        attributes={"eta": ETA, "zeta": ZETA, "M": MACH},
    ),
    batch=1,
    solve=_solve,
)
