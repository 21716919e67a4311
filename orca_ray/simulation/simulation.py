"""Simulations by name (the ``SIMULATION`` of each module here), and their random generators, grids, coordinates."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from orca_ray import simulation
from orca_ray.data.raw import PDEBENCH_FILES
from orca_ray.discovery import declared, modules
from orca_ray.errors import lookup
from orca_ray.simulation.files import GroupLayout, Layout, TensorLayout

Array = npt.NDArray[np.float64]
Bounds = tuple[int, int]
"""First sample of a batch, and the one after its last."""
Fields = dict[str, npt.NDArray[np.float32]]
"""Values by dataset name, [B, *shape of a sample]."""


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """Data generator of one task: an equation, its numerics and the file layout.

    A sample depends only on the seed and its own number (up to rounding): `solve` gets a random generator per sample.
    """

    name: str
    """Name of the imitated task, ``pdebench/task``."""
    equation: str
    numerics: str
    """Equation with its parameters, and numerical method; stored in the file."""
    layout: Layout
    batch: int
    """Samples solved together; chosen for a core's cache."""
    solve: Callable[[Sequence[np.random.Generator]], Fields]

    @property
    def file(self) -> str:
        """File name in PDEBench."""
        return PDEBENCH_FILES[self.name.split("/")[1]]

    def batches(self, samples: int) -> list[Bounds]:
        """Return the batches of a file of ``samples`` samples."""
        return [(start, min(start + self.batch, samples)) for start in range(0, samples, self.batch)]


def simulations() -> Mapping[str, Simulation]:
    """Return all simulations of this package by name."""
    return declared(Simulation, "SIMULATION", modules(simulation))


def get_simulation(name: str) -> Simulation:
    """Return the simulation of a task; raises UserError for an unknown name."""
    return lookup("task to generate", name, simulations())


def generators(seed: int, start: int, stop: int) -> list[np.random.Generator]:
    """Return independent random generators for the samples ``start`` to ``stop`` (exclusive)."""
    return [np.random.default_rng([seed, index]) for index in range(start, stop)]


def centres(low: float, high: float, num_cells: int) -> Array:
    """Return the centres of equal cells, [num_cells]."""
    return low + (high - low) / num_cells * (np.arange(num_cells, dtype=np.float64) + 0.5)


def frame_times(end: float, num_frames: int) -> Array:
    """Return the times of the frames, from 0 to ``end``, [num_frames]."""
    return np.arange(num_frames, dtype=np.float64) * (end / (num_frames - 1))


def tensor_layout(
    names: Iterable[str],
    axes: str,
    low: float,
    high: float,
    num_cells: int,
    end: float,
    num_frames: int,
    **attributes: float,
) -> TensorLayout:
    """Return the layout of datasets ``names`` on equal cells along ``axes``, e.g. "xy".

    As in PDEBench's files, there is one time more than there are frames.
    """
    coordinates = {f"{axis}-coordinate": centres(low, high, num_cells) for axis in axes}
    coordinates["t-coordinate"] = frame_times(end * num_frames / (num_frames - 1), num_frames + 1)
    datasets = dict.fromkeys(names, (num_frames, *[num_cells] * len(axes)))
    return TensorLayout(datasets=datasets, coordinates=coordinates, attributes=attributes)


def group_layout(
    channels: int, axes: str, low: float, high: float, num_cells: int, end: float, num_frames: int, **options: Any
) -> GroupLayout:
    """Return the layout of samples on equal cells along ``axes``, e.g. "xy"; ``options`` are those of `GroupLayout`."""
    grid = {axis: centres(low, high, num_cells) for axis in axes} | {"t": frame_times(end, num_frames)}
    return GroupLayout(shape=(num_frames, *[num_cells] * len(axes), channels), grid=grid, **options)
