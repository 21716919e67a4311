"""Readers of MATLAB files from untrusted sources.

MATLAB files are HDF5 from version 7.3 on. MATLAB versions 5 to 7 write the format
"level 5". SciPy's ``loadmat`` is not used for level 5, because it fails our tests with
damaged files: one wrong byte in an uncompressed file ends the process with a
segmentation fault (SciPy 1.17). It also loads whole arrays into memory. Format:
"MAT-File Format", The MathWorks, chapter 1.
"""

import functools
import logging
import math
import struct
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from orca_ray.data import cache
from orca_ray.data.archives import (
    archive_errors,
    check_growth,
)
from orca_ray.data.hdf5_process import Hdf5Process, is_hdf5
from orca_ray.data.npy import from_stream, map_array
from orca_ray.data.rows import Array, LazyRows, RowIndex
from orca_ray.errors import UserError, shorten

logger = logging.getLogger(__name__)

_HEADER_BYTES = 128
"""Length of the header of a MATLAB file of level 5."""
_MATRIX = 14
"""Type of an element that is a variable."""
_COMPRESSED = 15
"""Type of an element that is a compressed variable."""
_STORED = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}
"""NumPy type of each number type in the file format, in which numbers are stored."""
_CLASSES = {
    6: "f8",
    7: "f4",
    8: "i1",
    9: "u1",
    10: "i2",
    11: "u2",
    12: "i4",
    13: "u4",
    14: "i8",
    15: "u8",
}
"""NumPy type of each array class in the file format (the type that MATLAB shows).

Stored types may be shorter.
"""
_OTHER_CLASSES = {1: "cell", 2: "struct", 3: "object", 4: "char", 5: "sparse"}
"""Array classes that are not read."""
_COMPLEX = 0x08
"""Bit of the flags that marks a complex array."""
_FLAGS = 6
"""Type of the first element of a variable, its flags."""
_SIZES = 5
"""Type of the second element of a variable, its shape."""
_NAME = 1
"""Type of the third element of a variable, its name."""
_MAX_ELEMENT_BYTES = 4096
"""Largest size of the element with the flags, shape or name of a variable."""
_MAX_DESCRIPTION_BYTES = 3 * _MAX_ELEMENT_BYTES
"""Largest size of the flags, shape and name of a variable together."""
_MAX_AXES = 64
"""Largest number of axes of an array; NumPy's limit."""


def read_mat(path: Path, name: str, file: Hdf5Process | None = None) -> LazyRows:
    """Return the numeric array ``name`` of a MATLAB file, with MATLAB's order of axes.

    A slice ``array[a:b]`` along the first axis loads an array [b − a, ...]. Each slice
    may read the whole variable: use large slices. A compressed variable of over 64 MiB
    is decompressed to a temporary file in the cache directory. ``file`` is the reader
    of a file of version 7.3, if there is one already.

    Raises UserError for a damaged file, for a file of another kind, and if ``name`` is
    missing or not numeric.
    """
    if file is None and not is_hdf5(path):
        return _rows_of_mat5(path, name)
    file = file or Hdf5Process(path)
    stored = file.describe(name)
    if stored.dtype.kind not in "biuf" or not stored.shape:
        raise UserError(
            f"{path}, {name}: expected a numeric array, found {stored.description}"
        )
    read_selection = file.open_rows(name)

    def read(rows: RowIndex) -> Array:
        return read_selection((..., rows)).T

    return LazyRows(stored.shape[::-1], stored.dtype, read)


def _rows_of_mat5(path: Path, name: str) -> LazyRows:
    """Return the numeric array ``name`` of a file of level 5."""
    variables = mat5_variables(path)
    if name not in variables:
        raise UserError(
            f"{path}: expected an array {name!r}, found"
            f" {shorten(', '.join(variables)) or 'none'}"
        )
    variable = variables[name]
    if not variable.is_numeric:
        raise UserError(
            f"{path}, {name}: expected a numeric array, found MATLAB's"
            f" {variable.kind!r}"
        )
    load = functools.cache(lambda: read_mat5(path, variable))
    dtype = np.dtype(variable.kind)
    return LazyRows(variable.shape, dtype, lambda rows: load()[rows].astype(dtype))


class Variable(NamedTuple):
    """Description of one array of a MATLAB file, with the place of its numbers."""

    name: str
    kind: str
    """NumPy type that MATLAB shows, e.g. "f8".

    For an array that is not of real numbers, it is a word such as "cell".
    """
    shape: tuple[int, ...]
    stored: np.dtype[Any]
    """Type in which the numbers are stored."""
    packed: tuple[int, int] | None
    """Position and length of the compressed bytes; None: it is not compressed."""
    start: int
    """Position of the first number in the file.

    For a compressed variable, it is the position in the decompressed bytes.
    """

    @property
    def is_numeric(self) -> bool:
        """Whether the variable is a dense array of real numbers.

        `read_mat5` reads no other variable.
        """
        return self.kind in _CLASSES.values()


