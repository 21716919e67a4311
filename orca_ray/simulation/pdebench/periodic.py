"""Three equations for u(x, t), periodic on [0, 1).

Advection, solved exactly, is u_t + 0.4 u_x = 0. The other two are solved in Fourier
space. Burgers' equation is u_t + (u^2 / 2)_x = (nu / pi) u_xx: PDEBench divides nu by
pi, so that nu = 1 means the coefficient 0.318. Diffusion with growth is u_t = nu u_xx +
rho u (1 - u).
"""

from collections.abc import Callable, Sequence

import numpy as np

from orca_ray.simulation import Array
from orca_ray.simulation.pdebench.simulation import Fields, Grid, make_simulation
from orca_ray.simulation.stiff import evolve_spectral

_CHOSEN = 2
"""Number of waves that are drawn with replacement."""
_RECTIFIED = 0.1
"""Share of the initial fields that are rectified."""
_WINDOW_WIDTH = 0.01
"""Width of the smooth transitions of a window."""


def sample_waves(
    rng: np.random.Generator,
    *,
    num_modes: int = 4,
    windowed: float = 0.1,
    low: float = 0.0,
    period: float = 1.0,
) -> Callable[[Array], Array]:
    """Sample an initial field as PDEBench describes it, a function of positions.

    The positions are arrays of any shape. The field is sum_i amplitude_i sin(2 pi
    number_i (x - low) / period + phase_i) over ``num_modes`` waves. Two of the waves
    are drawn with replacement: wave i = 1, 2, ... gets wave number i if drawn once, and
    2 i if drawn twice. The other waves get wave number 0, i.e. add a constant, as in
    PDEBench's generator, but not in its paper's formula. The sign of the field is
    random, and a tenth of the fields is rectified. With probability ``windowed``, the
    field is multiplied by a window that is 1 in the middle of the domain and 0
    elsewhere, with smooth (tanh) transitions. The domain begins at ``low`` and is one
    ``period`` long. (PDEBench's windows are all 0.45 wide.)
    """
    counts = np.bincount(rng.integers(0, num_modes, size=_CHOSEN), minlength=num_modes)
    numbers = counts * np.arange(1.0, num_modes + 1.0)
    amplitudes = rng.uniform(0.0, 1.0, size=num_modes)
    phases = rng.uniform(0.0, 2 * np.pi, size=num_modes)
    is_rectified = rng.uniform() < _RECTIFIED
    sign = float(rng.choice((-1.0, 1.0)))
    window = None
    if rng.uniform() < windowed:
        window = (rng.uniform(0.1, 0.45), rng.uniform(0.55, 0.9))

    def field(x: Array) -> Array:
        position = np.mod(x - low, period)
        total = np.zeros_like(position)
        for amplitude, number, phase in zip(amplitudes, numbers, phases, strict=True):
            if number:
                angle = 2 * np.pi * number / period * position + phase
                total += amplitude * np.sin(angle)
            else:
                total += amplitude * np.sin(phase)
        if is_rectified:
            total = np.abs(total)
        total = sign * total
        if window is None:
            return total
        left, right = ((position - (edge - low)) / _WINDOW_WIDTH for edge in window)
        windowed_total: Array = total * 0.5 * (np.tanh(left) - np.tanh(right))
        return windowed_total

    return field


def to_unit_range(field: Array) -> Array:
    """Return a field [X], shifted and scaled to values from 0 to 1.

    A constant field becomes 0.
    """
    shifted: Array = field - field.min()
    return shifted / (shifted.max() or 1.0)


ADVECTION = Grid(low=0.0, high=1.0, num_cells=1024, end=2.0, num_frames=201)
ADVECTION_BETA = 0.4
"""Velocity of advection."""
BURGERS = ADVECTION
BURGERS_NU = 1.0
"""nu of Burgers' equation."""
BURGERS_STEPS = 10
"""Time steps between two frames of Burgers' equation."""
GROWTH = Grid(low=0.0, high=1.0, num_cells=1024, end=1.0, num_frames=101)
GROWTH_NU = 0.5
"""Diffusion coefficient nu of diffusion with growth."""
GROWTH_RHO = 1.0
"""Growth rate rho of diffusion with growth."""
GROWTH_STEPS = 5
"""Time steps between two frames of diffusion with growth."""


def _solve_advection(rngs: Sequence[np.random.Generator]) -> Fields:
    origins = ADVECTION.x[None, :] - ADVECTION_BETA * ADVECTION.times[:, None]
    frames = [sample_waves(rng)(origins).astype(np.float32) for rng in rngs]
    return {"tensor": np.stack(frames)}


def _solve_burgers(rngs: Sequence[np.random.Generator]) -> Fields:
    """Solve Burgers' equation from random initial fields."""
    initial = np.stack([sample_waves(rng)(BURGERS.x) for rng in rngs])
    frames = evolve_spectral(
        initial,
        linear=lambda k: -BURGERS_NU / np.pi * k**2,
        quadratic=lambda k: -0.5j * k,
        interval=BURGERS.interval,
        num_frames=BURGERS.num_frames,
        steps=BURGERS_STEPS,
    )
    return {"tensor": frames.astype(np.float32)}


def _solve_growth(rngs: Sequence[np.random.Generator]) -> Fields:
    """Solve diffusion with logistic growth from random initial fields."""
    initial = np.stack([to_unit_range(sample_waves(rng)(GROWTH.x)) for rng in rngs])
    frames = evolve_spectral(
        initial,
        linear=lambda k: GROWTH_RHO - GROWTH_NU * k**2,
        quadratic=lambda k: -GROWTH_RHO,
        interval=GROWTH.interval,
        num_frames=GROWTH.num_frames,
        steps=GROWTH_STEPS,
    )
    return {"tensor": frames.astype(np.float32)}


SIMULATIONS = (
    make_simulation(
        "advection",
        ADVECTION.tensor_layout(("tensor",), "x", beta=ADVECTION_BETA),
        _solve_advection,
    ),
    make_simulation(
        "burgers",
        BURGERS.tensor_layout(("tensor",), "x", Nu=BURGERS_NU),
        _solve_burgers,
    ),
    make_simulation(
        "diffusion_reaction_1d",
        GROWTH.tensor_layout(("tensor",), "x", Nu=GROWTH_NU, rho=GROWTH_RHO),
        _solve_growth,
    ),
)
