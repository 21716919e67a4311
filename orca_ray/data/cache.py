"""The cache directory, and file operations that are safe in several processes."""

import contextlib
import errno
import hashlib
import json
import logging
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, cast

from orca_ray import paths
from orca_ray.errors import UserError, shorten
from orca_ray.paths import open_regular, regular_size
from orca_ray.process import free_memory, process_identity, process_lives

logger = logging.getLogger(__name__)

HOME_VARIABLE = "ORCA_RAY_HOME"
"""Environment variable that names the cache directory."""
_SCRATCH_PREFIX = f"orca-ray-{platform.node()}-"
"""Start of the names of directories in the system's directory for temporary files.

The machine's name is part of it, because containers may share that directory, and each
has process ids of its own.
"""
_ABANDONED_SECONDS = 3600.0
"""Age in seconds from which on the writer of a temporary file must have been killed."""
MOST_TEXT_BYTES = 2**28
"""Largest size of a text file or recording that is read at once.

FSD50K's list of chunks has some 75 MB.
"""
_MOST_JSON_BYTES = 2**22
"""Largest size of a JSON file."""
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""Numbers of the errors of a full disk."""
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)
"""Numbers of the errors of a path that may not be written to."""


def home() -> Path:
    """Return the cache directory: ``$ORCA_RAY_HOME``, else ``~/.cache/orca-ray``.

    Raises UserError if there is no ``~``.
    """
    configured = os.environ.get(HOME_VARIABLE, "").strip()
    try:
        if configured:
            return Path(configured).expanduser().absolute()
        return Path.home() / ".cache" / "orca-ray"
    except RuntimeError as error:
        setting = repr(configured) if configured else "not set"
        raise UserError(
            f"{HOME_VARIABLE} is {setting}, and there is no such home directory: set it"
            " to a directory's path"
        ) from error


def subdirectory(name: str) -> Path:
    """Return the directory ``name`` inside the cache directory; create it if needed.

    Examples of names are ``packages`` and ``prepared``.
    """
    path = home() / name
    make_directory(path)
    return path


def make_directory(path: Path) -> None:
    """Create a directory and its parents if they do not exist.

    Raises UserError if the disk is full or not writable.
    """
    with disk_errors(path):
        try:
            path.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError as error:
            # a file system without new directories (/proc, an automount)
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM)) from error


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Context manager: convert errors of writing below ``path`` into `UserError`.

    The errors are a full disk, no write permission, and a file where a directory is
    needed. If the error names a file outside the directory ``path``, the message says
    that this file cannot be opened. Other errors are raised unchanged.
    """
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise UserError(
                f"no space left on the disk of {path}. {make_room(path)}"
            ) from error
        if error.errno not in (*_NOT_WRITABLE, errno.ENOTDIR, errno.EEXIST):
            raise
        if isinstance(error.filename, str) and not _is_related(error.filename, path):
            raise UserError(
                f"cannot open {error.filename}: {error.strerror}"
            ) from error
        if error.errno in _NOT_WRITABLE:
            raise UserError(
                f"cannot write to {path} ({error.strerror}): {_another(path)} that is"
                " writable"
            ) from error
        raise UserError(
            f"{path} cannot be a directory: a file is in the way. Move it, or"
            f" {_another(path)}"
        ) from error


def _is_related(filename: str, path: Path) -> bool:
    """Return whether a file is below or above ``path``, with or without links."""
    file = Path(filename)
    return _is_above(file.absolute(), path.absolute()) or _is_above(
        file.resolve(), path.resolve()
    )


def _is_above(first: Path, second: Path) -> bool:
    """Return whether one of the paths is the other or contains it."""
    return first.is_relative_to(second) or second.is_relative_to(first)


@contextlib.contextmanager
def read_errors(path: Path) -> Iterator[None]:
    """Context manager: convert an ``OSError`` of reading ``path`` into UserError."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"cannot read {path}: no such file") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def check_special(path: Path, *, directories: bool = False) -> int:
    """Return the size in bytes of a regular file; raise UserError for other paths.

    ``directories``: directories are allowed, too.
    """
    with read_errors(path):
        return regular_size(path, directories=directories)


def open_file(path: Path) -> BufferedReader:
    """Open a regular file for reading.

    Raises UserError if it is missing, not regular (such as a pipe) or not readable.
    """
    with read_errors(path):
        return open_regular(path)


def read_bytes(path: Path, most_bytes: int = MOST_TEXT_BYTES) -> bytes:
    """Return the content of a regular file.

    Raises UserError if `open_file` refuses it or it exceeds ``most_bytes``.
    """
    size = check_special(path)
    if size > most_bytes:
        raise UserError(
            f"{path}: expected at most {most_bytes:,} bytes, found {size:,}; fetch it"
            " again, or split it"
        )
    with open_file(path) as stream, read_errors(path):
        return stream.read(size)


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises UserError if it cannot be read, is no JSON object or exceeds 4 MiB.
    """
    return parse_json(read_bytes(path, _MOST_JSON_BYTES), str(path))


