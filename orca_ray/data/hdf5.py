"""Readers of HDF5 files and of MATLAB's, which are HDF5 from version 7.3 on."""

import contextlib
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from orca_ray.data import cache, mat5
from orca_ray.errors import UserError

Array = npt.NDArray[Any]


@contextlib.contextmanager
def open_hdf5(path: Path, required: Sequence[str] = ()) -> Iterator[Any]:
    """Give an ``h5py.File``, open for reading; what fails in reading from it is a `UserError`, too.

    Args:
        path: of the file.
        required: keys that it must have (``"tensor"``, ``"0001/data"``). They must lie in the file itself: links to
            other files are refused.

    Raises:
        UserError: for a file that is not HDF5 or ends early, a key that is missing, or a chunk that cannot be read.
    """
    import h5py

    if not path.is_file():
        raise UserError(f"cannot read {path}: no such file")
    with cache.read_errors(path), path.open("rb"):  # h5py takes what may not be read for another kind of file
        pass
    with _hdf5_errors(path):
        if not h5py.is_hdf5(path):
            raise UserError(f"{path}: expected an HDF5 file, found something else; fetch the file again")
        try:
            file = h5py.File(path, "r")
        except OSError as error:
            raise _damaged(path, error) from error
        with file:
            for key in required:
                _refuse_key(path, file, key)
            yield file


def read_mat(path: Path, name: str) -> "MatArray":
    """Return a reader of one numeric array of a MATLAB file: ``.shape``, ``.dtype`` and slices ``[a:b]``.

    Raises:
        UserError: for a file of another kind or one that is damaged, or a name that is missing or not numeric.
    """
    import h5py

    if not path.is_file():
        raise UserError(f"cannot read {path}: no such file")
    return _Hdf5Mat(path, name) if h5py.is_hdf5(path) else _OldMat(path, name)


class MatArray:
    """An array of a MATLAB file, its axes in the order in which MATLAB shows them.

    A slice ``[a:b]`` along the first axis gives an array [b − a, ...], and only that is in memory. But MATLAB stores
    the first axis innermost: take large slices, for each goes through the whole variable. One of versions 6 and 7 that
    is compressed and larger than 64 MB is unpacked by the first slice, into a nameless file in the cache directory that
    lives as long as this object (Darcy flow: up to 1.45 GB a variable).
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: slice) -> Array:
        raise NotImplementedError


class _Hdf5Mat(MatArray):
    def __init__(self, path: Path, name: str) -> None:
        import h5py

        self.path, self.name = path, name
        with open_hdf5(path, (name,)) as file:
            found = file[name]
            if not isinstance(found, h5py.Dataset) or found.dtype.kind not in "biuf" or not found.shape:
                raise UserError(f"{path}, {name}: expected a numeric array, found {found!r}")
            self.shape, self.dtype = tuple(found.shape[::-1]), found.dtype

    def __getitem__(self, part: slice) -> Array:
        with open_hdf5(self.path, (self.name,)) as file:
            return np.asarray(file[self.name][..., part]).T


class _OldMat(MatArray):
    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self._array: Array | None = None
        held = mat5.variables(path)
        if name not in held:
            raise UserError(f"{path}: expected an array {name!r}, found {', '.join(held)[:300] or 'none'}")
        self._variable = held[name]
        self.shape = self._variable.shape
        if not self._variable.is_numeric:
            raise UserError(f"{path}, {name}: expected a numeric array, found MATLAB's {self._variable.kind!r}")
        self.dtype = np.dtype(self._variable.kind)

    def __getitem__(self, part: slice) -> Array:
        if self._array is None:
            self._array = mat5.read(self.path, self._variable)
        return self._array[part].astype(self.dtype)


def _refuse_key(path: Path, file: Any, key: str) -> None:
    import h5py

    parts = key.strip("/").split("/")
    group = file
    for depth, part in enumerate(parts):
        if not isinstance(group, h5py.Group) or part not in group:
            inside = f" in {'/'.join(parts[:depth])}" * bool(depth)
            found = ", ".join(map(str, list(group)[:20])) if isinstance(group, h5py.Group) else "an array"
            raise UserError(f"{path}: expected key {key!r}, found no {part!r}{inside} but {found or 'nothing'}")
        if isinstance(group.get(part, getlink=True), h5py.ExternalLink):
            raise UserError(f"{path}, {key}: expected data in the file itself, found a link to another file")
        group = group[part]
    if not isinstance(group, h5py.Dataset | h5py.Group):
        raise UserError(f"{path}, {key}: expected data, found {type(group).__name__}")
    if isinstance(group, h5py.Dataset) and (group.external or group.is_virtual):
        raise UserError(f"{path}, {key}: expected data in the file itself, found data kept in another file")


@contextlib.contextmanager
def _hdf5_errors(path: Path) -> Iterator[None]:
    """Turn what h5py raises for damaged files into a `UserError`; it has no class of its own for that."""
    try:
        yield
    except UserError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        if not _raised_by_h5py(error):
            raise
        raise _damaged(path, error) from error


def _raised_by_h5py(error: Exception) -> bool:
    *_, (last, _) = traceback.walk_tb(error.__traceback__)
    return str(last.f_globals.get("__name__", "")).startswith("h5py")


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path}: expected a whole HDF5 file, found one that ends early or is damaged ({str(error)[:200]}); fetch the "
        "file again"
    )
