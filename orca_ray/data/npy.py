"""Readers of NumPy's ``.npy`` and ``.npz`` files; large arrays are memory-mapped.

``numpy.load`` is not used: it accepts a file that is longer than its array, loads whole
members of an archive into memory, and unpickles objects. This module uses NumPy's
public header readers and ``numpy.memmap``.
"""

import contextlib
import io
import math
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal, NamedTuple

import numpy as np

from orca_ray.data import cache, safe_pickle
from orca_ray.data.archives import archive_errors, check_growth, damaged, drain
from orca_ray.data.rows import Array
from orca_ray.errors import UserError, shorten

Order = Literal["C", "F"]

IN_MEMORY = 64 * 2**20
"""Largest size in bytes of an array that `from_stream` returns in memory.

A larger one is mapped from a temporary file.
"""
_COPY_BYTES = 4 * 2**20
"""Size of the blocks that are copied at once."""
_MAX_HEADER_BYTES = 2**14
"""Number of bytes that are read as a header; NumPy's limit is 10,000 characters."""

_KINDS = {
    "b": "booleans",
    "i": "integers",
    "u": "unsigned integers",
    "f": "floating point",
    "c": "complex numbers",
    "S": "bytes",
    "U": "text",
    "O": "objects",
}
"""Names of the kinds of NumPy's types that are read."""
_NOT_OBJECTS = "".join(_KINDS).replace("O", "")
"""Letters of the kinds that need no pickle."""


class _Header(NamedTuple):
    """Description of an array at the start of a file."""

    shape: tuple[int, ...]
    order: Order
    dtype: np.dtype[Any]


def read_npy(
    path: Path, *, ndim: int | None = None, kind: str = "", pickled: bool = False
) -> Any:
    """Return the array of a ``.npy`` file, memory-mapped and read-only.

    ``ndim`` is the required number of axes (None: any), ``kind`` the allowed letters of
    ``numpy.dtype.kind`` ("": all but objects). ``pickled`` also allows an array of
    objects, which is read into memory. A dict that was saved with ``numpy.save`` is
    returned as an array of objects with shape ().

    Raises UserError if kind or number of axes are not as required, or the file is not
    as long as its header declares.
    """
    with cache.open_file(path) as stream:
        header = _read_header(stream, str(path))
        if header.dtype.kind != "O":
            start = stream.tell()
            num_bytes = path.stat().st_size - start
            _check_unfit(str(path), header, num_bytes, kind, pickled)
            array = map_array(stream, header.dtype, header.shape, header.order, start)
        elif pickled:
            array = _read_objects(path, stream, header.shape)
        else:
            raise UserError(
                f"{path}: expected an array of numbers, found pickled objects, which"
                " are not read here"
            )
    if ndim is not None and array.ndim != ndim:
        raise UserError(
            f"{path}: expected an array of {ndim} axes, found shape {list(array.shape)}"
        )
    return array


def _read_objects(path: Path, stream: BinaryIO, shape: tuple[int, ...]) -> Array:
    """Return an array of objects of this shape from the rest of a stream."""
    array: Array = safe_pickle.load(stream, str(path))
    actual: object = type(array).__name__
    if isinstance(array, np.ndarray):
        actual = list(array.shape)
    if actual != list(shape):
        raise UserError(
            f"{path}: expected an array of objects of shape {list(shape)}, found"
            f" {actual}"
        )
    return array


