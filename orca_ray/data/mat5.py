"""Reader of numeric arrays in MATLAB files of level 5, which versions 5 to 7 write.

SciPy's ``loadmat`` does not pass the hostile-file tests: one wrong byte of an uncompressed file ends the process with
a segmentation fault (SciPy 1.17), and it holds whole arrays in memory. Format: "MAT-File Format", The MathWorks,
chapter 1.
"""

import logging
import math
import struct
import zlib
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from orca_ray.data import cache
from orca_ray.data.gzip_stream import archive_errors, refuse_growth
from orca_ray.data.npy import from_stream, mapped
from orca_ray.data.rows import Array

logger = logging.getLogger(__name__)


_HEADER_BYTES = 128
_MATRIX, _COMPRESSED = 14, 15
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""NumPy types by the format's number types."""
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
"""NumPy types by the format's array classes; the numbers of any class are stored in the shortest type."""
_OTHER_CLASSES = {1: "cell", 2: "struct", 3: "object", 4: "char", 5: "sparse"}
_COMPLEX = 0x08
_FLAGS, _SIZES, _NAME = 6, 5, 1
"""Types of the elements that describe a variable, in this order."""
_MAX_ELEMENT_BYTES = 4096
_MAX_DESCRIPTION_BYTES = 3 * _MAX_ELEMENT_BYTES
_MAX_AXES = 64
_COPY_BYTES = 2**16


class Variable(NamedTuple):
    """Description and location of one array."""

    name: str
    kind: str
    """NumPy type of the class that MATLAB shows; MATLAB's own word where it is not numeric."""
    shape: tuple[int, ...]
    stored: np.dtype[Any]
    packed: tuple[int, int] | None
    """Position and number of its compressed bytes; None where it is not compressed."""
    start: int
    """Position of its numbers, in the file or in the decompressed bytes."""

    @property
    def is_numeric(self) -> bool:
        """Whether it is a full array of real numbers, which can be read."""
        return self.kind in _CLASSES.values()


def variables(path: Path) -> dict[str, Variable]:
    """Return all variables of a file by name, from their headers. Raises UserError for a damaged file."""
    with archive_errors(path, "MATLAB file"), cache.open_file(path) as file:
        found, size = {}, path.stat().st_size
        header = file.read(_HEADER_BYTES)
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
                raise ValueError(f"an element of type {kind} and {length} bytes at byte {start - 8} of {size}")
            if kind == _MATRIX:
                variable = _variable(_Header(file.read(min(length, _MAX_DESCRIPTION_BYTES)), endian), None, start)
            else:
                reader = _Header(_Inflated(file, start, length).read(_MAX_DESCRIPTION_BYTES), endian)
                variable = _variable(reader, (start, length), 0) if reader.tag()[0] == _MATRIX else None
            if variable is not None:
                found[variable.name] = variable
        return found


def read(path: Path, variable: Variable) -> Array:
    """Return the numbers as they are stored, read-only; large arrays are memory-mapped.

    Raises:
        UserError: the file is damaged, declares more than 200 times its compressed bytes, or the disk is full.
    """
    with archive_errors(path, "MATLAB file"), cache.open_file(path) as file:
        if variable.packed is None:
            return mapped(file, variable.stored, variable.shape, "F", variable.start)
        num_bytes = math.prod(variable.shape) * variable.stored.itemsize
        refuse_growth(path, num_bytes, variable.packed[1], f", {variable.name}")
        logger.info("unpacking %s of %s", variable.name, path)
        stream = _Inflated(file, *variable.packed)
        stream.read(variable.start)
        return from_stream(stream, variable.stored, variable.shape, "F")


class _Inflated:
    """Decompressed content of a part of a file."""

    def __init__(self, file: IO[bytes], start: int, size: int) -> None:
        file.seek(start)
        self._file, self._left = file, size
        self._inflate = zlib.decompressobj()

    def read(self, size: int, /) -> bytes:
        blocks: list[bytes] = []
        missing = size
        while missing and not self._inflate.eof:
            packed = self._inflate.unconsumed_tail
            if not packed:
                packed = self._file.read(min(self._left, _COPY_BYTES))
                self._left -= len(packed)
                if not packed:
                    raise EOFError("compressed data ends early")
            blocks.append(self._inflate.decompress(packed, missing))
            missing -= len(blocks[-1])
        return b"".join(blocks)


class _Header:
    """Reads the descriptive elements at the start of a variable."""

    def __init__(self, content: bytes, endian: str) -> None:
        self._content, self.endian, self.position = content, endian, 0

    def tag(self) -> tuple[int, int]:
        """Return type and length of the next element; a short one is stored inside the tag."""
        kind, size = struct.unpack_from(f"{self.endian}II", self._content, self.position)
        self.position += 8
        if kind >> 16:
            kind, size = kind & 0xFFFF, kind >> 16
            if size > 4:
                raise ValueError(f"a short element of {size} bytes")
            self.position -= 4
        return kind, size

    def element(self, expected: int) -> bytes:
        """Return the content of the next element."""
        kind, size = self.tag()
        if kind != expected or size > _MAX_ELEMENT_BYTES:
            raise ValueError(f"an element of type {kind} and {size} bytes where type {expected} is due")
        (content,) = struct.unpack_from(f"{size}s", self._content, self.position)
        self.position += size + -(self.position + size) % 8
        return bytes(content)


def _variable(reader: _Header, packed: tuple[int, int] | None, start: int) -> Variable | None:
    """Read the header of a variable; None for one of another structure (objects of classes, functions)."""
    flags = int(np.frombuffer(reader.element(_FLAGS), f"{reader.endian}u4")[0])
    number = flags & 0xFF
    if number not in _CLASSES and number not in _OTHER_CLASSES:
        return None
    shape = tuple(np.frombuffer(reader.element(_SIZES), f"{reader.endian}i4").tolist())
    name = reader.element(_NAME).decode("latin1")
    if number in _OTHER_CLASSES or flags >> 8 & _COMPLEX:
        kind = "complex" if flags >> 8 & _COMPLEX else _OTHER_CLASSES[number]
        return Variable(name, kind, shape, np.dtype("V1"), packed, 0)
    code, length = reader.tag()
    if code not in _STORED:
        raise ValueError(f"numbers of type {code}")
    stored = np.dtype(f"{reader.endian}{_STORED[code]}")
    if min(shape, default=-1) < 0 or len(shape) > _MAX_AXES or length != math.prod(shape) * stored.itemsize:
        raise ValueError(f"{length} bytes of {stored} for an array {name[:80]!r} of shape {list(shape)[:8]}")
    return Variable(name, _CLASSES[number], shape, stored, packed, start + reader.position)
