"""Darcy flow in two dimensions: -div(a grad u) = 0.1 on the unit square, u = 0 on its edge.

The permeability a is 1 where five random bumps sum to more than a threshold, else 0.1. PDEBench's flow converges to u.
"""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np

from orca_ray.simulation.simulation import Array, Fields, TensorLayout, centres, described

SOURCE = 0.1
HIGH_PERMEABILITY, LOW_PERMEABILITY = 1.0, 0.1
NUM_CELLS = 128
_BUMPS, _WIDEST = 5, 0.5


def solve_steady(permeability: Array, source: Array | float) -> Array:
    """Solve -div(a grad u) = source; return u [N, N] at the centres of the N x N cells of the unit square.

    ``permeability`` [N, N] is a, which is positive; ``source`` is [N, N] or a number. The method is five-point finite
    volumes of second order.
    """
    from scipy.sparse import diags_array
    from scipy.sparse.linalg import splu

    n = len(permeability)
    diagonal = np.zeros((n, n))
    faces = []
    for axis in (0, 1):
        a, total = (np.moveaxis(array, axis, 0) for array in (permeability, diagonal))
        through = 2 * a[1:] * a[:-1] / (a[1:] + a[:-1])
        total[1:] += through
        total[:-1] += through
        total[0] += 2 * a[0]
        total[-1] += 2 * a[-1]
        faces.append(-through)
    below, beside = faces[0].ravel(), np.pad(faces[1].T, ((0, 0), (0, 1))).ravel()[:-1]  # no face between two rows
    matrix = diags_array([diagonal.ravel(), below, below, beside, beside], offsets=[0, n, -n, 1, -1], format="csc")
    matrix.eliminate_zeros()
    right = np.broadcast_to(np.asarray(source, dtype=float) / n**2, (n, n))
    factors = splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    solution: Array = factors.solve(right.ravel())
    return solution.reshape(n, n)


@cache
def threshold() -> float:
    """Return the sum of bumps of `sample_permeability`, averaged over the square and over all possible samples."""
    # The mean of a bump of one width is the square of an integral with a closed form; widths are averaged numerically.
    widths = _WIDEST * (np.arange(2000) + 0.5) / 2000
    line = [math.sqrt(math.pi * s) * math.erf(s**-0.5) + s * math.expm1(-1 / s) for s in widths]
    return _BUMPS * float(np.mean(np.square(line)))


def sample_permeability(rng: np.random.Generator, x: Array) -> Array:
    """Sample a permeability [X, X] on the grid ``x`` times ``x``: high where random bumps sum to over `threshold`."""
    bumps = np.zeros((len(x), len(x)))
    for _ in range(_BUMPS):
        centre_x, centre_y = rng.uniform(0, 1, size=2)
        width = _WIDEST * rng.uniform(1e-6, 1)
        bumps += np.exp(-((x[:, None] - centre_x) ** 2) / width) * np.exp(-((x[None, :] - centre_y) ** 2) / width)
    return np.where(bumps > threshold(), HIGH_PERMEABILITY, LOW_PERMEABILITY)


def _solve(rngs: Sequence[np.random.Generator]) -> Fields:
    x = centres(0.0, 1.0, NUM_CELLS)
    permeabilities = [sample_permeability(rng, x) for rng in rngs]
    solutions = [solve_steady(permeability, SOURCE)[None] for permeability in permeabilities]
    return {"nu": np.stack(permeabilities).astype(np.float32), "tensor": np.stack(solutions).astype(np.float32)}


_LAYOUT = TensorLayout(
    datasets={"nu": (NUM_CELLS, NUM_CELLS), "tensor": (1, NUM_CELLS, NUM_CELLS)},
    coordinates=dict.fromkeys(("x-coordinate", "y-coordinate"), centres(0.0, 1.0, NUM_CELLS)),
    attributes={"beta": SOURCE},
)
SIMULATION = described("darcy", _LAYOUT, _solve)
