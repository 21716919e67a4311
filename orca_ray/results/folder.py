"""File operations of the results store, in local directories and object stores.

Writes are atomic: a reader sees a complete file or none. Paths are relative to the
folder, with ``/`` between parts.
"""

import contextlib
import errno
import math
import os
import shutil
import time
import uuid
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar
from urllib.parse import parse_qs, unquote

import pyarrow as pa
import pyarrow.fs as pafs

from orca_ray.errors import UserError
from orca_ray.paths import (
    check_special,
    expand_user,
    open_regular,
    public_uri,
    regular_size,
    secrets_in,
    split_uri,
)
from orca_ray.results import faults
from orca_ray.results.faults import explain_errors

Kind = Literal["missing", "file", "directory"]
_Result = TypeVar("_Result")

TEMPORARY = ".tmp-"
"""Start of the names of files that are not complete yet."""
MAX_FILE_BYTES = 2**30
"""Largest file that is read; the store's own files are far smaller."""
MAX_JSON_BYTES = 2**20
"""Largest JSON file that is read, such as the store's marker."""
_RETRY_SECONDS = 15
"""Limit of the retries of Google's client, in seconds.

Without a limit, the client retries an endpoint that does not answer for many minutes.
"""
_FAILED_SECONDS = 60.0
"""Seconds without retries after an operation failed in all its attempts.

A command can then end soon.
"""
_SETTLE_SECONDS = 2.0
"""Seconds that `Folder.write_new` waits for other writers.

Only servers without conditional writes need this.
"""
_ONE_REQUEST_BYTES = 8 * 2**20
"""Files up to this size are written to a bucket in one request.

Arrow needs one request for up to 10 MiB.
"""


def open_folder(uri: str | Path) -> "Folder":
    """Return the folder at a path or URI.

    Raises UserError if `pyarrow.fs` cannot open it, or if a file URI names a host.
    """
    if isinstance(uri, Path) or "://" not in uri:
        return LocalFolder(Path(uri))
    parts = split_uri(uri)
    if parts.scheme != "file":
        return S3Folder(uri) if parts.scheme == "s3" else Folder(uri)
    if parts.netloc not in ("", "localhost"):
        name = public_uri(uri, options=False)
        path = name.removeprefix("file://")
        host = path.partition("/")[0]
        raise UserError(
            f"{name} names the host {host!r}, and a file URI reaches this machine only:"
            f" give a path ({path}), or file:/// with an absolute one"
        )
    return LocalFolder(Path(unquote(parts.path)))


