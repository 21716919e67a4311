"""Compressible Navier-Stokes equations of an ideal gas in 2D, periodic, Mach 1.

rho_t + div(rho v) = 0, (rho v)_t + div(rho v v) + grad p = div sigma, E_t + div(v (E +
p)) = div(v sigma): density rho, velocity v, pressure p, energy E, stress sigma = eta
(grad v + grad v^T - 2/3 div v) + zeta div v, eta = zeta = 0.1. The initial Mach number
is 1. eta and zeta are constant, as in PDEBench's paper; its generator multiplies them
by rho and omits mixed derivatives.
"""

import math
from collections.abc import Sequence

import numpy as np

from orca_ray.simulation import Array
from orca_ray.simulation.hyperbolic import sweep_axis
from orca_ray.simulation.pdebench.gas import GAMMA, Gas, Stress
from orca_ray.simulation.pdebench.simulation import Fields, Grid, make_simulation

ETA = 0.1
"""Shear viscosity."""
ZETA = 0.1
"""Bulk viscosity."""
MACH = 1.0
"""Mean initial Mach number."""
GRID = Grid(low=0.0, high=1.0, num_cells=128, end=1.0, num_frames=21)
COURANT = 0.8
"""Courant number of a half step without viscosity."""
RANGE = (0.1, 10.0)
"""Range of the random mean density, and of the random mean temperature."""
CONTRAST = (0.01, 0.2)
"""Range of the mean absolute deviation of density and pressure, over their means."""
_TOP_WAVE = 4
"""Largest wave number along an axis."""
_WINDOW_WIDTH = 0.01
"""Width of the smooth edge of the random rectangle."""
_LEAST = 0.05
"""Smallest density and pressure, over their means."""


def evolve(initial: Array, cell: float, interval: float, num_frames: int) -> Array:
    """Solve the equations on cells with sides ``cell``.

    ``initial`` [4, X, Y] is (density, two velocities, pressure). Returns frames [4,
    num_frames, X, Y] at time intervals of ``interval``, ``initial`` first. A time step
    is half a step without viscosity along x, then along y, a viscous step, and half a
    step along y, then along x (Strang splitting).
    """
    gas = Gas()
    stress = Stress(ETA, ZETA, cell)
    frames = np.empty((4, num_frames, *initial.shape[1:]))
    frames[:, 0] = initial
    conserved = gas.conserved(initial)
    for frame in range(1, num_frames):
        time_left = interval
        while time_left > 0:
            fastest = max(float(gas.speed(conserved, axis).max()) for axis in (0, 1))
            num_steps = math.ceil(time_left * fastest / (2 * COURANT * cell))
            dt = time_left / num_steps
            half = 0.5 * dt / cell
            for axis in (0, 1):
                conserved = sweep_axis(conserved, half, gas, "periodic", axis)
            conserved[1:] = stress.step(conserved[0], conserved[1:], dt)
            for axis in (1, 0):
                conserved = sweep_axis(conserved, half, gas, "periodic", axis)
            time_left = time_left - dt if num_steps > 1 else 0.0
        frames[:, frame] = gas.primitive(conserved)
    return frames


def sample_initial(rng: np.random.Generator, x: Array) -> Array:
    """Sample random initial fields [4, X, X] on the grid ``x`` times ``x``.

    The fields are density, two velocities and pressure, sums of sine waves over all
    pairs of wave numbers of magnitude 1 to 4, with random phases. Velocities are scaled
    to the mean Mach number 1, density and pressure to a random mean deviation
    (`CONTRAST`), then clamped to at least 5 % of their mean. Half of the samples are
    uniform and at rest outside a random rectangle, as in PDEBench.
    """
    density, temperature = rng.uniform(*RANGE, size=2)
    pressure = density * temperature
    fields = _random_fields(rng, x)
    mean_speed = np.sqrt((fields[1:3] ** 2).sum(axis=0)).mean()
    fields[1:3] *= MACH * math.sqrt(GAMMA * temperature) / mean_speed
    for field, mean in ((0, density), (3, pressure)):
        contrast = rng.uniform(*CONTRAST) / np.abs(fields[field]).mean()
        fields[field] = mean * np.maximum(1 + contrast * fields[field], _LEAST)
    if rng.uniform() < 0.5:
        inside = _edge(rng, x)[:, None] * _edge(rng, x)[None, :]
        outside = np.array([density, 0.0, 0.0, pressure])[:, None, None]
        fields = outside + inside * (fields - outside)
    return fields


def _random_fields(rng: np.random.Generator, x: Array) -> Array:
    """Sample four random fields [4, X, X], each a sum of sine waves."""
    numbers = np.delete(np.arange(-_TOP_WAVE, _TOP_WAVE + 1), _TOP_WAVE)  # without 0
    grids = np.meshgrid(numbers, numbers, indexing="ij")
    along = grids[0].ravel()
    across = grids[1].ravel()
    heights = (along**2 + across**2) ** -0.25
    phases = rng.uniform(0, 2 * np.pi, size=(4, heights.size))
    coefficients = heights * np.exp(1j * phases)
    row = np.exp(2j * np.pi * np.outer(along, x))
    column = np.exp(2j * np.pi * np.outer(across, x))
    fields: Array = np.einsum(
        "fk,kx,ky->fxy", coefficients, row, column, optimize=True
    ).imag
    return fields


def _edge(rng: np.random.Generator, x: Array) -> Array:
    """Sample a window [X] that is 1 in the middle of ``x`` and 0 elsewhere."""
    left = rng.uniform(0.1, 0.45)
    right = rng.uniform(0.55, 0.9)
    rise = np.tanh((x - left) / _WINDOW_WIDTH)
    fall = np.tanh((x - right) / _WINDOW_WIDTH)
    return 0.5 * (rise - fall)


def _solve(rngs: Sequence[np.random.Generator]) -> Fields:
    """Solve the equations from random initial fields, one for each generator."""
    frames = []
    for rng in rngs:
        initial = sample_initial(rng, GRID.x)
        frames.append(evolve(initial, GRID.cell, GRID.interval, GRID.num_frames))
    fields = np.stack(frames, axis=1).astype(np.float32)
    return dict(zip(("density", "Vx", "Vy", "pressure"), fields, strict=True))


_LAYOUT = GRID.tensor_layout(
    ("density", "pressure", "Vx", "Vy"), "xy", eta=ETA, zeta=ZETA, M=MACH
)
SIMULATION = make_simulation("cfd_2d", _LAYOUT, _solve)
