"""Reader of HDF5 files from untrusted sources."""

import contextlib
import functools
import logging
import math
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from orca_ray.data import cache
from orca_ray.data.gzip_stream import check_growth, damaged
from orca_ray.errors import UserError, shorten

logger = logging.getLogger(__name__)


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
            file.visititems(functools.partial(_check_growth, path))
            for key in required:
                _check_key(path, file, key)
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


def _check_growth(path: Path, name: str, found: Any) -> None:
    import h5py

    if not isinstance(found, h5py.Dataset):
        return
    if found.external or found.is_virtual:
        raise UserError(f"{path}, {shorten(name)}: expected data in the file itself, found data kept in another file")
    if found.shape:
        chunk = math.prod(found.chunks or ()) * found.dtype.itemsize
        check_growth(path, max(found.nbytes, chunk), found.id.get_storage_size(), f", {name}")


def _check_key(path: Path, file: Any, key: str) -> None:
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
