"""Readers of HDF5 files and of MATLAB files, which are HDF5 from version 7.3 on."""

import contextlib
import functools
import math
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from orca_ray.data import cache, mat5
from orca_ray.data.gzip_stream import damaged, refuse_growth
from orca_ray.data.rows import Array
from orca_ray.errors import UserError, shorten


@contextlib.contextmanager
def open_hdf5(path: Path, required: Sequence[str] = ()) -> Iterator[Any]:
    """Yield an ``h5py.File`` opened for reading; errors of h5py inside the block become a `UserError`.

    ``required`` keys (``"tensor"``, ``"0001/data"``) must exist.

    Raises UserError for a file that is not HDF5 or ends early, a missing key, any soft or external link, any data set
    with data in another file or that declares more than 200 times its stored bytes, and a chunk that cannot be read.
    """
    import h5py

    cache.open_file(path).close()  # h5py would report a file without read permission as not HDF5
    try:
        if not h5py.is_hdf5(path):
            raise UserError(f"{path}: expected an HDF5 file, found something else; fetch the file again")
        with h5py.File(path, "r") as file:
            if link := file.visititems_links(_not_hard):  # before any member is opened: its data may be in a pipe
                raise UserError(f"{path}, {link}")
            file.visititems(functools.partial(_refuse_growth, path))
            for key in required:
                _refuse_key(path, file, key)
            yield file
    except (UserError, MemoryError):
        raise
    except Exception as error:
        # h5py has no exception class for damaged files.
        *_, (last, _) = traceback.walk_tb(error.__traceback__)
        if not str(last.f_globals.get("__name__", "")).startswith("h5py"):
            raise
        raise damaged(path, "a whole HDF5 file", error) from error


def _not_hard(name: str, link: Any) -> str | None:
    """Return the error for a soft or external link; h5py's visitor of links cannot pass an exception on."""
    import h5py

    if isinstance(link, h5py.HardLink):
        return None
    return f"{shorten(name)}: expected data in the file itself, found a link ({type(link).__name__})"


def _refuse_growth(path: Path, name: str, found: Any) -> None:
    import h5py

    if not isinstance(found, h5py.Dataset):
        return
    if found.external or found.is_virtual:
        raise UserError(f"{path}, {shorten(name)}: expected data in the file itself, found data kept in another file")
    if found.shape:
        chunk = math.prod(found.chunks or ()) * found.dtype.itemsize
        refuse_growth(path, max(found.nbytes, chunk), found.id.get_storage_size(), f", {name}")


@dataclass(frozen=True)
class MatArray:
    """An array of a MATLAB file, with its axes in the order in which MATLAB shows them.

    A slice ``array[a:b]`` along the first axis loads an array [b − a, ...]. Each slice may read the whole variable: use
    large slices. A compressed variable of over 64 MiB is decompressed to a temporary file in the cache directory.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[slice], Array]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> Array:
        return self.read(rows)


def read_mat(path: Path, name: str) -> MatArray:
    """Return the numeric array ``name`` of a MATLAB file; its values are loaded when it is sliced.

    Raises UserError for a damaged file, for a file of another kind, and if ``name`` is missing or not numeric.
    """
    import h5py

    cache.refuse_special(path)
    if not h5py.is_hdf5(path):
        return _from_mat5(path, name)

    def read(rows: slice) -> Array:
        with open_hdf5(path, (name,)) as file:
            return np.asarray(file[name][..., rows]).T

    with open_hdf5(path, (name,)) as file:
        found = file[name]
        if not isinstance(found, h5py.Dataset) or found.dtype.kind not in "biuf" or not found.shape:
            raise UserError(f"{path}, {name}: expected a numeric array, found {found!r}")
        return MatArray(path, name, tuple(found.shape[::-1]), found.dtype, read)


def _from_mat5(path: Path, name: str) -> MatArray:
    variables = mat5.variables(path)
    if name not in variables:
        raise UserError(f"{path}: expected an array {name!r}, found {shorten(', '.join(variables)) or 'none'}")
    variable = variables[name]
    if not variable.is_numeric:
        raise UserError(f"{path}, {name}: expected a numeric array, found MATLAB's {variable.kind!r}")
    dtype = np.dtype(variable.kind)
    load = functools.cache(lambda: mat5.read(path, variable))
    return MatArray(path, name, variable.shape, dtype, lambda rows: load()[rows].astype(dtype))


def _refuse_key(path: Path, file: Any, key: str) -> None:
    import h5py

    names = key.strip("/").split("/")
    found = file
    for depth, name in enumerate(names):
        if not isinstance(found, h5py.Group) or name not in found:
            inside = f" in {'/'.join(names[:depth])}" * bool(depth)
            held = shorten(", ".join(map(str, list(found)[:20]))) if isinstance(found, h5py.Group) else "an array"
            raise UserError(f"{path}: expected key {key!r}, found no {name!r}{inside} but {held or 'nothing'}")
        found = found[name]
    if not isinstance(found, h5py.Dataset | h5py.Group):
        raise UserError(f"{path}, {key}: expected data, found {type(found).__name__}")