class Npz(Mapping[str, Array]):
    """Mapping from names to the arrays of a ``.npz`` archive, read-only.

    The keys are ``names`` (None: all arrays). Each ``npz[name]`` reads the array again
    and verifies its checksum: store the result. An array of over 64 MiB is
    memory-mapped from a temporary file in the cache directory. The constructor raises
    UserError if the file is no archive or lacks a name. ``npz[name]`` raises UserError
    if the array is damaged, pickled, or exceeds 200 times its stored bytes.
    """

    def __init__(self, path: Path, names: Sequence[str] | None = None) -> None:
        self._path = path
        with self._archive() as archive:
            stored_names = [
                name.removesuffix(".npy")
                for name in archive.namelist()
                if name.endswith(".npy")
            ]
        for name, count in Counter(stored_names).items():
            if count > 1:
                raise UserError(
                    f"{path}: expected arrays of different names, found two named"
                    f" {name!r}"
                )
        self._names = tuple(stored_names if names is None else names)
        for name in self._names:
            if name not in stored_names:
                raise UserError(
                    f"{path}: expected an array {name!r}, found"
                    f" {', '.join(stored_names)[:300] or 'none'}"
                )

    @contextlib.contextmanager
    def _archive(self) -> Iterator[zipfile.ZipFile]:
        """Yield the archive, open for reading; its errors become UserErrors."""
        with (
            cache.open_file(self._path) as file,
            archive_errors(self._path, "archive (.npz)"),
            zipfile.ZipFile(file) as archive,
        ):
            yield archive

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of all arrays without reading the arrays.

        Raises UserError for a damaged header.
        """
        shapes = {}
        with self._archive() as archive:
            for name in self._names:
                with archive.open(f"{name}.npy") as stream:
                    header = _read_header(stream, f"{self._path}, {name}")
                    shapes[name] = header.shape
        return shapes

    def __getitem__(self, name: str) -> Array:
        if name not in self._names:
            raise KeyError(name)
        path = self._path
        with self._archive() as archive:
            member = archive.getinfo(f"{name}.npy")
            stored = min(member.compress_size, path.stat().st_size)
            check_growth(path, member.file_size, stored, f", {name}")
            with archive.open(member) as stream:
                where = f"{path}, {name}"
                header = _read_header(stream, where)
                _check_unfit(where, header, member.file_size - stream.tell())
                return from_stream(stream, header.dtype, header.shape, header.order)


def _read_header(stream: IO[bytes], where: str) -> _Header:
    """Return the header of a ``.npy`` file; the stream stands after it."""
    start = io.BytesIO(stream.read(_MAX_HEADER_BYTES))
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    try:
        shape, fortran, dtype = readers[np.lib.format.read_magic(start)](start)
        if not dtype.itemsize:
            raise ValueError(f"shape {shape} of {dtype}")
        # NumPy refuses too many axes and negative sizes.
        shape = np.broadcast_to(np.empty((), dtype), shape).shape
    # The header is Python text, and a damaged one fails in the tokenizer, the parser or
    # NumPy in a dozen ways; the parser raises MemoryError for deep nesting.
    except Exception as error:
        raise damaged(where, "the header of a .npy file", error) from error
    stream.seek(start.tell())
    return _Header(shape, "F" if fortran else "C", dtype)


def _check_unfit(
    where: str, header: _Header, num_bytes: int, kind: str = "", pickled: bool = False
) -> None:
    """Raise UserError unless an array's kind is allowed and its size is ``num_bytes``.

    The arguments are those of `read_npy`.
    """
    allowed = kind or _NOT_OBJECTS
    dtype = header.dtype
    if dtype.kind not in allowed or dtype.kind not in _KINDS:
        names = [_KINDS[letter] for letter in allowed]
        if pickled:
            names.append("pickled objects")
        raise UserError(
            f"{where}: expected an array of {', '.join(names)}, found {shorten(dtype)}"
        )
    expected = math.prod(header.shape) * dtype.itemsize
    if expected != num_bytes:
        declared = f"{expected} bytes for shape {list(header.shape)} {dtype}"
        raise UserError(
            f"{where}: expected {declared}, found {num_bytes}; the file is truncated or"
            " damaged, fetch it again"
        )


def from_stream(
    stream: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, ...], order: Order
) -> Array:
    """Return an array read from the rest of a stream, read-only.

    An array of over 64 MiB is memory-mapped from a temporary file in the cache
    directory. The stream is read to its end, which verifies its checksum. Raises
    EOFError if it ends within the array, and UserError if the disk is full.
    """
    num_bytes = math.prod(shape) * dtype.itemsize
    directory = cache.home()
    is_large = num_bytes > IN_MEMORY
    with cache.disk_errors(directory):
        if is_large:
            directory.mkdir(parents=True, exist_ok=True)
            cache.check_space(directory, num_bytes)
        with (
            tempfile.TemporaryFile(dir=directory) if is_large else io.BytesIO()
        ) as file:
            while block := stream.read(min(num_bytes - file.tell(), _COPY_BYTES)):
                file.write(block)
            if file.tell() < num_bytes:
                raise EOFError(f"{num_bytes} bytes expected, {file.tell()} found")
            drain(stream)
            file.flush()
            if isinstance(file, io.BytesIO):
                return np.ndarray(shape, dtype, buffer=file.getvalue(), order=order)
            return map_array(file, dtype, shape, order)


def map_array(
    file: IO[bytes],
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    order: Order,
    start: int = 0,
) -> Array:
    """Return the array at byte ``start`` of a file, memory-mapped and read-only.

    The file may be closed afterwards.
    """
    if not math.prod(shape) * dtype.itemsize:  # numpy.memmap rejects an empty array
        return np.empty(shape, dtype)
    return np.memmap(file, dtype, "r", start, shape, order)