class Folder:
    """The folder of a results store, in any file system that `pyarrow.fs` opens by URI.

    It may be an object store. Methods raise `UserError` if the file system fails
    (space, permission, network). Threads and processes may share it.
    """

    _failed_at: ClassVar[dict[str, float]] = {}
    """When an operation last failed in all its attempts, by server or path."""
    _region: str | None = None
    """Region of the bucket, on S3."""

    def __init__(self, uri: str) -> None:
        parts = split_uri(uri)
        self._secrets = secrets_in(uri)
        is_google = parts.scheme in ("gs", "gcs")
        if is_google and "retry_limit_seconds" not in parse_qs(parts.query):
            separator = "&" if parts.query else "?"
            uri += f"{separator}retry_limit_seconds={_RETRY_SECONDS}"
        self.uri = uri
        """URI or absolute path, with which `open_folder` opens this folder again.

        It does not depend on the working directory.
        """
        self.name = public_uri(uri, options=False)
        """The URI without user name, password and query, for messages."""
        self._place = parts._replace(path="").geturl()
        self._files, root = self._try("open", "", lambda: pafs.FileSystem.from_uri(uri))
        self._root = root.rstrip("/")
        self._directories: set[str] = set()

    def kind(self) -> Kind:
        """Return what exists at the path of this folder."""
        return self._try("reach", "", self._kind)

    def create(self) -> None:
        """Create the folder and its parent directories where they are missing."""
        self._try("create", "", self._create)

    def names(self, directory: str = "", *, hidden: bool = False) -> list[str]:
        """Return the sorted names in a directory; empty if it does not exist.

        ``hidden``: include names that start with ".".
        """
        names = (info.base_name for info in self._infos(directory))
        return sorted(name for name in names if hidden or not name.startswith("."))

    def read(self, path: str) -> Any:
        """Return the content of a file as a `pyarrow.Buffer`.

        Raises FileNotFoundError if it does not exist.
        """
        return self._try("read", path, lambda: self._read(path))

    def open(self, path: str) -> Any:
        """Open a file for reading, and return a `pyarrow.NativeFile`.

        Reads that fail are repeated for a short time. Raises FileNotFoundError if the
        file does not exist. If an open file is deleted, further reads raise
        FileNotFoundError in an object store; a local file stays readable.
        """
        stream = self._try("read", path, lambda: self._open(path))

        def retry(action: Callable[[], Any]) -> Any:
            return self._try("read", path, lambda: self._if_present(path, action))

        return pa.PythonFile(faults.RetriedFile(stream, retry), mode="r")

    def write(self, path: str, content: Any) -> None:
        """Write a `pyarrow.Buffer` to a file atomically; a failure changes nothing.

        A local file is synced to disk.
        """
        self._try("write", path, lambda: self._write(path, content))

    def overwrite(self, path: str, content: Any) -> None:
        """Write a `pyarrow.Buffer` to an existing file, which a full disk allows.

        A local file is changed in place, so that a reader may see a mixture of both
        contents. Only files with a checksum in their content may be written so.
        """
        self.write(path, content)

    def write_new(self, path: str, content: Any) -> bool:
        """Write a file unless it exists; return whether it then holds ``content``.

        If several processes write the same file with different contents, exactly one
        gets True. A mounted file system ensures this by exclusive creation, an object
        store by a conditional write (see `conditional`). A server without such writes
        keeps the content that was written last, so every writer waits, and then reads
        which content was kept.
        """
        return self._try("write", path, lambda: self._write_new(path, content))

    def upload(self, source: Path, path: str) -> None:
        """Write the content of a local file, without reading it into memory."""
        if not source.stat().st_size:  # an empty file cannot be mapped
            self.write(path, pa.py_buffer(b""))
            return
        with pa.memory_map(str(source)) as mapped:
            self.write(path, mapped.read_buffer())

    def download(self, path: str, target: Path) -> None:
        """Copy a file of any size to the local path ``target``.

        Raises FileNotFoundError if it does not exist.
        """
        self._try("read", path, lambda: self._download(path, target))

    def delete(self, path: str) -> None:
        """Delete a file, if it exists."""
        with contextlib.suppress(FileNotFoundError):
            self._try("delete", path, lambda: self._delete(self._at(path)))

    def delete_temporary(
        self, directory: str, older_than_seconds: float, *, recursive: bool = False
    ) -> None:
        """Delete temporary files in a directory that killed writers left.

        Only files older than ``older_than_seconds`` are deleted. ``recursive``: delete
        files in all directories below it, too.
        """
        before = time.time() - older_than_seconds
        for info in self._infos(directory, recursive=recursive):
            is_temporary = info.base_name.startswith(TEMPORARY)
            has_time = info.mtime is not None
            if is_temporary and has_time and info.mtime.timestamp() < before:
                with contextlib.suppress(OSError):  # another process deleted it first
                    self._delete(info.path)

    def _try(self, verb: str, path: str, action: Callable[[], _Result]) -> _Result:
        """Return the result of ``action``; retry it, and explain its errors."""
        where = f"{self.name}/{path}" if path else self.name

        def is_patient() -> bool:
            failed_at = self._failed_at.get(self._place, -math.inf)
            return time.monotonic() - failed_at > _FAILED_SECONDS

        with explain_errors(verb, where, self._secrets):
            try:
                result = faults.call_with_retries(action, where, is_patient)
            except (OSError, pa.ArrowException) as error:
                if faults.is_temporary(error):
                    self._failed_at[self._place] = time.monotonic()
                raise
        self._failed_at.pop(self._place, None)
        return result

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    def _infos(self, directory: str, *, recursive: bool = False) -> list[Any]:
        """Return the `pyarrow.fs.FileInfo` of each entry of a directory.

        The list is empty if there is no such directory.
        """
        selector = pafs.FileSelector(
            self._at(directory), allow_not_found=True, recursive=recursive
        )

        def list_infos() -> list[Any]:
            return list(self._files.get_file_info(selector))

        try:
            return self._try("list", "", list_infos)
        except FileNotFoundError:
            # Another process created the directory while Arrow found none.
            return self._try("list", "", list_infos)

    def _kind(self) -> Kind:
        kind = self._files.get_file_info(self._root).type
        if kind == pafs.FileType.NotFound:
            return "missing"
        if kind == pafs.FileType.Directory:
            return "directory"
        return "file"

    def _create(self) -> None:
        self._files.create_dir(self._root, recursive=True)

    def _open(self, path: str) -> Any:
        stream = self._files.open_input_file(self._at(path))
        check_size(f"{self.name}/{path}", stream.size())
        return stream

    def _if_present(self, path: str, action: Callable[[], _Result]) -> _Result:
        """Return the result of ``action``, which reads the file at ``path``.

        Raises FileNotFoundError if ``action`` fails because the file is gone.
        """
        try:
            return action()
        except OSError as error:
            # Arrow has many errors for a range of an object that is gone.
            kind = self._files.get_file_info(self._at(path)).type
            if kind == pafs.FileType.NotFound:
                raise FileNotFoundError(path) from error
            raise

    def _read(self, path: str) -> Any:
        with self._open(path) as stream:
            return stream.read_buffer()

    def _write(self, path: str, content: Any) -> None:
        """Write or replace a file, so that no reader sees a part of ``content``."""
        # Closing an output stream completes the upload even after an error. The object
        # is therefore written under a temporary name, and moved when it is complete
        # (one atomic copy on S3, a rename elsewhere).
        directory, _, name = path.rpartition("/")
        temporary = self._at(
            f"{directory}/{TEMPORARY}{uuid.uuid4().hex}-{name}".lstrip("/")
        )
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

    def _write_new(self, path: str, content: Any) -> bool:
        """Do the work of `write_new` for an object store, without retries."""
        # The client of conditional writes is in the extra "sweep".
        from orca_ray.results.conditional import create_object

        if not self._is_absent(path):
            return self._holds(path, content)
        is_exact = create_object(self.uri, path, content.to_pybytes(), self._region)
        # A server that ignores or refuses the condition may or may not have written.
        # Then write, unless the content of another writer is there, and wait: of those
        # that write at the same time, the last one is kept.
        if not is_exact and (self._is_absent(path) or self._holds(path, content)):
            self._write(path, content)
            time.sleep(_SETTLE_SECONDS)
        return self._holds(path, content)

    def _download(self, path: str, target: Path) -> None:
        with (
            self._files.open_input_file(self._at(path)) as stream,
            target.open("wb") as copy,
        ):
            shutil.copyfileobj(stream, copy, 8 * 2**20)

    def _holds(self, path: str, content: Any) -> bool:
        """Return whether a file exists and has the ``content``."""
        try:
            return bool(self._read(path) == content)
        except FileNotFoundError:
            return False

    def _is_absent(self, path: str) -> bool:
        """Return whether there is no file at ``path``."""
        try:
            self._read(path)
        except FileNotFoundError:
            return True
        return False

    def _delete(self, path: str) -> None:
        self._files.delete_file(path)


