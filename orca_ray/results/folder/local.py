"""The folder of a results store in a directory."""

import contextlib
import errno
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from orca_ray.errors import UserError
from orca_ray.paths import check_special, open_regular, regular_size
from orca_ray.results.folder.base import TEMPORARY, Folder, Kind, check_size

_LOCK_SECONDS = 5.0
"""How long an exchange may take; after that its process counts as dead."""


class LocalFolder(Folder):
    """A folder in a mounted file system, local or shared; written files are synced to disk to survive a power cut."""

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.abspath(path.expanduser()))
        self.uri = self.name = self._root = self._place = str(self.path)
        self._secrets = frozenset()
        self._files = pafs.LocalFileSystem()

    def _kind(self) -> Kind:
        check_special(self.path, "the results store")
        if self.path.is_dir():
            return "directory"
        if self.path.exists():
            return "file"
        if not next(above for above in self.path.parents if above.exists()).is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return "missing"

    def _create(self) -> None:
        try:
            _make_directory(self.path)
        except FileNotFoundError as error:  # a file system that allows no new directories, e.g. an automount
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM)) from error

    def _open(self, path: str) -> Any:
        regular_size(self.path / path)  # opening a pipe would block
        return super()._open(path)

    def _read(self, path: str) -> Any:
        try:
            with open_regular(self.path / path) as stream:
                check_size(f"{self.name}/{path}", os.fstat(stream.fileno()).st_size)
                return pa.py_buffer(stream.read())
        except OSError as error:
            if error.errno == errno.ESTALE:  # NFS: another machine deleted it after we opened it
                raise FileNotFoundError(path) from error
            raise

    def _write(self, path: str, content: Any) -> None:
        target = self.path / path
        temporary = target.with_name(f"{TEMPORARY}{uuid.uuid4().hex}-{target.name}")
        # A folder that was removed during a sweep is not created again, because its marker file would be missing.
        if not self.path.is_dir():
            raise UserError(f"{self.name} is gone: it was moved or deleted while in use. Put it back, then run again.")
        _make_directory(target.parent)
        try:
            with temporary.open("xb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        _sync_directory(target.parent)

    def _exchange(self, path: str, before: Any | None, after: Any) -> bool:
        _make_directory((self.path / path).parent)
        with _locked(self.path / path):
            if not self._holds(path, before):
                return False
            self._write(path, after)
            return True

    def _delete(self, path: str) -> None:
        os.unlink(path)


def _make_directory(path: Path) -> None:
    """Create a directory and its missing parents, and sync them to disk."""
    if path.is_dir():
        return
    _make_directory(path.parent)
    with contextlib.suppress(FileExistsError):
        path.mkdir()
        _sync_directory(path.parent)
    if not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Context manager: hold the lock of a file, which is another file that only one process can create.

    It works on network file systems. A lock that stays for `_LOCK_SECONDS` was left by a process that died.
    """
    lock = path.with_name(f"{TEMPORARY}lock-{path.name}")
    deadline, first = time.monotonic() + _LOCK_SECONDS, None
    while True:
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            break
        except FileExistsError:
            time.sleep(0.01)
        with contextlib.suppress(FileNotFoundError):
            found = os.stat(lock)
            if first is None or (found.st_ino, found.st_mtime_ns) != first:
                deadline, first = time.monotonic() + _LOCK_SECONDS, (found.st_ino, found.st_mtime_ns)
            elif time.monotonic() > deadline:
                os.unlink(lock)
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(lock)


def _sync_directory(path: Path) -> None:
    """Sync a directory to disk, so that new file names in it survive a power cut, if the file system supports it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
