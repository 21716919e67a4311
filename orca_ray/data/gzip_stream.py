"""Gzip files as streams that end in a readable error when they are damaged or swell."""

import contextlib
import errno
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from orca_ray.errors import UserError

_MOST_RATIO = 200
"""Of unpacked to packed bytes. Data of our benchmarks has up to ten; a bomb has a thousand and more."""
_ANY_RATIO_BYTES = 256 * 2**20
"""Up to here the ratio does not matter: small arrays of zeros are no attack."""
_COPY_BYTES = 2**20
_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zlib.error,
    struct.error,
    EOFError,
    OverflowError,
    RuntimeError,  # NotImplementedError, for compression that zipfile does not know
    ValueError,
)


def open_gzip(path: Path) -> BinaryIO:
    """Return the content of a ``.gz`` file as a stream to read from front to end; close it after use.

    Raises:
        UserError: here or in reading, for a file that is not gzip, ends early, has another checksum, or unfolds to more
            than 200 times its size (256 MB are always allowed).
    """
    size_of(path)
    with path.open("rb") as stream:
        magic = stream.read(2)
    if magic != b"\x1f\x8b":
        raise UserError(f"{path}: expected a gzip file, found one that begins with {magic!r}; fetch the file again")
    return cast(BinaryIO, GzipStream(path))


class GzipStream(io.BufferedReader):
    """The content of a gzip file; see `open_gzip`."""

    def __init__(self, path: Path) -> None:
        self._bounded = _Bounded(path)
        super().__init__(self._bounded, _COPY_BYTES)

    def packed_bytes(self) -> int:
        """How much of the file is read."""
        return self._bounded.packed_bytes()


class _Bounded(io.RawIOBase):
    """The content of a gzip file, as long as it does not swell."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path, self._most = path, most_bytes(size_of(path))
        self._packed = path.open("rb")
        self._content = gzip.GzipFile(fileobj=self._packed)
        self._done = 0

    def packed_bytes(self) -> int:
        return self._packed.tell()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        with archive_errors(self._path, "gzip file"):
            # A part at a time: gzip makes all that is asked for before it is copied.
            found = self._content.read(min(len(view), _COPY_BYTES))
        view[: len(found)] = found
        self._done += len(found)
        if self._done > self._most:
            raise swollen(self._path)
        return len(found)

    def close(self) -> None:
        if not self.closed:
            self._content.close()
            self._packed.close()
        super().close()


def size_of(path: Path) -> int:
    """Return the size of a file in bytes; raises UserError where there is none."""
    try:
        if not path.is_file():
            raise UserError(f"cannot read {path}: no such file")
        return path.stat().st_size
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def most_bytes(size: int) -> int:
    """Return the most that ``size`` packed bytes may unfold to."""
    return max(_ANY_RATIO_BYTES, _MOST_RATIO * size)


def swollen(path: Path, where: str = "") -> UserError:
    """Build the error for an archive that unfolds to more than `most_bytes`."""
    return UserError(f"{path}: unfolds to more than {_MOST_RATIO} times its size{where}; it may be an attack")


@contextlib.contextmanager
def archive_errors(path: Path, expected: str) -> Iterator[None]:
    """Turn what Python's readers of archives raise for damaged files into a `UserError`."""
    try:
        yield
    except UserError:
        raise
    except (*_DAMAGED, OSError) as error:
        # Not the system's: bz2 gives no number; EINVAL is a place before the beginning, to which a zip file may point.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise UserError(
            f"{path}: expected a whole {expected}, found one that ends early, is damaged or of another kind "
            f"({type(error).__name__}: {str(error)[:200]}); fetch the file again"
        ) from error
