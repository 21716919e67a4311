"""What a simulation is: one equation with its numerics, and the layout of the file that holds its solutions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from orca_ray.data.pdebench_files import FILES
from orca_ray.simulation.files import Layout

Array = npt.NDArray[np.float64]
Fields = dict[str, npt.NDArray[np.float32]]
"""Dataset name to its values, [B, *shape of a sample]."""


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """One task's data generator.

    A sample depends on the seed and its own number alone: `solve` is given one generator of random numbers a sample and
    draws from nothing else, so that neither the batch nor the number of workers changes what it is (up to rounding).
    """

    name: str
    """Of the task it imitates, ``pdebench/task``."""
    equation: str
    """What is solved, with its parameters; goes into the file."""
    numerics: str
    """How; goes into the file."""
    layout: Layout
    batch: int
    """Samples solved at once: what makes the best use of a core's cache."""
    solve: Callable[[Sequence[np.random.Generator]], Fields]

    @property
    def file(self) -> str:
        """PDEBench's name of the file."""
        return FILES[self.name.split("/")[1]]


def keep_memory() -> None:
    """Make the C library keep what numpy frees, up to 32 MB, instead of fetching it from the system again and again.

    For temporary arrays of 128 kB and more that costs three times as much as the arithmetic. The GNU library takes the
    largest block freed so far as a sign of what to keep; others do as they please.
    """
    block = np.empty(31 << 17)
    del block


def generators(seed: int, start: int, stop: int) -> list[np.random.Generator]:
    """Return the random numbers of samples ``start`` to ``stop`` (exclusive), each independent of all others."""
    return [np.random.default_rng([seed, index]) for index in range(start, stop)]


def centres(low: float, high: float, num_cells: int) -> Array:
    """Return the centres of equal cells, [num_cells]."""
    cell = (high - low) / num_cells
    return low + cell * (np.arange(num_cells, dtype=np.float64) + 0.5)


def frame_times(end: float, num_frames: int) -> Array:
    """Return the times of the frames, from 0 to ``end``, [num_frames]."""
    times: Array = np.arange(num_frames, dtype=np.float64)
    times *= end / (num_frames - 1)
    return times
