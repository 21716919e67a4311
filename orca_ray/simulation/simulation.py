"""The class `Simulation` (each module here declares a ``SIMULATION``), look-up by name, random generators, grids."""

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
    numerics: str
    """Texts that describe the equation with its parameters, and the numerical method; stored in the file."""
    layout: Layout
    batch: int
    """Number of samples that are solved together, chosen to fit the cache of a processor core."""
    solve: Callable[[Sequence[np.random.Generator]], Fields]

    @property
    def file(self) -> str:
        """Name of the file, as in PDEBench."""
        return PDEBENCH_FILES[self.name.split("/")[1]]

    def batches(self, samples: int) -> list[Bounds]:
        """Return the bounds of all batches of a file with ``samples`` samples."""
        return [(start, min(start + self.batch, samples)) for start in range(0, samples, self.batch)]


def simulations() -> Mapping[str, Simulation]:
    """Return all simulations of this package by name."""
    return declared(Simulation, "SIMULATION", modules(simulation))


def get_simulation(name: str) -> Simulation:
    """Return the simulation of a task; raises UserError for an unknown name."""
    return lookup("task to generate", name, simulations())


def generators(seed: int, start: int, stop: int) -> list[np.random.Generator]:
    """Return one independent random generator per sample from ``start`` to ``stop`` (exclusive)."""
    return [np.random.default_rng([seed, index]) for index in range(start, stop)]


def centres(low: float, high: float, num_cells: int) -> Array:
    """Return the centres [num_cells] of ``num_cells`` equal cells of the interval from ``low`` to ``high``."""
    return low + (high - low) / num_cells * (np.arange(num_cells, dtype=np.float64) + 0.5)


def frame_times(end: float, num_frames: int) -> Array:
    """Return ``num_frames`` equally spaced times from 0 to ``end``."""
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
    """Return a layout of datasets ``names`` on equal cells from ``low`` to ``high`` along each of ``axes`` ("xy").

    As in PDEBench's files, the time coordinate has one value more than there are frames.
    """
    coordinates = {f"{axis}-coordinate": centres(low, high, num_cells) for axis in axes}
    coordinates["t-coordinate"] = frame_times(end * num_frames / (num_frames - 1), num_frames + 1)
    datasets = dict.fromkeys(names, (num_frames, *[num_cells] * len(axes)))
    return TensorLayout(datasets=datasets, coordinates=coordinates, attributes=attributes)


def group_layout(
    channels: int, axes: str, low: float, high: float, num_cells: int, end: float, num_frames: int, **options: Any
) -> GroupLayout:
    """Return a layout on equal cells along ``axes``, e.g. "xy"; ``options`` are further fields of `GroupLayout`."""
    grid = {axis: centres(low, high, num_cells) for axis in axes} | {"t": frame_times(end, num_frames)}
    return GroupLayout(shape=(num_frames, *[num_cells] * len(axes), channels), grid=grid, **options)