def check_size(name: str, num_bytes: int) -> None:
    """Raise UserError if a file is too large to be read.

    The limit for ``.json`` files is lower.
    """
    limit = MAX_JSON_BYTES if name.endswith(".json") else MAX_FILE_BYTES
    if num_bytes <= limit:
        return
    if limit < 2**30:
        unit = "MiB"
        scale = 2**20
    else:
        unit = "GiB"
        scale = 2**30
    raise UserError(
        f"{name} has {num_bytes / scale:.1f} {unit}, more than the {limit / scale:g}"
        f" {unit} that such a file of a results store may have. Move it out of the"
        " directory."
    )


class S3Folder(Folder):
    """A folder in an S3 bucket.

    A small file is written in one request, which is atomic, while `Folder` needs seven
    requests. An object store takes 10 to 100 ms for each request, and a busy one takes
    longer. A bucket needs no directories.
    """

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        state: Any = self._files.__reduce__()
        (options,) = state[1]
        # One attempt per request, because `_try` repeats them: Arrow tries 31 times,
        # 100 s if a server does not answer.
        options |= {
            "retry_strategy": pafs.AwsStandardS3RetryStrategy(max_attempts=1),
            "allow_delayed_open": True,
        }
        self._files = pafs.S3FileSystem(**options)
        self._region = self._files.region

    def _create(self) -> None:
        pass

    def read(self, path: str) -> Any:
        """Return the content of a file as a `pyarrow.Buffer`.

        See `Folder.read`. Opening and reading are two requests, and each is repeated by
        itself: a busy server would often refuse one of them.
        """
        stream = self._try("read", path, lambda: self._open(path))

        def read_all() -> Any:
            stream.seek(0)
            return stream.read_buffer()

        with stream:
            return self._try("read", path, lambda: self._if_present(path, read_all))

    def _write(self, path: str, content: Any) -> None:
        # A single request is atomic; a larger upload has several requests.
        if content.size > _ONE_REQUEST_BYTES:
            super()._write(path, content)
            return
        with self._files.open_output_stream(self._at(path)) as stream:
            stream.write(content)


