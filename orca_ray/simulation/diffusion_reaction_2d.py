"""Diffusion and reaction of an activator u and an inhibitor v in two dimensions (FitzHugh-Nagumo equations).

u_t = 1e-3 Lap u + u - u^3 - k - v and v_t = 5e-3 Lap v + u - v with k = 5e-3 and the Laplacian Lap, on [-1, 1]^2 to
t = 5. There is no flux through the boundary; the initial fields are white noise.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from orca_ray.simulation.simulation import Array, Fields, Simulation, group_layout
from orca_ray.simulation.stiff import Etdrk4, Modes

DIFFUSION = (1e-3, 5e-3)
K = 5e-3
LOW, HIGH = -1.0, 1.0
END = 5.0
NUM_FRAMES = 101
NUM_CELLS = 128
STEPS_PER_FRAME = 2
FIRST_STEPS = 8


def laplacian_symbol(num_cells: int, cell: float) -> Array:
    """Return the eigenvalues [N, N], by cosine mode, of the five-point Laplacian on N x N cells; no-flux boundary."""
    line = -((2 / cell * np.sin(np.pi * np.arange(num_cells) / (2 * num_cells))) ** 2)
    return line[:, None] + line[None, :]


def reaction(fields: Array) -> Array:
    """Return the terms without Laplacian, [2, ...], of the equations for ``fields`` = (u, v) [2, ...]."""
    u, v = fields
    return np.stack([u - u * u * u - K - v, u - v])


def evolve(
    initial: Array, interval: float, num_frames: int, *, cell: float = (HIGH - LOW) / NUM_CELLS, reacting: bool = True,
    steps: int = STEPS_PER_FRAME, first_steps: int = FIRST_STEPS,
) -> Array:  # fmt: skip
    """Solve the equations from ``initial`` [2, N, N] = (u, v); return frames [num_frames, 2, N, N], ``initial`` first.

    Frames are ``interval`` apart, with ``steps`` time steps between two (``first_steps`` between the first two).
    Without ``reacting``, `reaction` is left out.
    """
    from scipy.fft import dctn, idctn

    forward: Callable[[Array], Array] = partial(dctn, axes=(-2, -1), norm="ortho")
    backward: Callable[[Modes], Array] = partial(idctn, axes=(-2, -1), norm="ortho")

    def nonlinear(modes: Modes) -> Modes:
        return forward(reaction(backward(modes))) if reacting else np.zeros_like(modes)

    symbol = np.array(DIFFUSION)[:, None, None] * laplacian_symbol(initial.shape[-1], cell)
    frames = np.empty((num_frames, *initial.shape))
    frames[0] = initial
    modes: Modes = forward(initial)
    for count, numbers in ((first_steps, range(1, 2)), (steps, range(2, num_frames))):
        stepper = Etdrk4(symbol, interval / count)
        for frame in numbers:
            for _ in range(count):
                modes = stepper.step(modes, nonlinear)
            frames[frame] = backward(modes)
    return frames


def _solve(rngs: Sequence[np.random.Generator]) -> Fields:
    noise = (rng.standard_normal((2, NUM_CELLS, NUM_CELLS)) for rng in rngs)
    frames = np.stack([evolve(initial, END / (NUM_FRAMES - 1), NUM_FRAMES) for initial in noise])
    return {"data": np.moveaxis(frames, 2, -1).astype(np.float32)}


_PARAMETERS = {
    "Du": DIFFUSION[0], "Dv": DIFFUSION[1], "k": K, "t": END, "tdim": NUM_FRAMES, "x_left": LOW, "x_right": HIGH,
    "xdim": NUM_CELLS, "y_bottom": LOW, "y_top": HIGH, "ydim": NUM_CELLS, "n": 1,
}  # fmt: skip
SIMULATION = Simulation(
    name="pdebench/diffusion_reaction_2d",
    equation="u_t = 1e-3 Lap u + u - u^3 - 5e-3 - v, v_t = 5e-3 Lap v + u - v on [-1, 1]^2, no flux, to t = 5; initial "
    "fields standard normal in every cell",
    numerics="finite volumes on 128 x 128 cells (five-point Laplacian, exact in cosines), ETDRK4, "
    f"{STEPS_PER_FRAME} steps a frame, {FIRST_STEPS} in the first",
    layout=group_layout(2, "xy", LOW, HIGH, NUM_CELLS, END, NUM_FRAMES, parameters=_PARAMETERS),
    batch=1,
    solve=_solve,
)
