"""Compressible Navier-Stokes equations of an ideal gas in two dimensions, periodic,
initial Mach number 1.

rho_t + div(rho v) = 0, (rho v)_t + div(rho v v) + grad p = div sigma, E_t + div(v (E +
p)) = div(v sigma): density rho, velocity v, pressure p, energy E, stress sigma = eta
(grad v + grad v^T - 2/3 div v) + zeta div v, eta = zeta = 0.1. eta and zeta are
constant, as in PDEBench's paper; its generator multiplies them by rho and omits mixed
derivatives.
"""

import math
from collections.abc import Sequence

import numpy as np

from orca_ray.simulation import Array
from orca_ray.simulation.hyperbolic import sweep_axis
from orca_ray_pdebench.gas import GAMMA, Gas, Stress
from orca_ray_pdebench.simulation import Fields, Grid, described

ETA = ZETA = 0.1
MACH = 1.0
GRID = Grid(low=0.0, high=1.0, num_cells=128, end=1.0, num_frames=21)
COURANT = 0.8
RANGE = (0.1, 10.0)
"""Range of the random mean density, and of the random mean temperature."""
CONTRAST = (0.01, 0.2)
"""Range of the random mean absolute deviation of density and of pressure, relative to
their means.
"""
_TOP_WAVE = 4
_WINDOW_WIDTH = 0.01
_LEAST = 0.05


def evolve(initial: Array, cell: float, interval: float, num_frames: int) -> Array:
    """Solve the equations from ``initial`` [4, X, Y] (density, two velocities,
    pressure) on cells with sides ``cell``.

    Returns frames [4, num_frames, X, Y] at time intervals of ``interval``, ``initial``
    first. A time step is half a step without viscosity along x, then along y, a viscous
    step, and half a step along y, then along x (Strang splitting).
    """
    gas = Gas()
    stress = Stress(ETA, ZETA, cell)
    frames = np.empty((4, num_frames, *initial.shape[1:]))
    frames[:, 0] = initial
    conserved = gas.conserved(initial)
    for frame in range(1, num_frames):
        left = interval
        while left > 0:
            fastest = max(
                float(gas.speed(conserved, direction).max()) for direction in (0, 1)
            )
            count = math.ceil(left * fastest / (2 * COURANT * cell))
            dt = left / count
            for direction in (0, 1):
                conserved = sweep_axis(
                    conserved, 0.5 * dt / cell, gas, "periodic", direction
                )
            conserved[1:] = stress.step(conserved[0], conserved[1:], dt)
            for direction in (1, 0):
                conserved = sweep_axis(
                    conserved, 0.5 * dt / cell, gas, "periodic", direction
                )
            left = left - dt if count > 1 else 0.0
        frames[:, frame] = gas.primitive(conserved)
    return frames


def sample_initial(rng: np.random.Generator, x: Array) -> Array:
    """Sample random initial density, two velocities and pressure [4, X, X] on the grid
    ``x`` times ``x``.

    The fields are sums of sine waves over all pairs of wave numbers of magnitude 1 to
    4, with random phases. Velocities are scaled to the mean Mach number 1, density and
    pressure to a random mean deviation (`CONTRAST`), then clamped to at least 5 % of
    their mean. Half of the samples are uniform and at rest outside a random rectangle,
    as in PDEBench.
    """
    density, temperature = rng.uniform(*RANGE, size=2)
    pressure = density * temperature
    waves = _random_fields(rng, x)
    waves[1:3] *= (
        MACH
        * math.sqrt(GAMMA * temperature)
        / np.sqrt((waves[1:3] ** 2).sum(axis=0)).mean()
    )
    for field, mean in ((0, density), (3, pressure)):
        contrast = rng.uniform(*CONTRAST) / np.abs(waves[field]).mean()
        waves[field] = mean * np.maximum(1 + contrast * waves[field], _LEAST)
    if rng.uniform() < 0.5:
        inside = _edge(rng, x)[:, None] * _edge(rng, x)[None, :]
        outside = np.array([density, 0.0, 0.0, pressure])[:, None, None]
        waves = outside + inside * (waves - outside)
    return waves


def _random_fields(rng: np.random.Generator, x: Array) -> Array:
    numbers = np.array(
        [number for number in range(-_TOP_WAVE, _TOP_WAVE + 1) if number]
    )
    along, across = (
        axis.ravel() for axis in np.meshgrid(numbers, numbers, indexing="ij")
    )
    heights = (along**2 + across**2) ** -0.25
    coefficients = heights * np.exp(
        1j * rng.uniform(0, 2 * np.pi, size=(4, heights.size))
    )
    row, column = (np.exp(2j * np.pi * np.outer(wave, x)) for wave in (along, across))
    fields: Array = np.einsum(
        "fk,kx,ky->fxy", coefficients, row, column, optimize=True
    ).imag
    return fields


def _edge(rng: np.random.Generator, x: Array) -> Array:
    left = rng.uniform(0.1, 0.45)
    right = rng.uniform(0.55, 0.9)
    return 0.5 * (
        np.tanh((x - left) / _WINDOW_WIDTH) - np.tanh((x - right) / _WINDOW_WIDTH)
    )


def _solve(rngs: Sequence[np.random.Generator]) -> Fields:
    initial = (sample_initial(rng, GRID.x) for rng in rngs)
    frames = [
        evolve(each, GRID.cell, GRID.interval, GRID.num_frames) for each in initial
    ]
    fields = np.stack(frames, axis=1).astype(np.float32)
    return dict(zip(("density", "Vx", "Vy", "pressure"), fields, strict=True))


_LAYOUT = GRID.tensors(
    ("density", "pressure", "Vx", "Vy"), "xy", eta=ETA, zeta=ZETA, M=MACH
)
SIMULATION = described("cfd_2d", _LAYOUT, _solve)
