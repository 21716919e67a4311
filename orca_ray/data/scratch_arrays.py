"""Arrays that are memory-mapped, from their own file or from a nameless scratch file that a stream is copied to."""

import math
import tempfile
from typing import IO, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from orca_ray.data import cache

Array = npt.NDArray[Any]
Order = Literal["C", "F"]

IN_MEMORY = 64 * 2**20
"""Arrays up to this size are read into memory, larger ones are copied to the disk."""
_COPY_BYTES = 4 * 2**20


class Readable(Protocol):
    """A stream that is read from start to end."""

    def read(self, size: int, /) -> bytes: ...  # noqa: D102


def from_stream(stream: Readable, dtype: np.dtype[Any], shape: tuple[int, ...], order: Order) -> Array:
    """Return the next array of a stream, read-only: in memory, or mapped from a nameless file in the cache directory.

    The stream is read to its end, which verifies its checksum.

    Raises:
        EOFError: the stream ends within the array.
        UserError: the disk is full.
    """
    num_bytes = math.prod(shape) * dtype.itemsize
    if num_bytes <= IN_MEMORY:
        content = stream.read(num_bytes)
        _refuse_short(num_bytes, len(content))
        _drain(stream)
        return np.ndarray(shape, dtype, buffer=content, order=order)
    directory = cache.home()
    with cache.disk_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        cache.require_space(directory, num_bytes)
        with tempfile.TemporaryFile(dir=directory) as file:
            left = num_bytes
            while block := stream.read(min(left, _COPY_BYTES)):
                file.write(block)
                left -= len(block)
            _refuse_short(num_bytes, num_bytes - left)
            _drain(stream)
            file.flush()
            return mapped(file, dtype, shape, order)


def mapped(file: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, ...], order: Order, start: int = 0) -> Array:
    """Return the array at byte ``start`` of a file, memory-mapped and read-only; the file may be closed."""
    if not math.prod(shape) * dtype.itemsize:  # an empty map is an error
        return np.empty(shape, dtype)
    return np.memmap(file, dtype, "r", start, shape, order)


def _refuse_short(expected: int, found: int) -> None:
    if found < expected:
        raise EOFError(f"{expected} bytes expected, {found} found")


def _drain(stream: Readable) -> None:
    while stream.read(_COPY_BYTES):
        pass
