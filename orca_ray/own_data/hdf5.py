"""HDF5 files: data sets are read row by row when they are selected."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from orca_ray.data.hdf5 import open_hdf5
from orca_ray.data.rows import Array, RowIndex
from orca_ray.own_data._named import choose
from orca_ray.own_data.format import Format
from orca_ray.own_data.options import Options
from orca_ray.own_data.user_data import UserData


@dataclass(frozen=True)
class Hdf5Rows:
    """The rows of one data set, read from the file when they are selected."""

    path: Path
    key: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: RowIndex) -> Array:
        """Return the selected rows; h5py requires ascending indices, each once."""
        rows, place = np.unique(np.arange(len(self))[part], return_inverse=True)
        if not len(rows):
            return np.empty((0, *self.shape[1:]), self.dtype)
        dense = len(rows) == rows[-1] - rows[0] + 1
        with open_hdf5(self.path) as file:
            return np.asarray(file[self.key][slice(rows[0], rows[-1] + 1) if dense else rows])[place]


def _read(path: Path, options: Options, labelled: bool) -> UserData:
    import h5py

    shapes: dict[str, tuple[int, ...]] = {}
    types: dict[str, np.dtype[Any]] = {}

    def visit(name: str, found: Any) -> None:
        if isinstance(found, h5py.Dataset) and found.shape:
            shapes[name], types[name] = tuple(found.shape), found.dtype

    with open_hdf5(path) as file:
        file.visititems(visit)

    def rows(name: str) -> Any:
        if h5py.check_string_dtype(types[name]) is None:
            return Hdf5Rows(path, name, shapes[name], types[name])
        with open_hdf5(path) as file:
            return np.asarray(file[name].asstr()[:], dtype="U")

    return choose(str(path), shapes, rows, options, labelled)


FORMAT = Format("HDF5 file", (".h5", ".hdf5", ".hdf"), _read)
