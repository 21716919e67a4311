"""Solvers of partial differential equations.

They make the fields of the benchmark ``cabinet``. `orca_ray.simulation.pdebench` makes
files in PDEBench's layout with the same solvers.
"""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def generators(seed: int, start: int, stop: int) -> list[np.random.Generator]:
    """Return one random generator for each sample.

    Samples are numbered from ``start`` to ``stop`` (exclusive). The generators are
    independent.
    """
    return [np.random.default_rng([seed, index]) for index in range(start, stop)]


def centres(low: float, high: float, num_cells: int) -> Array:
    """Return the centres [num_cells] of equal cells from ``low`` to ``high``."""
    return low + (high - low) / num_cells * (
        np.arange(num_cells, dtype=np.float64) + 0.5
    )
