"""The folder of a results store in a directory."""

import contextlib
import errno
import os
import time
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from orca_ray.errors import UserError
from orca_ray.paths import open_regular, refuse_special, regular_size
from orca_ray.results.folder.base import TEMPORARY, Folder, Kind, check_size

_ABSENT_SECONDS = 0.3
"""How long a file must be missing before it is created, since an exchange takes it away for a moment."""


class LocalFolder(Folder):
    """A folder in a mounted file system, local or shared; written files are synced to disk to survive a power cut."""

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.abspath(path.expanduser()))
        self.uri = self.name = self._root = self._place = str(self.path)
        self._secrets = frozenset()
        self._files = pafs.LocalFileSystem()

    def _kind(self) -> Kind:
        refuse_special(self.path, "the results store")
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
        target = self.path / path
        _make_directory(target.parent)
        if before is not None:
            aside = target.with_name(f"{TEMPORARY}{uuid.uuid4().hex}-{target.name}")
            try:
                os.rename(target, aside)  # only one process can take the file away
            except FileNotFoundError:
                return False
            found = aside.read_bytes()
            os.unlink(aside)
            if found != before.to_pybytes():
                _write_new(target, found)
                return False
        elif not target.exists():
            time.sleep(_ABSENT_SECONDS)
        return _write_new(target, after)

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


def _write_new(path: Path, content: Any) -> bool:
    """Write a file that does not exist yet, and return whether it did not; nobody sees a part of it."""
    temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}-{path.name}")
    temporary.write_bytes(content)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links: readers may see a part
        with path.open("xb") as stream:
            stream.write(content)
    finally:
        os.unlink(temporary)
    return True


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
