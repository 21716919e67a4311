"""The three layouts of PDEBench's HDF5 files. They read a single frame of several samples at a time.

Letters: N samples of a file, b that are read, T frames, C channels. ``grid`` has one or two spatial axes.
"""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from orca_ray.data import readers
from orca_ray.data.rows import Array
from orca_ray.errors import UserError

Hdf5 = Any
"""Type of an h5py file, group or data set; not named, because h5py is imported only when a file is opened."""


class Simulations(ABC):
    """The simulations in one open file; there is a subclass for each layout of files.

    The constructor raises UserError if the file lacks data sets of the layout or has another grid.
    """

    num_samples: int
    num_frames: int
    channels: int
    chunk_rows: int = 1
    """Number of samples in one chunk of the HDF5 file; h5py always reads whole chunks."""

    def __init__(self, file: Hdf5, path: Path, grid: tuple[int, ...]) -> None:
        self.path = path
        self.grid = grid
        self._file = file

    @abstractmethod
    def read(self, rows: slice, frame: int) -> Array:
        """Return a frame of the samples ``rows``, float32 [b, C, *grid]; UserError for damaged or not finite data."""

    def _dataset(self, name: str, expected: tuple[int | None, ...]) -> Hdf5:
        with self._damage(name):
            found = self._file.get(name)
        if getattr(found, "shape", None) is None:  # missing, a group, or an empty data set
            held = ", ".join(sorted(self._file)[:10]) or "nothing"
            raise UserError(f"{self.path}: expected a data set {name!r}, found none; the file holds {held}")
        if found.dtype.kind != "f":
            raise UserError(f"{self.path}, {name}: expected floating-point numbers, found {found.dtype}")
        readers.check_shape(self.path, name, found, expected)
        return found

    def _values(self, name: str, dataset: Hdf5, part: Any, place: str) -> Array:
        """Return ``dataset[part]`` float32; errors also name ``place``, because their indices are those in ``part``."""
        with self._damage(name):
            values = np.asarray(dataset[part])
        readers.check_not_finite(self.path, f"{name} ({place})", values)
        return values.astype(np.float32, copy=False)

    @contextlib.contextmanager
    def _damage(self, name: str) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:  # h5py raises them for a truncated or damaged chunk
            raise UserError(
                f"{self.path}, {name}: expected readable HDF5 data, found a damaged block ({error}); get the file again"
            ) from error


Layout = Callable[[Hdf5, Path, tuple[int, ...]], Simulations]
"""Function that opens the simulations of a file, given the open file, its path and the expected grid."""


class Stacked(Simulations):
    """Layout with one data set [N, T, *grid] for each of ``fields``, which become the channels."""

    def __init__(self, file: Hdf5, path: Path, grid: tuple[int, ...], *, fields: tuple[str, ...]) -> None:
        super().__init__(file, path, grid)
        first = self._dataset(fields[0], (None, None, *grid))
        self.num_samples, self.num_frames = first.shape[:2]
        self.channels = len(fields)
        self.chunk_rows = _chunk_rows(first)
        self._fields = {name: self._dataset(name, first.shape) for name in fields}

    def read(self, rows: slice, frame: int) -> Array:
        place = f"frame {frame} from sample {rows.start} on"
        return np.stack([self._values(name, each, (rows, frame), place) for name, each in self._fields.items()], axis=1)


class Seeds(Simulations):
    """Layout with one group for each simulation, named by its seed, with ``data`` [T, *grid, C]; sorted by name."""

    def __init__(self, file: Hdf5, path: Path, grid: tuple[int, ...], *, channels: int) -> None:
        super().__init__(file, path, grid)
        self._names = sorted(file)
        self.num_samples, self.channels = len(self._names), channels
        self.num_frames = self._seed(self._names[0], None).shape[0] if self._names else 0

    def read(self, rows: slice, frame: int) -> Array:
        fields = np.empty((len(self._names[rows]), self.channels, *self.grid), np.float32)
        for field, name in zip(fields, self._names[rows], strict=True):
            found = self._values(f"{name}/data", self._seed(name, self.num_frames), frame, f"frame {frame}")
            field[...] = np.moveaxis(found, -1, 0)
        return fields

    def _seed(self, name: str, num_frames: int | None) -> Hdf5:
        return self._dataset(f"{name}/data", (num_frames, *self.grid, self.channels))


class Steady(Simulations):
    """Layout with a coefficient ``nu`` [N, *grid], frame 0, and a steady state ``tensor`` [N, 1, *grid], frame 1."""

    num_frames = 2
    channels = 1

    def __init__(self, file: Hdf5, path: Path, grid: tuple[int, ...]) -> None:
        super().__init__(file, path, grid)
        coefficient = self._dataset("nu", (None, *grid))
        self.num_samples = coefficient.shape[0]
        solution = self._dataset("tensor", (self.num_samples, 1, *grid))
        self.chunk_rows = _chunk_rows(solution)
        self._frames = (("nu", coefficient), ("tensor", solution))

    def read(self, rows: slice, frame: int) -> Array:
        return self._values(*self._frames[frame], rows, f"from sample {rows.start} on").reshape(-1, 1, *self.grid)


def _chunk_rows(dataset: Hdf5) -> int:
    return int(dataset.chunks[0]) if dataset.chunks else 1
