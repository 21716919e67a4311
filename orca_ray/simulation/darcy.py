"""Darcy flow in two dimensions.

The equation is -div(a grad u) = f on the unit square, with u = 0 on its edge.
"""

import numpy as np

from orca_ray.simulation import Array


def solve_steady(permeability: Array, source: Array | float) -> Array:
    """Solve -div(a grad u) = source.

    Return u [N, N] at the centres of the N x N cells of the unit square. At the edge of
    the square, u is 0.
    ``permeability`` [N, N] is a, which is positive; ``source`` is [N, N] or a number.
    The method is five-point finite volumes of second order.
    """
    from scipy.sparse import diags_array
    from scipy.sparse.linalg import splu

    n = len(permeability)
    diagonal = np.zeros((n, n))
    faces = []
    for axis in (0, 1):
        a, total = (np.moveaxis(array, axis, 0) for array in (permeability, diagonal))
        # The permeability of a face is the harmonic mean of those of its two cells.
        through = 2 * a[1:] * a[:-1] / (a[1:] + a[:-1])
        total[1:] += through
        total[:-1] += through
        # The edge, where u is 0, is only half a cell away from the centre of a cell.
        total[0] += 2 * a[0]
        total[-1] += 2 * a[-1]
        faces.append(-through)
    # no face between two rows
    below = faces[0].ravel()
    beside = np.pad(faces[1].T, ((0, 0), (0, 1))).ravel()[:-1]
    matrix = diags_array(
        [diagonal.ravel(), below, below, beside, beside],
        offsets=[0, n, -n, 1, -1],
        format="csc",
    )
    matrix.eliminate_zeros()
    right = np.broadcast_to(np.asarray(source, dtype=float) / n**2, (n, n))
    factors = splu(
        matrix,
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )
    solution: Array = factors.solve(right.ravel())
    return solution.reshape(n, n)
