"""Gzip files as streams, and the size limit and the error messages that all compressed formats share."""

import contextlib
import errno
import gzip
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from orca_ray.data import cache
from orca_ray.errors import UserError, shorten

_MAX_RATIO = 200
"""Maximum ratio of unpacked to stored bytes. Our benchmarks' data reach 10; a decompression bomb exceeds 1000."""
_ANY_RATIO_BYTES = 256 * 2**20
"""Data of up to this unpacked size may have any ratio."""
_COPY_BYTES = 2**20


class Readable(Protocol):
    """A stream that is read from start to end."""

    def read(self, size: int, /) -> bytes: ...  # noqa: D102


class DamagedFile(UserError):
    """Raised for a compressed file that cannot be read to its end, and for an archive without an expected path."""


class _BoundedGzip(io.RawIOBase):
    """Decompressed content of a gzip file; raises UserError when it exceeds `max_bytes` of the file's size."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path, self._left = path, max_bytes(cache.check_special(path))
        self._packed = cache.open_file(path)
        self._content = gzip.GzipFile(fileobj=self._packed)
        self.packed_bytes = self._packed.tell

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        with archive_errors(self._path, "gzip file"):
            # At most _COPY_BYTES: gzip decompresses all bytes requested into memory before they are copied.
            found = self._content.read(min(len(view), _COPY_BYTES))
        view[: len(found)] = found
        self._left -= len(found)
        if self._left < 0:
            raise swollen(self._path)
        return len(found)

    def close(self) -> None:
        if not self.closed:
            self._content.close()
            self._packed.close()
        super().close()


def open_gzip(path: Path) -> io.BufferedReader:
    """Return the decompressed content of a ``.gz`` file as a stream that cannot seek; the caller closes it.

    Raises UserError, here or on a later read, if the file is not gzip, ends early, has a wrong checksum, or
    decompresses to more than 200 times its size and more than 256 MiB.
    """
    with cache.open_file(path) as stream:
        magic = stream.read(2)
    if magic != b"\x1f\x8b":
        raise UserError(f"{path}: expected a gzip file, found one that begins with {magic!r}; fetch the file again")
    return io.BufferedReader(_BoundedGzip(path), _COPY_BYTES)


def max_bytes(size: int) -> int:
    """Return how many bytes ``size`` stored bytes may decompress to: 200 times as many, at least 256 MiB."""
    return max(_ANY_RATIO_BYTES, _MAX_RATIO * size)


def check_growth(path: Path, declared: int, stored: int, where: str = "") -> None:
    """Raise UserError if ``declared`` bytes exceed `max_bytes` of ``stored`` bytes; the message adds ``where``."""
    if declared > max_bytes(stored):
        raise swollen(path, f"{where}: {declared} bytes are declared, {stored} are stored, {max_bytes(stored)} allowed")


def drain(stream: Readable) -> None:
    """Read the rest of a stream and discard it, so that the checksum at its end is verified."""
    while stream.read(_COPY_BYTES):
        pass


def swollen(path: Path, where: str = "") -> UserError:
    """Return the error for a file that decompresses to more than `max_bytes`; ``where`` is added to its message."""
    return UserError(f"{path}: unfolds to more than {_MAX_RATIO} times its size{where}; it may be an attack")


@contextlib.contextmanager
def archive_errors(path: Path, expected: str) -> Iterator[None]:
    """Turn what readers raise for damaged files, of a dozen undocumented types, into a `UserError`."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        # bz2 raises OSError without a number; EINVAL: a zip file points to a position before its start.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise damaged(path, f"a whole {expected}", error) from error


def damaged(where: Path | str, expected: str, error: Exception) -> DamagedFile:
    """Build the error for a file that a reader fails on."""
    found = f"found it damaged or another file ({type(error).__name__}: {shorten(str(error))})"
    return DamagedFile(f"{where}: expected {expected}, {found}; fetch the file again")
