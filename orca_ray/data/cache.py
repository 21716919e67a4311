"""The cache directory: where it is, and how several processes write into it without harm."""

import contextlib
import errno
import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from orca_ray.errors import UserError

logger = logging.getLogger(__name__)

HOME_VARIABLE = "ORCA_RAY_HOME"

_ABANDONED_SECONDS = 3600.0
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the system says of a disk that has no room."""
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)
_NOT_A_DIRECTORY = (errno.ENOTDIR, errno.EEXIST)


def home() -> Path:
    """Return the cache directory: ``$ORCA_RAY_HOME``, or ``~/.cache/orca-ray`` (not created here).

    Raises :class:`UserError` where it is not known whose home ``~`` is.
    """
    configured = os.environ.get(HOME_VARIABLE, "").strip()
    try:
        return Path(configured).expanduser().absolute() if configured else Path.home() / ".cache" / "orca-ray"
    except RuntimeError as error:
        given = f"{HOME_VARIABLE} is {configured!r}" if configured else f"{HOME_VARIABLE} is not set"
        raise UserError(f"{given}, and there is no such home directory: set it to a directory's path") from error


def packages_dir() -> Path:
    """Return the directory of fetched packages (wheels)."""
    return _subdirectory("packages")


def bodies_dir() -> Path:
    """Return the directory of converted bodies, one Hugging Face directory each."""
    return _subdirectory("bodies")


def prepared_dir() -> Path:
    """Return the directory of prepared, memory-mapped task data."""
    return _subdirectory("prepared")


def source_dir() -> Path:
    """Return the directory of source features."""
    return _subdirectory("source")


def raw_dir() -> Path:
    """Return the directory in which users put files that cannot be fetched."""
    return _subdirectory("raw")


def _subdirectory(name: str) -> Path:
    path = home() / name
    make_directory(path)
    return path


def make_directory(path: Path) -> None:
    """Make a directory, and those above it, where there is none; raises :class:`UserError` as `disk_errors`."""
    with disk_errors(path):
        try:
            path.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError as error:  # no directories can be made there (/proc, an automount)
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM)) from error


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn refusals of the system into a :class:`UserError`: disk full, read-only, a file in the way.

    They are taken for those of writing below ``path``, but for a file elsewhere, which was to be read.
    """
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise UserError(f"no space left on the disk of {path}. {make_room(path)}") from error
        if error.errno not in (*_NOT_WRITABLE, *_NOT_A_DIRECTORY):
            raise
        if isinstance(error.filename, str) and _elsewhere(Path(error.filename), path):
            raise UserError(f"cannot open {error.filename}: {error.strerror}") from error
        if error.errno in _NOT_WRITABLE:
            raise UserError(f"cannot write to {path} ({error.strerror}): {_another(path)} that is writable") from error
        raise UserError(f"{path} cannot be a directory: a file is in the way. Move it, or {_another(path)}") from error


@contextlib.contextmanager
def read_errors(path: Path) -> Iterator[None]:
    """Turn the system's refusal to read a file into a :class:`UserError`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def _elsewhere(file: Path, path: Path) -> bool:
    """Whether a file is neither below ``path`` nor a directory above it."""
    places = ((file.absolute(), path.absolute()), (file.resolve(), path.resolve()))
    return not any(one.is_relative_to(other) or other.is_relative_to(one) for one, other in places)


def _another(path: Path) -> str:
    in_home = path.absolute().is_relative_to(home())
    return f"set {HOME_VARIABLE} to a directory" if in_home else "name another directory"


def make_room(path: Path) -> str:
    """Say what to do where the disk of ``path`` is full."""
    return f"Free some space, or {_another(path)} that has it."


def require_space(path: Path, num_bytes: float) -> None:
    """Raise :class:`UserError` unless the disk of ``path`` (an existing directory) has ``num_bytes`` free."""
    free = shutil.disk_usage(path).free
    if free < num_bytes:
        raise UserError(
            f"no space: {path} needs about {_size(num_bytes)} and its disk has {_size(free)} free. {make_room(path)}"
        ) from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e6:.0f} MB" if num_bytes >= 1e7 else f"{num_bytes / 1e3:.0f} kB"


@contextlib.contextmanager
def lock(path: Path, what: str = "") -> Iterator[None]:
    """Hold the inter-process lock of ``path`` (a ``.lock`` file beside it); freed by the system if the holder dies.

    ``what`` is locked, for who waits; "": the path.
    """
    from filelock import FileLock, Timeout

    file_lock = FileLock(path.with_name(path.name + ".lock"))
    make_directory(path.parent)
    with disk_errors(path.parent):
        try:
            file_lock.acquire(timeout=1)
        except Timeout:
            logger.info("waiting for another process that works on %s", what or path)
            file_lock.acquire()
    try:
        yield
    finally:
        file_lock.release()


@contextlib.contextmanager
def scratch_directory(parent: Path, prefix: str = ".tmp-") -> Iterator[Path]:
    """Yield a fresh hidden directory inside ``parent``, removed at the end whatever happens."""
    make_directory(parent)
    with disk_errors(parent):
        path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """Yield a directory to fill; it becomes ``target`` at once when the block ends well, and vanishes when it does not.

    An existing ``target`` is replaced. Hold :func:`lock` around this. Raises :class:`UserError` as :func:`disk_errors`.
    """
    with scratch_directory(target.parent) as scratch, disk_errors(target.parent):
        filled = scratch / target.name
        filled.mkdir()
        yield filled
        for file in filled.rglob("*"):
            if file.is_file():
                flush(file)
        if target.exists():
            os.replace(target, scratch / "replaced")
        os.replace(filled, target)


def replace_file(source: Path, target: Path) -> None:
    """Move ``source`` over ``target`` (same disk); after a power cut the old or the whole new file is there."""
    flush(source)
    os.replace(source, target)


def prune(directory: Path, suffix: str, most_files: int, most_bytes: int) -> None:
    """Remove the files ending in ``suffix`` that were longest not touched, beyond either bound; one always stays.

    Temporary files (``.tmp`` and directories named so) of writers that were killed go after an hour.

    Raises:
        OSError: when the directory cannot be read or a file cannot be removed.
    """
    stated = []
    for path in directory.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process prunes, too
            stated.append((path.stat(), path))
    files = sorted((status.st_mtime, status.st_size, path) for status, path in stated if path.name.endswith(suffix))
    size = sum(file[1] for file in files)
    while len(files) > most_files or (size > most_bytes and len(files) > 1):
        _, freed, path = files.pop(0)
        size -= freed
        path.unlink(missing_ok=True)
    for status, path in stated:
        if ".tmp" in path.name and time.time() - status.st_mtime > _ABANDONED_SECONDS:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Make sure that a file is on the disk."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
