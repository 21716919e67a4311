"""Four data sets of simulated fields: the equations, their samples and outer splits."""

from collections.abc import Callable

import numpy as np
from scipy.fft import dctn, idctn

from benchmarks.peers.parts import SPLIT_SEED, TEST_SHARE, Parts, split
from orca_ray.data.rows import Array
from orca_ray.simulation import centres
from orca_ray.simulation.darcy import solve_steady
from orca_ray.simulation.pdebench.darcy import SOURCE, sample_permeability
from orca_ray.simulation.pdebench.periodic import sample_waves
from orca_ray.simulation.small_fields import DIFFUSION, laplacian_symbol, reaction
from orca_ray.simulation.stiff import Etdrk4, evolve_spectral

_NUM_SAMPLES = 300
NUM_POINTS = 32
"""Number of grid points along each axis of a two-dimensional field."""
CELL = 2.0 / NUM_POINTS
"""Width of a grid cell."""


def burgers() -> Parts:
    """Return u at t = 0 and t = 0.5, both [N, 128], of Burgers' equation with viscosity
    0.01.
    """
    points = centres(0.0, 1.0, 256)
    initial = np.stack([sample_waves(random)(points) for random in _generators()])
    frames = evolve_spectral(
        initial,
        lambda k: -0.01 * k**2,
        lambda k: -0.5j * k,
        interval=0.5,
        num_frames=2,
        steps=500,
    )
    return split_fields(initial[:, ::2], frames[:, -1, ::2])


def darcy() -> Parts:
    """Return permeabilities and the pressures that they cause, both [N, 32, 32]."""
    points = centres(0.0, 1.0, NUM_POINTS)
    permeabilities = [sample_permeability(random, points) for random in _generators()]
    pressures = [solve_steady(field, SOURCE) for field in permeabilities]
    return split_fields(np.stack(permeabilities), np.stack(pressures))


def allen_cahn() -> Parts:
    """Return u at t = 0 and t = 4, both [N, 32, 32], of u_t = 0.004 Lap u + u - u³
    without flux at the edge.
    """
    stepper = Etdrk4(4e-3 * laplacian_symbol(NUM_POINTS, CELL), 0.05)
    initial = np.concatenate(
        [sample_smooth(random, 1, 0.5) for random in _generators()]
    )

    def change(modes: Array) -> Array:
        u = to_values(modes)
        return to_modes(u - u**3)

    return split_fields(initial, integrate(stepper, change, initial, num_steps=80))


def fitzhugh_nagumo() -> Parts:
    """Return activator and inhibitor [N, 2, 32, 32] at t = 0, and the activator [N, 32,
    32] at t = 5.
    """
    diffusion = np.array(DIFFUSION)[:, None, None]
    stepper = Etdrk4(diffusion * laplacian_symbol(NUM_POINTS, CELL), 5.0 / 200)
    initial = [sample_smooth(random, 2, 1.0) for random in _generators()]

    def change(modes: Array) -> Array:
        return to_modes(reaction(to_values(modes)))

    last = [integrate(stepper, change, field, num_steps=200) for field in initial]
    activators = [activator for activator, _ in last]
    return split_fields(np.stack(initial), np.stack(activators))


def integrate(
    stepper: Etdrk4, change: Callable[[Array], Array], initial: Array, num_steps: int
) -> Array:
    """Return the fields after ``num_steps`` steps from the fields ``initial``."""
    modes = to_modes(initial)
    for _ in range(num_steps):
        modes = stepper.step(modes, change)
    return to_values(modes)


def to_modes(fields: Array) -> Array:
    """Return the cosine coefficients of fields [..., X, Y]."""
    modes: Array = dctn(fields, axes=(-2, -1), norm="ortho")
    return modes


def to_values(modes: Array) -> Array:
    """Return the fields [..., X, Y] of cosine coefficients."""
    fields: Array = idctn(modes, axes=(-2, -1), norm="ortho")
    return fields


def _generators() -> list[np.random.Generator]:
    """Return a random generator for each sample."""
    return [
        np.random.default_rng([SPLIT_SEED, number]) for number in range(_NUM_SAMPLES)
    ]


def sample_smooth(
    random: np.random.Generator, channels: int, deviation: float
) -> Array:
    """Draw a smooth field [channels, 32, 32] of the given standard deviation."""
    modes = random.standard_normal((channels, NUM_POINTS, NUM_POINTS))
    k = np.arange(NUM_POINTS)
    field = to_values(modes * np.exp(-(k[:, None] ** 2 + k**2) / 50))
    field *= deviation / field.std()
    return field


def split_fields(x: Array, y: Array, test_size: float | int = TEST_SHARE) -> Parts:
    """Divide fields of single precision at random into outer parts."""
    return split(x.astype(np.float32), y.astype(np.float32), test_size)
