"""Fields of the benchmark ``cabinet``, computed when data are built.

They are solutions of partial differential equations. Resolutions, times and
coefficients are such that a U-Net learns each map from 1,000 samples: the fields change
much, but without chaos. The solvers are those of `orca_ray.simulation`, which are
tested there.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from orca_ray.simulation import Array, centres, darcy, generators
from orca_ray.simulation.hyperbolic import evolve_water
from orca_ray.simulation.stiff import Etdrk4, Modes, evolve_spectral

POINTS = 64
"""Number of points of a field in one dimension."""
SIDE = 32
"""Number of points along each axis of a field in two dimensions."""
DIGITS = 4
"""Decimal digits of the fields, which are of the order of 1."""
DIFFUSION = (1e-3, 5e-3)
"""Diffusion coefficients of u and v in the FitzHugh-Nagumo equations.

They are u_t = 1e-3 Lap u + u - u^3 - k - v and v_t = 5e-3 Lap v + u - v.
"""
K = 5e-3
"""Constant k of the FitzHugh-Nagumo equations."""
_BATCH = 100
"""Number of samples that are solved at a time."""
_STEP = 0.1
"""Time step of reactions with diffusion."""
_SEED = 2026
"""Seed of all random inputs."""
Solver = Callable[[Sequence[np.random.Generator]], tuple[Array, Array]]
Field = npt.NDArray[np.float32]


def simulate(equation: str, samples: int) -> tuple[Field, Field]:
    """Return inputs and solutions of an equation of `EQUATIONS`.

    They are [N, channels, *points] and [N, *points]. Values are rounded to `DIGITS`, so
    that almost all machines and libraries make the same data.
    """
    solve = EQUATIONS[equation]
    inputs = []
    solutions = []
    for start in range(0, samples, _BATCH):
        stop = min(start + _BATCH, samples)
        x, y = solve(generators(_SEED, start, stop))
        inputs.append(x)
        solutions.append(y)
    return _rounded(np.concatenate(inputs)), _rounded(np.concatenate(solutions))


def _rounded(fields: Array) -> Field:
    return np.round(fields, DIGITS).astype(np.float32)


def laplacian_symbol(num_cells: int, cell: float) -> Array:
    """Return the eigenvalue of the five-point Laplacian for each cosine mode, [N, N].

    The grid has N x N cells, and no flux through its boundary.
    """
    angles = np.pi * np.arange(num_cells) / (2 * num_cells)
    line = -((2 / cell * np.sin(angles)) ** 2)
    return line[:, None] + line[None, :]


def reaction(fields: Array) -> Array:
    """Return u - u^3 - k - v and u - v, [2, ...], for ``fields`` = (u, v).

    This is the reaction of FitzHugh and Nagumo; ``fields`` are [2, ...].
    """
    u, v = fields
    return np.stack([u - u * u * u - K - v, u - v])


def _waves(rng: np.random.Generator, cutoff: float) -> Array:
    """Return a random smooth field [SIDE, SIDE] of mean 0 and deviation 1.

    It has no flux through the boundary. The coefficient of a cosine with wave numbers k
    and l is normal, times exp(-(k^2 + l^2) / (2 ``cutoff``^2)).
    """
    from scipy.fft import idctn

    squares = np.arange(SIDE) ** 2
    decay = np.exp(-(squares[:, None] + squares) / (2 * cutoff**2))
    modes = rng.standard_normal((SIDE, SIDE)) * decay
    modes[0, 0] = 0.0
    field: Array = idctn(modes, norm="ortho")
    scaled: Array = field / field.std()
    return scaled


def _sines(rng: np.random.Generator, modes: int) -> Callable[[Array], Array]:
    """Return a random function of period 1 and deviation 1.

    It is a sum of sines with wave numbers up to ``modes``.
    """
    numbers = np.arange(1, modes + 1)
    amplitudes = rng.standard_normal(modes)
    phases = rng.uniform(0, 2 * np.pi, modes)
    amplitudes *= np.sqrt(2 / (amplitudes**2).sum())

    def function(x: Array) -> Array:
        waves = np.sin(2 * np.pi * numbers * x[..., None] + phases)
        return np.asarray((amplitudes * waves).sum(axis=-1))

    return function


def _advection(rngs: Sequence[np.random.Generator]) -> tuple[Array, Array]:
    """Solve u_t + c(x) u_x = 0 to t = 0.25, along characteristics.

    The domain [0, 1) is periodic; inputs are u and c.
    """
    x = centres(0.0, 1.0, POINTS)
    steps = 20
    speeds = []
    start = []
    end = []
    for rng in rngs:
        initial = _sines(rng, modes=4)
        wave = _sines(rng, modes=2)
        scale = 0.4 / np.abs(wave(x)).max()
        foot = x
        dt = 0.25 / steps
        for _ in range(steps):  # backwards in time, by the midpoint rule
            halfway = foot - 0.5 * dt * (0.5 + scale * wave(foot))
            foot = foot - dt * (0.5 + scale * wave(halfway))
        speeds.append(0.5 + scale * wave(x))
        start.append(initial(x))
        end.append(initial(foot))
    return np.stack([np.stack(start), np.stack(speeds)], axis=1), np.stack(end)


def _burgers(rngs: Sequence[np.random.Generator]) -> tuple[Array, Array]:
    """Solve u_t + (u^2 / 2)_x = 0.01 u_xx to t = 0.5.

    The domain [0, 1) is periodic; the solver has four times the points.
    """
    initial = np.stack(
        [_sines(rng, modes=5)(centres(0.0, 1.0, 4 * POINTS)) for rng in rngs]
    )
    frames = evolve_spectral(
        initial,
        linear=lambda k: -0.01 * k**2,
        quadratic=lambda k: -0.5j * k,
        interval=0.5,
        num_frames=2,
        steps=200,
    )
    return initial[:, None, 2::4], frames[:, 1, 2::4]


def _darcy(rngs: Sequence[np.random.Generator]) -> tuple[Array, Array]:
    """Solve -div(a grad u) = f on the unit square, u = 0 on its edge.

    Inputs are log a and f, the solution is 10 u.
    """
    logarithms = np.stack([_waves(rng, cutoff=4.0) for rng in rngs])
    sources = np.stack([1.0 + 0.9 * np.tanh(_waves(rng, cutoff=2.0)) for rng in rngs])
    solutions = [
        darcy.solve_steady(np.exp(a), f)
        for a, f in zip(logarithms, sources, strict=True)
    ]
    return np.stack([logarithms, sources], axis=1), 10 * np.stack(solutions)


def _react(
    initial: Array,
    diffusion: Sequence[float],
    reaction: Callable[[Array], Array],
    end: float,
) -> Array:
    """Solve u_t = D Lap u + R(u) on [-1, 1]^2 to t = ``end``, without flux.

    Return u [F, B, SIDE, SIDE] at the end. ``initial`` are F fields of B samples;
    ``diffusion`` has one coefficient D for each field.
    """
    from scipy.fft import dctn, idctn

    coefficients = np.array(diffusion)[:, None, None, None]
    stepper = Etdrk4(coefficients * laplacian_symbol(SIDE, 2.0 / SIDE), _STEP)

    def nonlinear(modes: Modes) -> Modes:
        fields = idctn(modes, axes=(-2, -1), norm="ortho")
        change: Modes = dctn(reaction(fields), axes=(-2, -1), norm="ortho")
        return change

    modes: Modes = dctn(initial, axes=(-2, -1), norm="ortho")
    for _ in range(round(end / _STEP)):
        modes = stepper.step(modes, nonlinear)
    solution: Array = idctn(modes, axes=(-2, -1), norm="ortho")
    return solution


def _fitzhugh_nagumo(rngs: Sequence[np.random.Generator]) -> tuple[Array, Array]:
    """Solve the FitzHugh-Nagumo equations to t = 3.

    Inputs are activator and inhibitor, the solution the activator. The inputs are as
    small as those of `_allen_cahn`, because a step diverges from values of about 5.
    """
    initial = 0.5 * np.stack(
        [np.stack([_waves(rng, cutoff=5.0), _waves(rng, cutoff=5.0)]) for rng in rngs],
        axis=1,
    )
    return initial.swapaxes(0, 1), _react(initial, DIFFUSION, reaction, end=3.0)[0]


def _water(rngs: Sequence[np.random.Generator]) -> tuple[Array, Array]:
    """Solve the shallow-water equations to t = 0.6, from water at rest.

    The domain is [-2.5, 2.5]^2, open to all sides. Input and solution are the elevation
    over the mean depth, 1.25.
    """
    depth = np.stack(
        [1.0 + 0.5 / (1.0 + np.exp(-2.0 * _waves(rng, cutoff=3.0))) for rng in rngs]
    )
    conserved = np.stack([depth, np.zeros_like(depth), np.zeros_like(depth)])
    frames = evolve_water(
        conserved,
        cell=5.0 / SIDE,
        interval=0.6,
        num_frames=2,
        top_speed=2 * np.sqrt(1.5),  # depths are at most 1.5
    )
    return depth[:, None] - 1.25, frames[:, 1] - 1.25


def _allen_cahn(rngs: Sequence[np.random.Generator]) -> tuple[Array, Array]:
    """Solve u_t = 0.002 Lap u + u - u^3 to t = 4."""
    initial = np.stack([0.5 * _waves(rng, cutoff=5.0) for rng in rngs])
    return initial[:, None], _react(
        initial[None], (0.002,), lambda u: u - u**3, end=4.0
    )[0]


EQUATIONS: dict[str, Solver] = {
    "advection": _advection,
    "burgers": _burgers,
    "darcy": _darcy,
    "fitzhugh_nagumo": _fitzhugh_nagumo,
    "shallow_water": _water,
    "allen_cahn": _allen_cahn,
}
