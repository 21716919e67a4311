"""Reader of numeric arrays in MATLAB files of level 5, which versions 5 to 7 write.

SciPy's reader crashes the process when a byte of such a file is wrong, and holds whole arrays in memory. This one
reads what a benchmark has, full numeric arrays. Source: "MAT-File Format", The MathWorks, chapter 1.
"""

import logging
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from orca_ray.data.gzip_stream import archive_errors
from orca_ray.data.spill import Order, Readable, kept, mapped

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]

_HEADER_BYTES = 128
_MATRIX, _COMPRESSED = 14, 15
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""Numpy's types by the format's, in which numbers are stored."""
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
"""Numpy's types by the format's classes, which MATLAB shows; numbers of any class are stored in the shortest type."""
_OTHER_CLASSES = {1: "cell", 2: "struct", 3: "object", 4: "char", 5: "sparse"}
_COMPLEX = 0x08
_MOST_HEADER_BYTES = 4096
"""Of the flags, the sizes of the axes or the name of a variable."""
_ORDER: Order = "F"


_FLAGS, _SIZES, _NAME = 6, 5, 1
"""Types of the elements that describe a variable, in this order."""
_MOST_AXES = 64
_COPY_BYTES = 2**16


class Variable(NamedTuple):
    """Where one array lies in a file, and what it is."""

    name: str
    kind: str
    """Numpy's type of the class that MATLAB shows; for what is not numeric, MATLAB's word."""
    shape: tuple[int, ...]
    stored: np.dtype[Any]
    packed: tuple[int, int] | None
    """Where its compressed bytes are, and how many; None where it is not compressed."""
    start: int
    """Byte at which its numbers begin, in the file or in what is unpacked."""

    @property
    def is_numeric(self) -> bool:
        """Whether it is a full array of real numbers, which can be read."""
        return self.kind in _CLASSES.values()


def variables(path: Path) -> dict[str, Variable]:
    """Return all variables of a file by name; only their headers are read. Raises UserError for a damaged file."""
    with archive_errors(path, "MATLAB file"), path.open("rb") as file:
        return {variable.name: variable for variable in _variables(file, path.stat().st_size)}


def read(path: Path, variable: Variable) -> Array:
    """Return the numbers as they are stored, read-only and mapped from the disk where there are many.

    Raises:
        UserError: for a damaged file, or a disk too full for what is compressed in it.
    """
    with archive_errors(path, "MATLAB file"), path.open("rb") as file:
        if variable.packed is None:
            return mapped(file, variable.stored, variable.shape, _ORDER, variable.start)
        logger.info("unpacking %s of %s", variable.name, path)
        stream = _Inflated(file, *variable.packed)
        stream.read(variable.start)
        return kept(stream, variable.stored, variable.shape, _ORDER)


class _Inflated:
    """What is compressed in a part of a file."""

    def __init__(self, file: IO[bytes], start: int, size: int) -> None:
        file.seek(start)
        self._file, self._left = file, size
        self._inflate = zlib.decompressobj()

    def read(self, size: int, /) -> bytes:
        parts: list[bytes] = []
        missing = size
        while missing and not self._inflate.eof:
            packed = self._inflate.unconsumed_tail
            if not packed:
                packed = self._file.read(min(self._left, _COPY_BYTES))
                self._left -= len(packed)
                if not packed:
                    raise EOFError("compressed data ends early")
            parts.append(self._inflate.decompress(packed, missing))
            missing -= len(parts[-1])
        return b"".join(parts)


class _Reader:
    """Gives elements of one variable, of one byte order, and knows where it is."""

    def __init__(self, stream: Readable, position: int, endian: str) -> None:
        self._stream, self._endian = stream, endian
        self.position = position

    def tag(self) -> tuple[int, int, bytes]:
        """Return type and length of the next element, and its content where it is short and within the tag itself."""
        content = self._exactly(8)
        kind, size = struct.unpack(f"{self._endian}II", content)
        if kind >> 16:
            kind, size = kind & 0xFFFF, kind >> 16
            if size > 4:
                raise ValueError(f"a short element of {size} bytes")
            self.position -= 4  # of its content
            return kind, size, content[4:]
        return kind, size, b""

    def element(self, expected: int) -> bytes:
        """Return the content of the next element, which describes a variable."""
        kind, size, content = self.tag()
        if kind != expected or size > _MOST_HEADER_BYTES:
            raise ValueError(f"an element of type {kind} and {size} bytes where type {expected} is due")
        if not content:
            return self._exactly(size + -size % 8)[:size]
        self.position += 4
        return content[:size]

    def numbers(self, code: str, content: bytes) -> list[int]:
        """Return the whole numbers of an element."""
        return [int(each) for each in np.frombuffer(content, f"{self._endian}{code}")]

    def stored_type(self, kind: int) -> np.dtype[Any]:
        """Return numpy's type of stored numbers."""
        if kind not in _STORED:
            raise ValueError(f"numbers of type {kind}")
        return np.dtype(f"{self._endian}{_STORED[kind]}")

    def _exactly(self, size: int) -> bytes:
        content = self._stream.read(size)
        self.position += len(content)
        if len(content) != size:
            raise EOFError(f"{size} bytes expected, {len(content)} found")
        return content


def _variables(file: IO[bytes], size: int) -> Iterator[Variable]:
    header = file.read(_HEADER_BYTES)
    endian = {b"IM": "<", b"MI": ">"}.get(header[126:128], "")
    if not endian or header[124:126] != struct.pack(f"{endian}H", 0x0100):
        raise ValueError("no header of level 5")
    position = _HEADER_BYTES
    while position < size:
        file.seek(position)
        kind, length, short = _Reader(file, position, endian).tag()
        start = position + 8
        position = start + length
        if kind not in (_MATRIX, _COMPRESSED) or short or position > size:
            raise ValueError(f"an element of type {kind} and {length} bytes at byte {start - 8} of {size}")
        if kind == _MATRIX:
            variable = _variable(_Reader(file, start, endian), None)
        else:
            reader = _Reader(_Inflated(file, start, length), 0, endian)
            variable = _variable(reader, (start, length)) if reader.tag()[0] == _MATRIX else None
        if variable is not None:
            yield variable


def _variable(reader: _Reader, packed: tuple[int, int] | None) -> Variable | None:
    """Read the header of a variable; None for what has another one (objects of classes, functions)."""
    flags = reader.numbers("u4", reader.element(_FLAGS))
    number = flags[0] & 0xFF
    if number not in _CLASSES and number not in _OTHER_CLASSES:
        return None
    shape = tuple(reader.numbers("i4", reader.element(_SIZES)))
    name = reader.element(_NAME).decode("latin1")
    kind = "complex" if flags[0] >> 8 & _COMPLEX else _CLASSES.get(number, _OTHER_CLASSES.get(number, ""))
    if kind not in _CLASSES.values():
        return Variable(name, kind, shape, np.dtype("V1"), packed, 0)
    code, length, _ = reader.tag()
    stored = reader.stored_type(code)
    if min(shape, default=-1) < 0 or len(shape) > _MOST_AXES or length != math.prod(shape) * stored.itemsize:
        raise ValueError(f"{length} bytes of {stored} for an array {name[:80]!r} of shape {list(shape)[:8]}")
    return Variable(name, kind, shape, stored, packed, reader.position)