class LocalFolder(Folder):
    """A folder in a mounted file system, local or shared.

    Written files are synced to disk to survive a power cut.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.abspath(expand_user(path)))
        self.uri = self.name = self._root = self._place = str(self.path)
        self._secrets = frozenset()
        self._files = pafs.LocalFileSystem()

    def _kind(self) -> Kind:
        check_special(self.path, "the results store")
        if self.path.is_dir():
            return "directory"
        if self.path.exists():
            return "file"
        nearest_parent = next(path for path in self.path.parents if path.exists())
        if not nearest_parent.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return "missing"

    def _create(self) -> None:
        try:
            _make_directory(self.path)
        except FileNotFoundError as error:
            # A file system that allows no new directories, such as an automount.
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM)) from error

    def open(self, path: str) -> Any:
        """Return a file, opened for reading, as a `pyarrow.NativeFile`.

        See `Folder.open`.
        """
        return self._try("read", path, lambda: self._open(path))

    def _open(self, path: str) -> Any:
        regular_size(self.path / path)  # opening a pipe would block
        return super()._open(path)

    def _read(self, path: str) -> Any:
        try:
            with open_regular(self.path / path) as stream:
                check_size(f"{self.name}/{path}", os.fstat(stream.fileno()).st_size)
                return pa.py_buffer(stream.read())
        except OSError as error:
            # NFS: another machine deleted the file after this one opened it.
            if error.errno == errno.ESTALE:
                raise FileNotFoundError(path) from error
            raise

    def _write(self, path: str, content: Any) -> None:
        """Write or replace a file, so that it is complete even after a power cut."""
        target = self.path / path
        temporary = target.with_name(f"{TEMPORARY}{uuid.uuid4().hex}-{target.name}")
        # A folder that was removed during a sweep is not created again, because its
        # marker file would be missing.
        if not self.path.is_dir():
            raise UserError(
                f"{self.name} is gone: it was moved or deleted while in use. Put it"
                " back, then run again."
            )
        _make_directory(target.parent)
        try:
            _write_synced(temporary, content)
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        _sync_directory(target.parent)

    def overwrite(self, path: str, content: Any) -> None:
        """Write to an existing file in place, without new space on the disk.

        See `Folder.overwrite`.
        """

        def write_in_place() -> None:
            with (self.path / path).open("r+b") as stream:
                stream.write(content)
                stream.truncate()
                stream.flush()
                os.fsync(stream.fileno())

        self._try("write", path, write_in_place)

    def _write_new(self, path: str, content: Any) -> bool:
        """Do the work of `write_new` by exclusive creation, without retries."""
        target = self.path / path
        _make_directory(target.parent)
        try:
            _write_synced(target, content)
        except FileExistsError:
            return self._holds(path, content)
        _sync_directory(target.parent)
        return True

    def _delete(self, path: str) -> None:
        os.unlink(path)


class InStore:
    """Base class of files of one kind in the folder of a results store."""

    def __init__(self, store: str | Path) -> None:
        """Use the store at a path or URI, which is opened at the first use."""
        self._store = store

    @cached_property
    def _folder(self) -> Folder:
        return open_folder(self._store)


def _write_synced(path: Path, content: Any) -> None:
    """Create a file and sync it to disk; FileExistsError if it exists."""
    with path.open("xb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


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


def _sync_directory(path: Path) -> None:
    """Sync a directory to disk, so that new file names in it survive a power cut.

    Nothing happens if the file system does not support this.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
