"""The class `Simulation`, look-up by name, and common building blocks: random generators, grids, coordinates.

To add a simulation, add a module that defines ``SIMULATION`` to this package.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from orca_ray import simulation
from orca_ray.data.pdebench_files import FILES
from orca_ray.discovery import declared, modules
from orca_ray.errors import unknown_name
from orca_ray.simulation.files import Layout

Array = npt.NDArray[np.float64]
Bounds = tuple[int, int]
"""Index of the first sample of a batch, and the index after its last sample."""
Fields = dict[str, npt.NDArray[np.float32]]
"""Values [B, *shape of one sample] by dataset name, for a batch of B samples."""


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """Generator of the data of one task: equation, numerical method and file layout.

    `solve` gets one random generator per sample, so a sample depends only on seed and sample number (up to rounding).
    """

    name: str
    """Name of the PDEBench task whose data are imitated, e.g. ``pdebench/darcy``."""
    equation: str
    """Text that describes the equation and its parameters; stored in the file."""
    numerics: str
    """Text that describes the numerical method; stored in the file."""
    layout: Layout
    batch: int
    """Number of samples that are solved together, chosen to fit the cache of a processor core."""
    solve: Callable[[Sequence[np.random.Generator]], Fields]
    """Function that returns the fields of a batch, one sample per random generator."""

    @property
    def file(self) -> str:
        """Name of the file, as in PDEBench."""
        return FILES[self.name.split("/")[1]]

    def batches(self, samples: int) -> list[Bounds]:
        """Return the bounds of all batches of a file with ``samples`` samples."""
        return [(start, min(start + self.batch, samples)) for start in range(0, samples, self.batch)]


def simulations() -> Mapping[str, Simulation]:
    """Return all simulations of this package by name."""
    return declared(Simulation, "SIMULATION", modules(simulation))


def get_simulation(name: str) -> Simulation:
    """Return the simulation of a task; raises UserError for an unknown name."""
    known = simulations()
    if name not in known:
        raise unknown_name("task to generate", name, known)
    return known[name]


def reuse_freed_memory() -> None:
    """Make the C library keep and reuse freed memory blocks of up to 32 MB instead of returning them to the system.

    Otherwise, allocating temporary arrays takes three times as long as the arithmetic. In the GNU C library, freeing a
    large block (done here) raises the limit up to which blocks are kept; in other libraries, it may have no effect.
    """
    np.empty(31 << 17)


def generators(seed: int, start: int, stop: int) -> list[np.random.Generator]:
    """Return one random generator per sample from ``start`` to ``stop`` (exclusive), independent of each other."""
    return [np.random.default_rng([seed, index]) for index in range(start, stop)]


def centres(low: float, high: float, num_cells: int) -> Array:
    """Return the centres [num_cells] of ``num_cells`` equal cells of the interval from ``low`` to ``high``."""
    return low + (high - low) / num_cells * (np.arange(num_cells, dtype=np.float64) + 0.5)


def frame_times(end: float, num_frames: int) -> Array:
    """Return ``num_frames`` equally spaced times from 0 to ``end``."""
    return np.arange(num_frames, dtype=np.float64) * (end / (num_frames - 1))


def tensor_coordinates(
    axes: str, low: float, high: float, num_cells: int, end: float, num_frames: int
) -> dict[str, Array]:
    """Return the coordinate datasets of a `TensorLayout` with the given space axes, e.g. "xy", by name.

    As in PDEBench's files, the time coordinate has one value more than there are frames.
    """
    times = frame_times(end * num_frames / (num_frames - 1), num_frames + 1)
    return {f"{axis}-coordinate": centres(low, high, num_cells) for axis in axes} | {"t-coordinate": times}


def group_grid(axes: str, low: float, high: float, num_cells: int, end: float, num_frames: int) -> dict[str, Array]:
    """Return the grid datasets of a `GroupLayout` with the given space axes, e.g. "xy", by name."""
    return {axis: centres(low, high, num_cells) for axis in axes} | {"t": frame_times(end, num_frames)}
