"""Where a results store keeps its files: a local directory, or a prefix of any `pyarrow.fs` file system.

A `Folder` offers the few operations the store is built from, each of them atomic to everybody who looks: a file is
there whole or not at all. Names are relative to the folder, with ``/`` between parts.
"""

import contextlib
import errno
import os
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from orca_ray.errors import UserError

Kind = Literal["missing", "file", "directory"]

TEMPORARY = ".tmp-"

_ADVICE = {
    errno.ENOSPC: "Free some disk space, then run the same command again: finished trials are kept.",
    errno.EDQUOT: "Your disk quota is used up: free some of it, then run the same command again.",
    errno.EROFS: "The file system is read-only: choose another place with --results.",
    errno.EACCES: "Check the permissions, or choose another place with --results.",
    errno.EPERM: "Check the permissions, or choose another place with --results.",
    errno.ENOTDIR: "A part of the path is a file: choose another place with --results.",
}


@contextlib.contextmanager
def explained(verb: str, where: str) -> Iterator[None]:
    """Turn what the operating system or the object store refuses into a message; a missing file passes as it is."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        code = error.errno if isinstance(error, OSError) else None
        reason = os.strerror(code) if code else str(error).split("\n")[0]
        advice = _ADVICE.get(code or 0, "")
        raise UserError(f"cannot {verb} {where}: {reason}. {advice}".rstrip()) from error


class Folder(ABC):
    """The operations of a store on its place.

    Every method raises `UserError` when the place refuses (no space, no permission, no network). Threads and processes
    may share an instance.
    """

    uri: str
    """What opens this folder again, from any working directory."""
    name: str
    """What messages call it: the URI without credentials."""

    @abstractmethod
    def kind(self) -> Kind:
        """Say what is at the place now."""

    @abstractmethod
    def create(self) -> None:
        """Make the folder itself, parents included; nothing happens when it is there."""

    @abstractmethod
    def names(self, directory: str = "") -> list[str]:
        """Return the names in a directory, sorted, without temporary and hidden ones; a missing one is empty."""

    @abstractmethod
    def read(self, path: str) -> Any:
        """Return a file as a `pyarrow.Buffer`. Raises FileNotFoundError when it is not there (any more)."""

    @abstractmethod
    def write(self, path: str, content: Any) -> None:
        """Write a buffer to a file, durably, in one step for every reader; on failure nothing is left behind."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Delete a file; one that is gone already is fine."""

    @abstractmethod
    def sweep_temporary(self, directory: str, older_than_seconds: float) -> None:
        """Delete the temporary files that writers killed long ago left in a directory."""


class LocalFolder(Folder):
    """A folder of this machine (or of a shared file system mounted on it)."""

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.abspath(path.expanduser()))
        self.uri = self.name = str(self.path)

    def kind(self) -> Kind:
        """Say what is at the place now."""
        with explained("reach", self.name):
            if self.path.is_dir():
                return "directory"
            if self.path.exists():
                return "file"
            if not next(above for above in self.path.parents if above.exists()).is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            return "missing"

    def create(self) -> None:
        """Make the folder itself, parents included; nothing happens when it is there."""
        with explained("create", self.name):
            try:
                _make_directory(self.path)
            except FileNotFoundError as error:  # no folders can be made there (/proc, an automount)
                raise PermissionError(errno.EPERM, os.strerror(errno.EPERM)) from error

    def names(self, directory: str = "") -> list[str]:
        """Return the names in a directory, sorted, without temporary and hidden ones; a missing one is empty."""
        with explained("list", self.name):
            try:
                names = os.listdir(self.path / directory)
            except FileNotFoundError:
                return []
        return sorted(name for name in names if not name.startswith("."))

    def read(self, path: str) -> Any:
        """Return a file as a `pyarrow.Buffer`. Raises FileNotFoundError when it is not there (any more)."""
        with explained("read", f"{self.name}/{path}"):
            try:
                return pa.py_buffer((self.path / path).read_bytes())
            except OSError as error:
                if error.errno == errno.ESTALE:  # NFS: deleted by another machine after we opened it
                    raise FileNotFoundError(path) from error
                raise

    def write(self, path: str, content: Any) -> None:
        """Write a buffer to a file, durably, in one step for every reader; on failure nothing is left behind."""
        target = self.path / path
        temporary = target.with_name(f"{TEMPORARY}{uuid.uuid4().hex}-{target.name}")
        with explained("write", f"{self.name}/{path}"):
            self._make_subdirectory(target.parent)
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

    def _make_subdirectory(self, path: Path) -> None:
        # Never the folder itself: had someone removed it under a running sweep, it would come back without its marker.
        if not self.path.is_dir():
            raise UserError(f"{self.name} is gone: it was moved or deleted while in use. Put it back, then run again.")
        _make_directory(path)

    def delete(self, path: str) -> None:
        """Delete a file; one that is gone already is fine."""
        with explained("delete", f"{self.name}/{path}"), contextlib.suppress(FileNotFoundError):
            os.unlink(self.path / path)

    def sweep_temporary(self, directory: str, older_than_seconds: float) -> None:
        """Delete the temporary files that writers killed long ago left in a directory."""
        limit = time.time() - older_than_seconds
        for path in (self.path / directory).glob(f"{TEMPORARY}*"):
            with contextlib.suppress(OSError):  # another sweeper was faster
                if path.stat().st_mtime < limit:
                    path.unlink()


