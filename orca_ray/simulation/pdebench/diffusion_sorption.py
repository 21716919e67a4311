"""Diffusion with sorption in 1D: grains adsorb a contaminant of ground water.

Concentration u: u_t = (D / R(u)) u_xx with Freundlich's retardation factor R(u) = 1 + K
n (u + 1e-6)^(n - 1), exponent n and K = (1 - phi) / phi rho_s k_f (porosity phi, grain
density rho_s, Freundlich's factor k_f). With the content theta(u) = u + K (u + 1e-6)^n,
this is the conservation law theta_t = D u_xx, which this module solves. At the left end
u = 1; at the right end u = -D u_x, as in PDEBench's generator (with its paper's u = D
u_x, no solution is bounded).
"""

from collections.abc import Sequence

import numpy as np

from orca_ray.simulation import Array
from orca_ray.simulation.pdebench.groups import group_layout
from orca_ray.simulation.pdebench.simulation import Fields, Grid, make_simulation
from orca_ray.simulation.pdebench.tridiagonal import Tridiagonal

D = 5e-4
"""Diffusion coefficient."""
POROSITY = 0.29
"""Porosity phi."""
GRAIN_DENSITY = 2880.0
"""Density rho_s of the grains."""
FREUNDLICH_FACTOR = 3.5e-4
"""Freundlich's factor k_f."""
FREUNDLICH_EXPONENT = 0.874
"""Freundlich's exponent n."""
LEFT_VALUE = 1.0
"""Concentration at the left end."""
GRID = Grid(low=0.0, high=1.0, num_cells=1024, end=500.0, num_frames=101)
STEPS_PER_FRAME = 4
"""Number of time steps between two frames."""
FIRST_STEPS = 64
"""Number of time steps, of growing length, between the first two frames."""
_OFFSET = 1e-6
"""Number that is added to u, so that R(0) is finite."""
_SORBED = (1 - POROSITY) / POROSITY * GRAIN_DENSITY * FREUNDLICH_FACTOR
"""Factor K of the adsorbed amount."""
_GAMMA = 1 - np.sqrt(0.5)
"""Coefficient of Alexander's Runge-Kutta method with two stages."""
_NEWTON_TOLERANCE = 1e-12
"""Largest residual at which Newton's method ends."""
_NEWTON_LIMIT = 50
"""Largest number of Newton's iterations."""


def content(u: Array) -> Array:
    """Return theta(u), the dissolved plus the adsorbed amount per pore volume."""
    return u + _SORBED * (u + _OFFSET) ** FREUNDLICH_EXPONENT


def retardation(u: Array) -> Array:
    """Return R(u), the derivative of `content`."""
    return 1 + _SORBED * FREUNDLICH_EXPONENT * (u + _OFFSET) ** (
        FREUNDLICH_EXPONENT - 1
    )


class Diffusion:
    """Finite volume discretisation of D u_xx on N equal cells of [0, 1].

    It is of second order, also at both ends.
    """

    def __init__(self, num_cells: int) -> None:
        cell = 1.0 / num_cells
        self.rate = D / cell**2
        # Value at the right end divided by that of the last cell, from u = -D u_x over
        # the last half cell.
        right_share = (2 * D / cell) / (1 + 2 * D / cell)
        self.outflow = 2 * self.rate * (1 - right_share)
        self.diagonal = np.full(num_cells, -2 * self.rate)
        """Diagonal [N] of the tridiagonal matrix d(D u_xx) / du."""
        self.diagonal[0] -= self.rate
        self.diagonal[-1] = -self.rate - self.outflow

    def __call__(self, u: Array) -> Array:
        """Return D u_xx for u [B, N], by the fluxes through the ends of cells."""
        inflow = 2 * self.rate * (LEFT_VALUE - u[:, :1])
        outflow = self.outflow * u[:, -1:]
        flux = np.concatenate(
            [inflow, self.rate * (u[:, :-1] - u[:, 1:]), outflow], axis=1
        )
        gain: Array = flux[:, :-1] - flux[:, 1:]
        return gain


def _solve_implicit(
    guess: Array, right: Array, dt: float, diffusion: Diffusion
) -> Array:
    """Return u [B, N] with content(u) - dt D u_xx = right, by Newton's method."""
    off = np.full((len(guess), 1), -dt * diffusion.rate)
    diagonal = -dt * diffusion.diagonal
    u = guess
    for _ in range(_NEWTON_LIMIT):
        residual = content(u) - dt * diffusion(u) - right
        if np.abs(residual).max() < _NEWTON_TOLERANCE:
            return u
        jacobian = Tridiagonal(diagonal + retardation(u), off)
        u = np.maximum(u - jacobian.solve(residual), 0.0)
    raise ArithmeticError("Newton's method did not converge: the time step is too long")


def step(u: Array, dt: float, diffusion: Diffusion) -> Array:
    """Return u [B, N] after a time step ``dt``.

    The method is Alexander's L-stable, implicit Runge-Kutta method of second order.
    """
    before = content(u)
    first = _solve_implicit(u, before, _GAMMA * dt, diffusion)
    right = before + (1 - _GAMMA) * dt * diffusion(first)
    return _solve_implicit(first, right, _GAMMA * dt, diffusion)


def evolve(initial: Array, interval: float, num_frames: int) -> Array:
    """Solve the equation from non-negative concentrations ``initial`` [B, N].

    Returns frames [B, num_frames, N], ``initial`` first. Frames are a time ``interval``
    apart, with `STEPS_PER_FRAME` time steps in between. The second frame is reached by
    `FIRST_STEPS` time steps of growing length, because u is discontinuous at the ends
    at t = 0.
    """
    diffusion = Diffusion(initial.shape[1])
    frames = np.empty((len(initial), num_frames, initial.shape[1]))
    frames[:, 0] = initial
    u = initial
    for frame in range(1, num_frames):
        if frame == 1:
            times = np.linspace(0, 1, FIRST_STEPS + 1) ** 2
        else:
            times = np.linspace(0, 1, STEPS_PER_FRAME + 1)
        for dt in np.diff(times) * interval:
            u = step(u, dt, diffusion)
        frames[:, frame] = u
    return frames


def _solve(rngs: Sequence[np.random.Generator]) -> Fields:
    initial = np.stack([np.full(GRID.num_cells, rng.uniform(0.0, 0.2)) for rng in rngs])
    frames = evolve(initial, GRID.interval, GRID.num_frames)
    return {"data": frames[..., None].astype(np.float32)}


_PARAMETERS = {
    "D": D,
    "por": POROSITY,
    "rho_s": GRAIN_DENSITY,
    "k_f": FREUNDLICH_FACTOR,
    "n_f": FREUNDLICH_EXPONENT,
    "sol": LEFT_VALUE,
    "t": GRID.end,
    "tdim": GRID.num_frames,
    "x_left": GRID.low,
    "x_right": GRID.high,
    "xdim": GRID.num_cells,
}
SIMULATION = make_simulation(
    "diffusion_sorption",
    group_layout(GRID, channels=1, axes="x", parameters=_PARAMETERS, compression="lzf"),
    _solve,
)