def mat5_variables(path: Path) -> dict[str, Variable]:
    """Return all variables of a MATLAB 5 to 7 file by name; only headers are read.

    Raises UserError for a damaged file.
    """
    with archive_errors(path, "MATLAB file"), cache.open_file(path) as file:
        variables = {}
        size = path.stat().st_size
        header = file.read(_HEADER_BYTES)
        # The header ends with the version and a mark of the byte order.
        endian = {b"IM": "<", b"MI": ">"}.get(header[126:128], "")
        if not endian or header[124:126] != struct.pack(f"{endian}H", 0x0100):
            raise ValueError("no header of level 5")
        position = _HEADER_BYTES
        while position < size:
            file.seek(position)
            kind, length = struct.unpack(f"{endian}II", file.read(8))
            start = position + 8
            position = start + length
            if kind not in (_MATRIX, _COMPRESSED) or position > size:
                raise ValueError(
                    f"an element of type {kind} and {length} bytes at byte {start - 8}"
                    f" of {size}"
                )
            variable = _read_variable(file, kind, endian, start, length)
            if variable is not None:
                variables[variable.name] = variable
        return variables


def _read_variable(
    file: IO[bytes], kind: int, endian: str, start: int, length: int
) -> Variable | None:
    """Read the header of an element of ``length`` bytes; None if it is no variable."""
    if kind == _MATRIX:
        description = file.read(min(length, _MAX_DESCRIPTION_BYTES))
        return _variable(_Header(description, endian), None, start)
    description = _open_inflated(file, start, length).read(_MAX_DESCRIPTION_BYTES)
    header = _Header(description, endian)
    inner_kind, _ = header.tag()
    if inner_kind != _MATRIX:
        return None
    return _variable(header, (start, length), 0)


def read_mat5(path: Path, variable: Variable) -> Array:
    """Return the array of a numeric variable in its stored type, read-only.

    A large array is memory-mapped. Raises UserError if the file is damaged, the array
    exceeds 200 times its compressed bytes, or the disk is full.
    """
    with archive_errors(path, "MATLAB file"), cache.open_file(path) as file:
        if variable.packed is None:
            return map_array(file, variable.stored, variable.shape, "F", variable.start)
        num_bytes = math.prod(variable.shape) * variable.stored.itemsize
        check_growth(path, num_bytes, variable.packed[1], f", {variable.name}")
        logger.info("unpacking %s of %s", variable.name, path)
        stream = _open_inflated(file, *variable.packed)
        stream.read(variable.start)
        return from_stream(stream, variable.stored, variable.shape, "F")


def _open_inflated(file: IO[bytes], start: int, size: int) -> Any:
    """Return a stream that decompresses the ``size`` bytes from ``start`` on.

    The bytes are in zlib format.
    """
    import pyarrow as pa

    return pa.CompressedInputStream(
        pa.PythonFile(file, mode="r").get_stream(start, size), "gzip"
    )


class _Header:
    """Reader of the elements at the start of a variable, one after the other.

    ``endian`` is the byte order, "<" or ">".
    """

    def __init__(self, content: bytes, endian: str) -> None:
        self._content = content
        self.endian = endian
        self.position = 0

    def tag(self) -> tuple[int, int]:
        """Return type and length of the next element.

        An element of up to four bytes is stored inside its tag.
        """
        kind, size = struct.unpack_from(
            f"{self.endian}II", self._content, self.position
        )
        self.position += 8
        # The upper half of the type is the size of a short element, else 0.
        short_size = kind >> 16
        if not short_size:
            return kind, size
        if short_size > 4:
            raise ValueError(f"a short element of {short_size} bytes")
        self.position -= 4
        return kind & 0xFFFF, short_size

    def element(self, expected: int) -> bytes:
        """Return the content of the next element.

        Raises ValueError if the element is not of the type ``expected``.
        """
        kind, size = self.tag()
        if kind != expected or size > _MAX_ELEMENT_BYTES:
            raise ValueError(
                f"an element of type {kind} and {size} bytes where type {expected}"
                " is due"
            )
        (content,) = struct.unpack_from(f"{size}s", self._content, self.position)
        # Elements are padded to multiples of 8 bytes.
        self.position += size + -(self.position + size) % 8
        return bytes(content)


def _variable(
    header: _Header, packed: tuple[int, int] | None, start: int
) -> Variable | None:
    """Return the variable that ``header`` describes.

    ``packed`` is the start and the size of the compressed bytes; None: the variable is
    not compressed. ``start`` is the position at which the header begins, in the file
    or in the decompressed bytes. Returns None for a variable of an unknown class
    (opaque objects, functions).
    """
    flags = int(np.frombuffer(header.element(_FLAGS), f"{header.endian}u4")[0])
    class_number = flags & 0xFF
    if class_number not in _CLASSES and class_number not in _OTHER_CLASSES:
        return None
    shape = tuple(np.frombuffer(header.element(_SIZES), f"{header.endian}i4").tolist())
    name = header.element(_NAME).decode("latin1")
    is_complex = flags >> 8 & _COMPLEX
    if is_complex or class_number in _OTHER_CLASSES:
        kind = "complex" if is_complex else _OTHER_CLASSES[class_number]
        return Variable(name, kind, shape, np.dtype("V1"), packed, 0)
    code, length = header.tag()
    if code not in _STORED:
        raise ValueError(f"numbers of type {code}")
    stored = np.dtype(f"{header.endian}{_STORED[code]}")
    is_possible = len(shape) <= _MAX_AXES and min(shape, default=-1) >= 0
    if not is_possible or length != math.prod(shape) * stored.itemsize:
        raise ValueError(
            f"{length} bytes of {stored} for an array {name[:80]!r} of shape"
            f" {list(shape)[:8]}"
        )
    return Variable(
        name, _CLASSES[class_number], shape, stored, packed, start + header.position
    )
