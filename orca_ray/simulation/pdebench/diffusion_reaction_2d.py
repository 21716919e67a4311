"""Diffusion and reaction of an activator u and an inhibitor v in two dimensions.

The FitzHugh-Nagumo equations are u_t = 1e-3 Lap u + u - u^3 - k - v and v_t = 5e-3 Lap
v + u - v with k = 5e-3 and the Laplacian Lap, on [-1, 1]^2 to t = 5. There is no flux
through the boundary; the initial fields are white noise.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from orca_ray.simulation import Array
from orca_ray.simulation.pdebench.groups import group_layout
from orca_ray.simulation.pdebench.simulation import Fields, Grid, make_simulation
from orca_ray.simulation.small_fields import DIFFUSION, K, laplacian_symbol, reaction
from orca_ray.simulation.stiff import Etdrk4, Modes

GRID = Grid(low=-1.0, high=1.0, num_cells=128, end=5.0, num_frames=101)
CELL = GRID.cell
"""Length of a cell."""
STEPS_PER_FRAME = 2
"""Number of time steps between two frames."""
FIRST_STEPS = 8
"""Number of time steps between the first two frames."""


def evolve(initial: Array, interval: float, num_frames: int) -> Array:
    """Solve the equations from ``initial`` [2, N, N] = (u, v).

    Returns frames [num_frames, 2, N, N], ``initial`` first. Frames are ``interval``
    apart, with `STEPS_PER_FRAME` time steps in between; the first two, `FIRST_STEPS`.
    """
    from scipy.fft import dctn, idctn

    forward: Callable[[Array], Array] = partial(dctn, axes=(-2, -1), norm="ortho")
    backward: Callable[[Modes], Array] = partial(idctn, axes=(-2, -1), norm="ortho")

    def nonlinear(modes: Modes) -> Modes:
        return forward(reaction(backward(modes)))

    diffusion = np.array(DIFFUSION)[:, None, None]
    symbol = diffusion * laplacian_symbol(initial.shape[-1], CELL)
    first_stepper = Etdrk4(symbol, interval / FIRST_STEPS)
    stepper = Etdrk4(symbol, interval / STEPS_PER_FRAME)
    frames = np.empty((num_frames, *initial.shape))
    frames[0] = initial
    modes: Modes = forward(initial)
    for frame in range(1, num_frames):
        if frame == 1:
            for _ in range(FIRST_STEPS):
                modes = first_stepper.step(modes, nonlinear)
        else:
            for _ in range(STEPS_PER_FRAME):
                modes = stepper.step(modes, nonlinear)
        frames[frame] = backward(modes)
    return frames


def _solve(rngs: Sequence[np.random.Generator]) -> Fields:
    """Solve the equations from random initial fields, one for each generator."""
    shape = (2, GRID.num_cells, GRID.num_cells)
    frames = [
        evolve(rng.standard_normal(shape), GRID.interval, GRID.num_frames)
        for rng in rngs
    ]
    return {"data": np.moveaxis(np.stack(frames), 2, -1).astype(np.float32)}


_PARAMETERS = {
    "Du": DIFFUSION[0],
    "Dv": DIFFUSION[1],
    "k": K,
    "t": GRID.end,
    "tdim": GRID.num_frames,
    "x_left": GRID.low,
    "x_right": GRID.high,
    "xdim": GRID.num_cells,
    "y_bottom": GRID.low,
    "y_top": GRID.high,
    "ydim": GRID.num_cells,
    "n": 1,
}
SIMULATION = make_simulation(
    "diffusion_reaction_2d",
    group_layout(
        GRID, channels=2, axes="xy", parameters=_PARAMETERS, compression="lzf"
    ),
    _solve,
)
