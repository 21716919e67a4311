"""Compressible Navier-Stokes equations of an ideal gas in 1D, periodic, for density rho, velocity v, pressure p:

rho_t + (rho v)_x = 0, (rho v)_t + (rho v^2 + p)_x = mu v_xx, E_t + (v (E + p))_x = mu (v v_x)_x; E is the total energy,
mu = 4/3 eta + zeta, eta = zeta = 0.1. mu is constant, as in PDEBench's paper; its generator multiplies mu by rho.
"""

import math
from collections.abc import Sequence

import numpy as np

from orca_ray.simulation.hyperbolic import Boundary, Gas, sweep
from orca_ray.simulation.periodic import sample_waves, to_unit_range
from orca_ray.simulation.simulation import Array, Fields, Simulation, centres, tensor_layout
from orca_ray.simulation.stiff import Periodic

ETA = ZETA = 0.1
LOW, HIGH = -1.0, 1.0
END = 1.0
NUM_FRAMES = 101
NUM_CELLS = 1024
COURANT = 0.8
DENSITY_RANGE = (1.0, 10.0)
PRESSURE_RANGE = (10.0, 100.0)
_GAMMA = 1 - math.sqrt(0.5)


def viscous_step(conserved: Array, dt: Array, mu: float, cell: float) -> Array:
    """Return the conserved fields [3, B, N] after a time step ``dt`` [B, 1] of the viscous terms, periodic.

    An L-stable, diagonally implicit, conservative Runge-Kutta method of second order (Alexander 1977).
    """
    density, momentum = conserved[:2]
    rate = mu / cell**2

    def curvature(values: Array) -> Array:
        return np.diff(np.concatenate([values[:, -1:], values, values[:, :1]], axis=-1), 2)

    off = -_GAMMA * rate * dt
    system = Periodic(density - 2 * off, off)
    first = system.solve(momentum)
    early = (1 - _GAMMA) * rate * dt * curvature(first)
    second = system.solve(momentum + early)
    result = conserved.copy()
    result[1] += early - off * curvature(second)
    # Work of the stress at a face: mean velocity times velocity difference, i.e. half the difference of squares.
    result[2] += 0.5 * rate * dt * curvature((1 - _GAMMA) * first * first + _GAMMA * second * second)
    return result


def evolve(
    initial: Array, mu: float, cell: float, interval: float, num_frames: int, boundary: Boundary = "periodic"
) -> Array:
    """Solve the equations from ``initial`` [3, B, N] (density, velocity, pressure) on cells of length ``cell``.

    Returns frames [3, B, num_frames, N] at time intervals of ``interval``, ``initial`` first. ``mu`` must
    be 0 with the boundary "outflow". A time step is a viscous step between two half steps without viscosity (Strang).
    """
    gas = Gas()
    frames = np.empty((3, initial.shape[1], num_frames, initial.shape[2]))
    frames[:, :, 0] = initial
    conserved = gas.conserved(initial)
    for frame in range(1, num_frames):
        left = np.full((initial.shape[1], 1), interval)
        while len(rows := np.flatnonzero(left)):
            fields = conserved[:, rows]
            limit = 2 * COURANT * cell / gas.speed(fields, 0).max(axis=-1, keepdims=True)
            count = np.ceil(left[rows] / limit)
            dt = left[rows] / count
            fields = sweep(fields, 0.5 * dt / cell, gas, boundary)
            if mu:
                fields = viscous_step(fields, dt, mu, cell)
            conserved[:, rows] = sweep(fields, 0.5 * dt / cell, gas, boundary)
            left[rows] = np.where(count > 1, left[rows] - dt, 0.0)
        frames[:, :, frame] = gas.primitive(conserved)
    return frames


def sample_initial(rng: np.random.Generator, x: Array) -> Array:
    """Sample random initial density, velocity and pressure [3, X] at ``x`` [X]: sums of sine waves (`sample_waves`).

    Density and pressure are scaled to [0, 1], multiplied by a log-uniform factor, and added to a log-uniform constant.
    """

    def waves() -> Array:
        return sample_waves(rng, num_modes=3, windowed=0.5, low=LOW, period=HIGH - LOW)(x)

    positive = []
    for bounds in (DENSITY_RANGE, PRESSURE_RANGE):
        low, high = np.log(bounds)
        factor, base = np.exp(rng.uniform(low, high, size=2))
        positive.append(base + factor * to_unit_range(waves()))
    return np.stack([positive[0], waves(), positive[1]])


def _solve(rngs: Sequence[np.random.Generator]) -> Fields:
    x = centres(LOW, HIGH, NUM_CELLS)
    initial = np.stack([sample_initial(rng, x) for rng in rngs], axis=1)
    mu = 4 / 3 * ETA + ZETA
    frames = evolve(initial, mu, (HIGH - LOW) / NUM_CELLS, END / (NUM_FRAMES - 1), NUM_FRAMES).astype(np.float32)
    return dict(zip(("density", "Vx", "pressure"), frames, strict=True))


SIMULATION = Simulation(
    name="pdebench/cfd_1d",
    equation="compressible Navier-Stokes, ideal gas, gamma = 5/3, eta = zeta = 0.1, on [-1, 1), periodic, to t = 1",
    numerics="finite volumes on 1024 cells, MUSCL-Hancock with van Leer's slopes and HLLC fluxes, stress by an "
    f"L-stable DIRK, Strang splitting, Courant number {COURANT}",
    layout=tensor_layout(("density", "pressure", "Vx"), "x", LOW, HIGH, NUM_CELLS, END, NUM_FRAMES, eta=ETA, zeta=ZETA),
    batch=2,
    solve=_solve,
)
