"""Solvers of partial differential equations, and the fields of the benchmark
``cabinet`` that they make.

`examples/pdebench` makes files in PDEBench's layout with the same solvers.
"""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def generators(seed: int, start: int, stop: int) -> list[np.random.Generator]:
    """Return one independent random generator per sample from ``start`` to ``stop``
    (exclusive).
    """
    return [np.random.default_rng([seed, index]) for index in range(start, stop)]


def centres(low: float, high: float, num_cells: int) -> Array:
    """Return the centres [num_cells] of ``num_cells`` equal cells of the interval from
    ``low`` to ``high``.
    """
    return low + (high - low) / num_cells * (
        np.arange(num_cells, dtype=np.float64) + 0.5
    )
