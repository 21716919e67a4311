"""Three equations for u(x, t), periodic on [0, 1): advection, solved exactly, and two that are solved in Fourier space.

Advection is u_t + 0.4 u_x = 0. Burgers' equation is u_t + (u^2 / 2)_x = (nu / pi) u_xx: PDEBench divides nu by pi,
so that nu = 1 means the coefficient 0.318. Diffusion with growth is u_t = nu u_xx + rho u (1 - u).
"""

from collections.abc import Sequence

import numpy as np

from orca_ray.simulation.simulation import Array, Fields, Simulation, centres, frame_times, tensor_layout
from orca_ray.simulation.stiff import evolve_spectral
from orca_ray.simulation.waves import Waves, sample_waves, to_unit_range

NUM_POINTS = 1024
INTERVAL = 0.01
"""Time between two frames."""
ADVECTION_BETA, ADVECTION_FRAMES = 0.4, 201
BURGERS_NU, BURGERS_FRAMES, BURGERS_STEPS = 1.0, 201, 10
"""Parameters of Burgers' equation: nu, number of frames, time steps per frame."""
GROWTH_NU, GROWTH_RHO, GROWTH_FRAMES, GROWTH_STEPS = 0.5, 1.0, 101, 5


def advected(initial: Waves, x: Array, times: Array) -> Array:
    """Return the exact solution u [T, X] of the advection equation at ``times`` [T] and ``x`` [X]."""
    return initial(x[None, :] - ADVECTION_BETA * times[:, None])


def evolve_burgers(initial: Array, nu: float, interval: float, num_frames: int, steps: int = BURGERS_STEPS) -> Array:
    """Solve u_t + (u^2 / 2)_x = nu u_xx (nu not divided by pi); other arguments and result as for `evolve_spectral`."""
    return evolve_spectral(
        initial, lambda k: -nu * k**2, lambda k: -0.5j * k, interval=interval, num_frames=num_frames, steps=steps
    )


def evolve_growth(
    initial: Array, nu: float, rho: float, interval: float, num_frames: int, steps: int = GROWTH_STEPS
) -> Array:
    """Solve u_t = nu u_xx + rho u (1 - u); other arguments and result as for `evolve_spectral`."""
    return evolve_spectral(
        initial, lambda k: rho - nu * k**2, lambda k: -rho, interval=interval, num_frames=num_frames, steps=steps
    )


def _solve_advection(rngs: Sequence[np.random.Generator]) -> Fields:
    x, times = centres(0.0, 1.0, NUM_POINTS), frame_times(2.0, ADVECTION_FRAMES)
    return {"tensor": np.stack([advected(sample_waves(rng), x, times).astype(np.float32) for rng in rngs])}


def _solve_burgers(rngs: Sequence[np.random.Generator]) -> Fields:
    x = centres(0.0, 1.0, NUM_POINTS)
    initial = np.stack([sample_waves(rng)(x) for rng in rngs])
    return {"tensor": evolve_burgers(initial, BURGERS_NU / np.pi, INTERVAL, BURGERS_FRAMES).astype(np.float32)}


def _solve_growth(rngs: Sequence[np.random.Generator]) -> Fields:
    x = centres(0.0, 1.0, NUM_POINTS)
    initial = np.stack([to_unit_range(sample_waves(rng)(x)) for rng in rngs])
    return {"tensor": evolve_growth(initial, GROWTH_NU, GROWTH_RHO, INTERVAL, GROWTH_FRAMES).astype(np.float32)}


_NUMERICS = "Fourier pseudo-spectral on 1024 points, two thirds dealiased, ETDRK4"
SIMULATIONS = (
    Simulation(
        name="pdebench/advection",
        equation="u_t + 0.4 u_x = 0 on [0, 1), periodic, to t = 2",
        numerics="exact: the initial field evaluated at x - 0.4 t, at the centres of 1024 cells",
        layout=tensor_layout(("tensor",), "x", 0.0, 1.0, NUM_POINTS, 2.0, ADVECTION_FRAMES, beta=ADVECTION_BETA),
        batch=16,
        solve=_solve_advection,
    ),
    Simulation(
        name="pdebench/burgers",
        equation="u_t + (u^2 / 2)_x = (1 / pi) u_xx on [0, 1), periodic, to t = 2",
        numerics=f"{_NUMERICS}, {BURGERS_STEPS} steps of {INTERVAL / BURGERS_STEPS:g} a frame",
        layout=tensor_layout(("tensor",), "x", 0.0, 1.0, NUM_POINTS, 2.0, BURGERS_FRAMES, Nu=BURGERS_NU),
        batch=8,
        solve=_solve_burgers,
    ),
    Simulation(
        name="pdebench/diffusion_reaction_1d",
        equation="u_t = 0.5 u_xx + u (1 - u) on [0, 1), periodic, to t = 1; initial fields scaled to [0, 1]",
        numerics=f"{_NUMERICS}, {GROWTH_STEPS} steps a frame",
        layout=tensor_layout(("tensor",), "x", 0.0, 1.0, NUM_POINTS, 1.0, GROWTH_FRAMES, Nu=GROWTH_NU, rho=GROWTH_RHO),
        batch=8,
        solve=_solve_growth,
    ),
)
