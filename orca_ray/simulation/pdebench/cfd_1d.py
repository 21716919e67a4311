"""Compressible Navier-Stokes equations of an ideal gas in 1D, periodic.

For density rho, velocity v and pressure p: rho_t + (rho v)_x = 0, (rho v)_t + (rho v^2
+ p)_x = mu v_xx, E_t + (v (E + p))_x = mu (v v_x)_x; E is the total energy, mu = 4/3
eta + zeta, eta = zeta = 0.1. mu is constant, as in PDEBench's paper; its generator
multiplies mu by rho.
"""

import math
from collections.abc import Sequence

import numpy as np

from orca_ray.simulation import Array
from orca_ray.simulation.hyperbolic import Boundary, sweep
from orca_ray.simulation.pdebench.gas import Gas
from orca_ray.simulation.pdebench.periodic import sample_waves, to_unit_range
from orca_ray.simulation.pdebench.simulation import Fields, Grid, make_simulation
from orca_ray.simulation.pdebench.tridiagonal import Tridiagonal

ETA = 0.1
"""Shear viscosity."""
ZETA = 0.1
"""Bulk viscosity."""
GRID = Grid(low=-1.0, high=1.0, num_cells=1024, end=1.0, num_frames=101)
COURANT = 0.8
"""Courant number of a half step without viscosity."""
DENSITY_RANGE = (1.0, 10.0)
"""Range of the constant and of the factor of an initial density."""
PRESSURE_RANGE = (10.0, 100.0)
"""Range of the constant and of the factor of an initial pressure."""
_GAMMA = 1 - math.sqrt(0.5)
"""Coefficient of Alexander's Runge-Kutta method with two stages."""


class Periodic:
    """Like `Tridiagonal`, but ``off`` also couples the first and the last unknown.

    The systems are solved by the Sherman-Morrison formula.
    """

    def __init__(self, diagonal: Array, off: Array) -> None:
        """Factor the matrices; the arguments are those of `Tridiagonal`."""
        corner = -diagonal[:, :1]
        modified = diagonal.copy()
        modified[:, :1] -= corner
        modified[:, -1:] -= off * off / corner
        self._modified = Tridiagonal(modified, off)
        self._ratio = off / corner
        ends = np.zeros_like(diagonal)
        ends[:, :1] = corner
        ends[:, -1:] = off
        self._ends = self._modified.solve(ends)
        self._scale = 1.0 + self._coupled(self._ends)

    def solve(self, right: Array) -> Array:
        """Return the solutions [B, N] for the right-hand sides [B, N]."""
        solution = self._modified.solve(right)
        return solution - self._ends * (self._coupled(solution) / self._scale)

    def _coupled(self, unknowns: Array) -> Array:
        return unknowns[:, :1] + self._ratio * unknowns[:, -1:]


def viscous_step(conserved: Array, dt: Array, mu: float, cell: float) -> Array:
    """Return the conserved fields [3, B, N] after a time step of viscous terms.

    The time steps are ``dt`` [B, 1]; the cells are periodic. The method is an L-stable,
    diagonally implicit, conservative Runge-Kutta method of second order (Alexander
    1977).
    """
    density, momentum = conserved[:2]
    rate = mu / cell**2
    off = -_GAMMA * rate * dt
    system = Periodic(density - 2 * off, off)
    first = system.solve(momentum)
    first_change = (1 - _GAMMA) * rate * dt * _curvature(first)
    second = system.solve(momentum + first_change)
    result = conserved.copy()
    result[1] += first_change - off * _curvature(second)
    # Work of the stress at a face: mean velocity times velocity difference, i.e. half
    # the difference of squares.
    squares = (1 - _GAMMA) * first * first + _GAMMA * second * second
    result[2] += 0.5 * rate * dt * _curvature(squares)
    return result


def _curvature(values: Array) -> Array:
    """Return the second differences of periodic values [B, N]."""
    return np.diff(np.concatenate([values[:, -1:], values, values[:, :1]], axis=-1), 2)


def evolve(
    initial: Array,
    mu: float,
    cell: float,
    interval: float,
    num_frames: int,
    boundary: Boundary = "periodic",
) -> Array:
    """Solve the equations on cells of length ``cell``.

    ``initial`` [3, B, N] is (density, velocity, pressure). Returns frames [3, B,
    num_frames, N] at time intervals of ``interval``, ``initial`` first. ``mu`` must be
    0 with the boundary "outflow". A time step is a viscous step between two half steps
    without viscosity (Strang).
    """
    gas = Gas()
    frames = np.empty((3, initial.shape[1], num_frames, initial.shape[2]))
    frames[:, :, 0] = initial
    conserved = gas.conserved(initial)
    for frame in range(1, num_frames):
        time_left = np.full((initial.shape[1], 1), interval)
        while time_left.any():
            rows = np.flatnonzero(time_left)
            fields = conserved[:, rows]
            fastest = gas.speed(fields, 0).max(axis=-1, keepdims=True)
            num_steps = np.ceil(time_left[rows] / (2 * COURANT * cell / fastest))
            dt = time_left[rows] / num_steps
            fields = sweep(fields, 0.5 * dt / cell, gas, boundary)
            if mu:
                fields = viscous_step(fields, dt, mu, cell)
            conserved[:, rows] = sweep(fields, 0.5 * dt / cell, gas, boundary)
            time_left[rows] = np.where(num_steps > 1, time_left[rows] - dt, 0.0)
        frames[:, :, frame] = gas.primitive(conserved)
    return frames


def sample_initial(rng: np.random.Generator, x: Array) -> Array:
    """Sample random initial density, velocity and pressure [3, X] at ``x`` [X].

    The fields are sums of sine waves (`sample_waves`). Density and pressure are scaled
    to [0, 1], multiplied by a log-uniform factor, and added to a log-uniform constant.
    """

    def waves() -> Array:
        return sample_waves(
            rng, num_modes=3, windowed=0.5, low=GRID.low, period=GRID.high - GRID.low
        )(x)

    positive = []
    for bounds in (DENSITY_RANGE, PRESSURE_RANGE):
        low, high = np.log(bounds)
        factor, base = np.exp(rng.uniform(low, high, size=2))
        positive.append(base + factor * to_unit_range(waves()))
    return np.stack([positive[0], waves(), positive[1]])


def _solve(rngs: Sequence[np.random.Generator]) -> Fields:
    """Solve the equations from random initial fields, one for each generator."""
    initial = np.stack([sample_initial(rng, GRID.x) for rng in rngs], axis=1)
    mu = 4 / 3 * ETA + ZETA
    frames = evolve(initial, mu, GRID.cell, GRID.interval, GRID.num_frames)
    names = ("density", "Vx", "pressure")
    return dict(zip(names, frames.astype(np.float32), strict=True))


SIMULATION = make_simulation(
    "cfd_1d",
    GRID.tensor_layout(("density", "pressure", "Vx"), "x", eta=ETA, zeta=ZETA),
    _solve,
)