class RemoteFolder(Folder):
    """A folder on an object store or a remote file system that `pyarrow.fs` opens by URI."""

    def __init__(self, uri: str) -> None:
        parts = urlsplit(uri)
        self.uri = uri
        self.name = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        with explained("open", self.name):
            self._files, root = pafs.FileSystem.from_uri(uri)
        self._root = root.rstrip("/")
        self._directories: set[str] = set()

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    def kind(self) -> Kind:
        """Say what is at the place now."""
        with explained("reach", self.name):
            found = self._files.get_file_info(self._root).type
        if found == pafs.FileType.NotFound:
            return "missing"
        return "directory" if found == pafs.FileType.Directory else "file"

    def create(self) -> None:
        """Make the folder itself, parents included; nothing happens when it is there."""
        with explained("create", self.name):
            self._files.create_dir(self._root, recursive=True)

    def _infos(self, directory: str) -> list[Any]:
        selector = pafs.FileSelector(self._at(directory), allow_not_found=True)
        with explained("list", self.name):
            return list(self._files.get_file_info(selector))

    def names(self, directory: str = "") -> list[str]:
        """Return the names in a directory, sorted, without temporary and hidden ones; a missing one is empty."""
        return sorted(info.base_name for info in self._infos(directory) if not info.base_name.startswith("."))

    def read(self, path: str) -> Any:
        """Return a file as a `pyarrow.Buffer`. Raises FileNotFoundError when it is not there (any more)."""
        with explained("read", f"{self.name}/{path}"), self._files.open_input_file(self._at(path)) as stream:
            return stream.read_buffer()

    def write(self, path: str, content: Any) -> None:
        """Write a buffer to a file, durably, in one step for every reader; on failure nothing is left behind."""
        # Leaving an output stream completes the upload even after an error, so the object first gets a name nobody
        # reads; it is moved (one atomic copy on S3, a rename elsewhere) once it is known to be whole.
        directory, _, name = path.rpartition("/")
        temporary = self._at(f"{directory}/{TEMPORARY}{uuid.uuid4().hex}-{name}".lstrip("/"))
        with explained("write", f"{self.name}/{path}"):
            if directory not in self._directories:
                self._files.create_dir(self._at(directory), recursive=True)
                self._directories.add(directory)
            try:
                with self._files.open_output_stream(temporary) as stream:
                    stream.write(content)
                written = self._files.get_file_info(temporary).size
                if written != content.size:
                    raise OSError(f"{written} of {content.size} bytes arrived")
                self._files.move(temporary, self._at(path))
            except BaseException:
                with contextlib.suppress(OSError):
                    self._files.delete_file(temporary)
                raise

    def delete(self, path: str) -> None:
        """Delete a file; one that is gone already is fine."""
        with explained("delete", f"{self.name}/{path}"), contextlib.suppress(FileNotFoundError):
            self._files.delete_file(self._at(path))

    def sweep_temporary(self, directory: str, older_than_seconds: float) -> None:
        """Delete the temporary files that writers killed long ago left in a directory."""
        limit = time.time() - older_than_seconds
        for info in self._infos(directory):
            modified = info.mtime
            if info.base_name.startswith(TEMPORARY) and modified is not None and modified.timestamp() < limit:
                with contextlib.suppress(OSError):
                    self._files.delete_file(info.path)


def open_folder(uri: str | Path) -> Folder:
    """Return the folder of a path or URI. Raises `UserError` for a URI no file system is known for."""
    if isinstance(uri, Path) or "://" not in uri:
        return LocalFolder(Path(uri))
    parts = urlsplit(uri)
    return LocalFolder(Path(unquote(parts.path))) if parts.scheme == "file" else RemoteFolder(uri)


def _make_directory(path: Path) -> None:
    if path.is_dir():
        return
    _make_directory(path.parent)
    with contextlib.suppress(FileExistsError):
        path.mkdir()
        _sync_directory(path.parent)
    if not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))


def _sync_directory(path: Path) -> None:
    """Make a new name survive a power cut; some file systems cannot and say so."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