def parse_json(text: object, where: str) -> dict[str, Any]:
    """Return the JSON object in ``text`` (str or bytes).

    Raises UserError, beginning with ``where``, for anything else.
    """
    try:
        value = json.loads(cast(str | bytes, text))
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(
            f"{where}: expected JSON, found something else ({shorten(str(error))})"
        ) from error
    if not isinstance(value, dict):
        raise UserError(
            f"{where}: expected a JSON object, found a {type(value).__name__}"
        )
    return value


def create_file(path: Path) -> BinaryIO:
    """Create a file and open it for writing.

    A file or symbolic link that is at ``path`` is removed first.
    """
    path.unlink(missing_ok=True)
    return cast(BinaryIO, path.open("xb"))


def write_text(path: Path, text: str, *, durable: bool = False) -> None:
    """Write text to a file as UTF-8, in the same way as `write_bytes`."""
    write_bytes(path, text.encode(), durable=durable)


def write_bytes(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Write a file atomically: readers see the old content or the whole new one.

    The content is written to ``<name>.tmp``, which is synced to disk if ``durable``,
    and then renamed to ``path``. Raises `UserError` if ``path`` is a pipe, device or
    socket, which a file would replace.
    """
    paths.check_special(path, "the file")
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with create_file(temporary) as stream:
            stream.write(content)
        if durable:
            flush(temporary)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _another(path: Path) -> str:
    """Return the advice to use another directory, for the end of a sentence."""
    if path.absolute().is_relative_to(home()):
        return f"set {HOME_VARIABLE} to a directory"
    return "name another directory"


def make_room(path: Path) -> str:
    """Return the sentence that says what to do when the disk of ``path`` is full."""
    return f"Free some space, or {_another(path)} that has it."


def check_space(path: Path, num_bytes: float) -> None:
    """Raise `UserError` if the disk of a directory has less than ``num_bytes`` free.

    The directory ``path`` must exist.
    """
    free = shutil.disk_usage(path).free
    if free < num_bytes:
        needed = (
            f"{path} needs about {_size(num_bytes)} and its disk has {_size(free)} free"
        )
        raise UserError(f"no space: {needed}. {make_room(path)}") from OSError(
            errno.ENOSPC, os.strerror(errno.ENOSPC)
        )


def check_memory(num_bytes: float, what: str, advice: str) -> None:
    """Raise `UserError` if ``num_bytes`` of memory are not free.

    The message contains the texts ``what`` and ``advice``. The limit of a container is
    taken into account (`orca_ray.process.free_memory`).
    """
    free = free_memory()
    if num_bytes > free:
        raise UserError(
            f"{what}: {num_bytes / 2**30:,.1f} GiB, and {free / 2**30:,.1f} GiB of"
            f" memory are free; {advice}"
        )


def _size(num_bytes: float) -> str:
    """Return a number of bytes with its unit."""
    if num_bytes >= 1e7:
        return f"{num_bytes / 1e6:.0f} MB"
    return f"{num_bytes / 1e3:.0f} kB"


@contextlib.contextmanager
def lock(path: Path, what: str = "") -> Iterator[None]:
    """Context manager: hold the inter-process lock ``<path>.lock``.

    If it must wait, it logs that another process works on ``what``.
    """
    from filelock import FileLock, Timeout

    lock_file = path.with_name(path.name + ".lock")
    make_directory(path.parent)
    with disk_errors(path.parent):
        _create_lock_file(lock_file)
        file_lock = FileLock(lock_file)
        try:
            file_lock.acquire(timeout=1)  # a short wait needs no message
        except Timeout:
            logger.info("waiting for another process that works on %s", what or path)
            file_lock.acquire()
    try:
        yield
    finally:
        file_lock.release()


def _create_lock_file(path: Path) -> None:
    """Create a lock file unless it exists; OSError if this is impossible.

    FileLock would wait forever for a file that cannot be created, as in /proc.
    """
    flags = os.O_CREAT | os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW
    try:
        os.close(os.open(path, flags, 0o644))
    except OSError as error:
        if error.errno in (*DISK_FULL, *_NOT_WRITABLE):
            raise
        raise PermissionError(errno.EPERM, f"{path.name}: {error.strerror}") from error


@contextlib.contextmanager
def scratch_directory(
    parent: Path | None = None, prefix: str = ".tmp-"
) -> Iterator[Path]:
    """Context manager: yield a new directory, which is removed at the end.

    It is a hidden directory inside ``parent``. Without ``parent``, it lies in the
    system's directory for temporary files, and its name holds the id and the start time
    of this process, so that `remove_abandoned` finds it if the process is killed.
    """
    if parent is None:
        directory = tempfile.TemporaryDirectory(
            prefix=f"{_SCRATCH_PREFIX}{process_identity()}-", ignore_cleanup_errors=True
        )
    else:
        make_directory(parent)
        with disk_errors(parent):
            directory = tempfile.TemporaryDirectory(
                prefix=prefix, dir=parent, ignore_cleanup_errors=True
            )
    with directory as path:
        yield Path(path)


def remove_abandoned() -> None:
    """Delete the temporary directories that killed processes of this machine have left.

    These are directories of `scratch_directory` without a parent.
    """
    for path in Path(tempfile.gettempdir()).glob(f"{_SCRATCH_PREFIX}*"):
        owner = re.fullmatch(
            r"(\d+)-([\d.]+)-.*", path.name.removeprefix(_SCRATCH_PREFIX)
        )
        if owner is None:  # of a machine whose name begins with the name of this one
            continue
        if not process_lives(int(owner[1]), float(owner[2])):
            logger.info("deleting %s, which a killed process has left", path)
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """Context manager: yield an empty directory, which replaces ``target`` on success.

    The caller must hold a `lock`.
    """
    with scratch_directory(target.parent) as scratch, disk_errors(target.parent):
        new_directory = scratch / target.name
        new_directory.mkdir()
        yield new_directory
        for file in new_directory.rglob("*"):
            if file.is_file():
                flush(file)
        replace_directory(new_directory, target, scratch)


def replace_directory(source: Path, target: Path, scratch: Path) -> None:
    """Rename ``source`` to ``target``.

    An existing ``target`` is first moved into ``scratch``. All three paths must be on
    one disk.
    """
    if target.exists():
        os.replace(target, scratch / "replaced")
    os.replace(source, target)


def replace_file(source: Path, target: Path) -> None:
    """Sync ``source`` to disk and rename it to ``target``.

    A power cut leaves the old file or the whole new one. Raises `UserError` if
    ``target`` is a pipe, device or socket, which a file would replace.
    """
    paths.check_special(target, "the file")
    flush(source)
    os.replace(source, target)


def prune(
    directory: Path, suffix: str, most_files: int = 256, most_bytes: int = 2 * 10**9
) -> None:
    """Remove the oldest files of a directory, and abandoned temporary files.

    Of the files whose names end in ``suffix``, at most ``most_files`` of ``most_bytes``
    in total remain. The age of a file is its modification time. The newest file is kept
    even if it exceeds ``most_bytes``. Files and directories with ``.tmp`` in the name
    that are over an hour old are removed, too, because their writers were killed.
    Raises OSError if a file operation fails.
    """
    statuses: dict[Path, os.stat_result] = {}
    for path in directory.iterdir():
        # another process may prune at the same time
        with contextlib.suppress(FileNotFoundError):
            statuses[path] = path.stat()
    oldest_first = sorted(
        (status.st_mtime, status.st_size, path)
        for path, status in statuses.items()
        if path.name.endswith(suffix)
    )
    total_bytes = sum(size for _, size, _ in oldest_first)
    num_files = len(oldest_first)
    for _, size, path in oldest_first:
        is_too_large = total_bytes > most_bytes and num_files > 1
        if num_files <= most_files and not is_too_large:
            break
        path.unlink(missing_ok=True)
        total_bytes -= size
        num_files -= 1
    latest = time.time() - _ABANDONED_SECONDS
    for path, status in statuses.items():
        if ".tmp" in path.name and status.st_mtime < latest:
            _remove(path)


def _remove(path: Path) -> None:
    """Remove a file, or a directory with its content."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Sync a file to disk (fsync)."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
