"""Darcy flow in two dimensions: -div(a grad u) = 0.1 on the unit square.

u is 0 on the edge. The permeability a is 1 where five random bumps sum to more than a
threshold, else 0.1. PDEBench's flow converges to u.
"""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np

from orca_ray.simulation import Array, centres
from orca_ray.simulation.darcy import solve_steady
from orca_ray.simulation.pdebench.simulation import (
    Fields,
    TensorLayout,
    make_simulation,
)

SOURCE = 0.1
"""Right-hand side of the equation."""
HIGH_PERMEABILITY = 1.0
"""Permeability where the bumps sum to more than the threshold."""
LOW_PERMEABILITY = 0.1
"""Permeability elsewhere."""
NUM_CELLS = 128
"""Number of cells along an axis."""
_BUMPS = 5
"""Number of random bumps."""
_WIDEST = 0.5
"""Largest width of a bump."""


@cache
def threshold() -> float:
    """Return the sum of bumps, averaged over the square and over all samples.

    The samples are those of `sample_permeability`.
    """
    # The mean of a bump of one width is the square of an integral with a closed form;
    # widths are averaged numerically.
    widths = _WIDEST * (np.arange(2000) + 0.5) / 2000
    line = [
        math.sqrt(math.pi * s) * math.erf(s**-0.5) + s * math.expm1(-1 / s)
        for s in widths
    ]
    return _BUMPS * float(np.mean(np.square(line)))


def sample_permeability(rng: np.random.Generator, x: Array) -> Array:
    """Sample a permeability [X, X] on the grid ``x`` times ``x``.

    It is high where random bumps sum to over `threshold`.
    """
    bumps = np.zeros((len(x), len(x)))
    for _ in range(_BUMPS):
        centre_x, centre_y = rng.uniform(0, 1, size=2)
        width = _WIDEST * rng.uniform(1e-6, 1)
        along_x = np.exp(-((x[:, None] - centre_x) ** 2) / width)
        along_y = np.exp(-((x[None, :] - centre_y) ** 2) / width)
        bumps += along_x * along_y
    return np.where(bumps > threshold(), HIGH_PERMEABILITY, LOW_PERMEABILITY)


def _solve(rngs: Sequence[np.random.Generator]) -> Fields:
    """Return permeabilities and solutions of random samples, one for each generator."""
    x = centres(0.0, 1.0, NUM_CELLS)
    permeabilities = [sample_permeability(rng, x) for rng in rngs]
    solutions = [
        solve_steady(permeability, SOURCE)[None] for permeability in permeabilities
    ]
    return {
        "nu": np.stack(permeabilities).astype(np.float32),
        "tensor": np.stack(solutions).astype(np.float32),
    }


_LAYOUT = TensorLayout(
    datasets={"nu": (NUM_CELLS, NUM_CELLS), "tensor": (1, NUM_CELLS, NUM_CELLS)},
    coordinates=dict.fromkeys(
        ("x-coordinate", "y-coordinate"), centres(0.0, 1.0, NUM_CELLS)
    ),
    attributes={"beta": SOURCE},
)
SIMULATION = make_simulation("darcy", _LAYOUT, _solve)
