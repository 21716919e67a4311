"""MATLAB files: numeric arrays of level 5 and of version 7.3; cells, structures and objects are not read."""

from pathlib import Path

import numpy as np

from orca_ray.data import cache
from orca_ray.data.hdf5 import open_hdf5
from orca_ray.data.mat import mat5_variables, read_mat
from orca_ray.data.rows import Array
from orca_ray.own_data._named import choose
from orca_ray.own_data.format import Format
from orca_ray.own_data.options import Options
from orca_ray.own_data.user_data import UserData


def _read(path: Path, options: Options, labelled: bool) -> UserData:
    shapes = {name: _column(shape) for name, shape in _shapes(path).items()}

    def read(name: str) -> Array:
        array = read_mat(path, name)
        cache.check_memory(float(np.prod(array.shape)) * 8, f"{path}, {name}", "store it as .npy or .h5")
        return array[slice(None)].reshape(shapes[name])

    return choose(str(path), shapes, read, options, labelled)


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    import h5py

    cache.check_special(path)
    if not h5py.is_hdf5(path):
        return {name: found.shape for name, found in mat5_variables(path).items() if found.is_numeric}
    with open_hdf5(path) as file:
        found = {name: item for name, item in file.items() if isinstance(item, h5py.Dataset)}
        return {name: tuple(item.shape[::-1]) for name, item in found.items() if item.dtype.kind in "biuf"}


def _column(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape without axes of length 1 that MATLAB adds to vectors: [1, N] and [N, 1] are N values."""
    return (max(shape),) if len(shape) == 2 and min(shape) == 1 else shape


FORMAT = Format("MATLAB file", (".mat",), _read)
