"""The class `Simulation`, and the layout of PDEBench's HDF5 files.

Each module of this package declares a ``SIMULATION``.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from orca_ray.data.raw import PDEBENCH_FILES
from orca_ray.discovery import declared, modules, tables
from orca_ray.errors import lookup
from orca_ray.simulation import Array, centres, pdebench

if TYPE_CHECKING:
    import h5py

Fields = dict[str, npt.NDArray[np.float32]]
"""Values [B, *shape of one sample] by dataset name, for a batch of B samples."""


@dataclass(frozen=True, kw_only=True)
class TensorLayout:
    """Layout with one HDF5 dataset per quantity and one per coordinate.

    Samples lie along the first axis of a quantity.
    """

    datasets: Mapping[str, tuple[int, ...]]
    """Shape of one sample of each quantity, by dataset name."""
    coordinates: Mapping[str, Array]
    attributes: Mapping[str, float]
    """Parameters of the equation, stored as attributes of the HDF5 root."""

    def num_bytes(self, samples: int) -> int:
        """Return the approximate size of a file of ``samples``, without compression."""
        num_values = sum(int(np.prod(shape)) for shape in self.datasets.values())
        return samples * 4 * num_values

    def create(self, file: "h5py.File", samples: int) -> None:
        """Create the datasets for ``samples``, and write coordinates and attributes."""
        for name, shape in self.datasets.items():
            file.create_dataset(name, shape=(samples, *shape), dtype=np.float32)
        for name, values in self.coordinates.items():
            file.create_dataset(name, data=values.astype(np.float32))
        file.attrs.update(self.attributes)

    def write(
        self,
        file: "h5py.File",
        start: int,
        fields: Mapping[str, npt.NDArray[np.float32]],
    ) -> None:
        """Write the ``fields`` of successive samples, numbered from ``start``."""
        for name, values in fields.items():
            file[name][start : start + len(values)] = values


@dataclass(frozen=True)
class Simulation:
    """Generator of the data of one task: equation, numerical method and file layout.

    `solve` gets one random generator per sample, so a sample depends only on seed and
    sample number (up to rounding).
    """

    name: str
    """Name of the PDEBench task whose data are imitated, e.g. ``pdebench/darcy``."""
    layout: TensorLayout
    solve: Callable[[Sequence[np.random.Generator]], Fields]
    equation: str
    numerics: str
    batch: int
    """Number of samples that are solved together."""

    @property
    def file(self) -> str:
        """Name of the file, as in PDEBench."""
        return PDEBENCH_FILES[self.name.split("/")[1]]

    def batches(self, samples: int) -> list[tuple[int, int]]:
        """Return the first sample of each batch, and the one after the last."""
        return [
            (start, min(start + self.batch, samples))
            for start in range(0, samples, self.batch)
        ]


def make_simulation(
    name: str,
    layout: TensorLayout,
    solve: Callable[[Sequence[np.random.Generator]], Fields],
) -> Simulation:
    """Return the simulation of the PDEBench task ``name``.

    ``simulations.toml`` has its texts and batch.
    """
    texts = tables(pdebench.__name__, "simulations.toml")[name]
    return Simulation(f"pdebench/{name}", layout, solve, **texts)


@cache
def simulations() -> Mapping[str, Simulation]:
    """Return all simulations by name."""
    return declared(Simulation, "SIMULATION", modules(pdebench))


def get_simulation(name: str) -> Simulation:
    """Return the simulation of a task; raises UserError for an unknown name."""
    return lookup("simulation", name, simulations())


@dataclass(frozen=True)
class Grid:
    """Equal cells along each axis, and equally spaced times from 0 to ``end``.

    The cells lie between ``low`` and ``high``.
    """

    low: float
    high: float
    num_cells: int
    end: float
    num_frames: int

    @property
    def x(self) -> Array:
        """The centres [num_cells] of the cells along an axis."""
        return centres(self.low, self.high, self.num_cells)

    @property
    def cell(self) -> float:
        """Length of a cell."""
        return (self.high - self.low) / self.num_cells

    @property
    def interval(self) -> float:
        """Time between two frames."""
        return self.end / (self.num_frames - 1)

    @property
    def times(self) -> Array:
        """The times [num_frames] of the frames."""
        return np.arange(self.num_frames, dtype=np.float64) * self.interval

    def tensor_layout(
        self, names: Iterable[str], axes: str, **attributes: float
    ) -> TensorLayout:
        """Return a layout of datasets ``names`` on this grid along ``axes``, e.g. "xy".

        As in PDEBench's files, the time coordinate has one value more than there are
        frames.
        """
        # Up to rounding, this is end / (num_frames - 1).
        step = self.end * self.num_frames / (self.num_frames - 1) / self.num_frames
        coordinates = {f"{axis}-coordinate": self.x for axis in axes}
        coordinates["t-coordinate"] = np.arange(self.num_frames + 1, dtype=float) * step
        shape = (self.num_frames, *[self.num_cells] * len(axes))
        return TensorLayout(
            datasets=dict.fromkeys(names, shape),
            coordinates=coordinates,
            attributes=attributes,
        )
