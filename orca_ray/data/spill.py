"""Arrays that are mapped from a file, and those that are unpacked from a stream without filling the memory."""

import math
import tempfile
from typing import IO, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from orca_ray.data import cache

Array = npt.NDArray[Any]
Order = Literal["C", "F"]

IN_MEMORY = 64 * 2**20
"""Arrays up to this size are read into memory; larger ones go by way of the disk."""
_COPY_BYTES = 4 * 2**20


class Readable(Protocol):
    """A stream to read from front to end."""

    def read(self, size: int, /) -> bytes:
        """Return the next ``size`` bytes, fewer before the end, none at it."""
        ...


def kept(stream: Readable, dtype: np.dtype[Any], shape: tuple[int, ...], order: Order) -> Array:
    """Return the array that a stream holds next, read-only, in memory or mapped from a nameless file in the cache.

    The stream is read to its end, where its checksum is.

    Raises:
        EOFError: when the stream ends within the array.
        UserError: when the disk is full.
    """
    num_bytes = math.prod(shape) * dtype.itemsize
    if num_bytes <= IN_MEMORY:
        content = stream.read(num_bytes)
        if len(content) < num_bytes:
            raise EOFError(f"{num_bytes} bytes expected, {len(content)} found")
        _drain(stream)
        return np.ndarray(shape, dtype, buffer=content, order=order)
    directory = cache.home()
    with cache.disk_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        cache.require_space(directory, num_bytes)
        with tempfile.TemporaryFile(dir=directory) as file:
            left = num_bytes
            while part := stream.read(min(left, _COPY_BYTES)):
                file.write(part)
                left -= len(part)
            if left:
                raise EOFError(f"{num_bytes} bytes expected, {num_bytes - left} found")
            _drain(stream)
            file.flush()
            return mapped(file, dtype, shape, order)


def mapped(file: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, ...], order: Order, start: int = 0) -> Array:
    """Return an array of a file that begins at byte ``start``, memory-mapped and read-only; the file may be closed."""
    if not math.prod(shape) * dtype.itemsize:  # nothing to map
        return np.empty(shape, dtype)
    return np.memmap(file, dtype, "r", start, shape, order)


def _drain(stream: Readable) -> None:
    while stream.read(_COPY_BYTES):
        pass
