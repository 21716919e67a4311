"""Paths that users name: checked before they are opened, and cleaned up after a failure."""

import contextlib
import itertools
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from orca_ray.errors import UserError

_VIRTUAL = ("/proc", "/sys", "/dev")
_SHARED_MEMORY = "/dev/shm"  # an ordinary directory in memory
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a directory",
    stat.S_IFREG: "a file",
}


def refuse_special(path: Path, what: str) -> None:
    """Raise `UserError` if ``path`` is a pipe, device or socket, or is inside /proc, /sys or /dev (but not /dev/shm).

    ``what`` names the argument in the message, e.g. ``--out``. The path is not opened; it does not have to exist.
    """
    found = _kind(path)
    if found not in ("", "a file", "a directory"):
        raise UserError(f"{what} {path} is {found}: give a path to a regular file or directory on a disk")


def require_directory(path: Path, what: str) -> Path:
    """Return ``path`` if it is a directory or could become one; raise `UserError` for a file or special file."""
    refuse_special(path, what)
    blocking = next(each for each in (path.absolute(), *path.absolute().parents) if _exists(each))
    if not blocking.is_dir():
        found = _kind(blocking) or "a broken link"
        where = f"{what} {path} is {found}" if blocking == path.absolute() else f"{what} {path}: {blocking} is {found}"
        raise UserError(f"{where}; give a directory, or a path where one can be created")
    return path


def regular_size(path: Path, *, directories: bool = False) -> int:
    """Return the size of a regular file (``directories``: or directory), which is never opened.

    Reading a pipe, a device, or a file of ``/proc`` or ``/sys`` may block or never end.

    Raises:
        UserError: something else is there.
        OSError: nothing is there, or the file system fails.
    """
    found, size = _kind(path), path.stat().st_size  # in this order: a file that vanishes meanwhile is an OSError
    if found != "a file" and not (directories and found == "a directory"):
        expected = "file or directory" if directories else "file"
        remedy = "remove it, or name another path"
        raise UserError(f"cannot read {path}: expected a regular {expected}, found {found}; {remedy}")
    return size


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading; raises as `regular_size` does."""
    regular_size(path)
    return path.open("rb")


@contextlib.contextmanager
def new_directories_removed(path: Path) -> Iterator[None]:
    """If the block fails, remove the directories up to ``path`` that it created and that hold no files but locks."""
    parents = (path.absolute(), *path.absolute().parents)
    created = [directory for directory in parents if not directory.exists()]
    try:
        yield
    except BaseException:
        walks = (os.walk(directory, topdown=False) for directory in created)  # the innermost first
        for folder, _, files in itertools.chain.from_iterable(walks):
            for lock in (Path(folder, name) for name in files if name.endswith(".lock")):
                with contextlib.suppress(OSError):
                    lock.unlink()
            with contextlib.suppress(OSError):  # not empty: something is worth keeping
                os.rmdir(folder)
        raise


def _exists(path: Path) -> bool:
    """Return whether something is at ``path``, links included; raises OSError if the system refuses the name."""
    try:
        return bool(path.lstat())
    except (FileNotFoundError, NotADirectoryError):
        return False


def _kind(path: Path) -> str:
    """Return a description of what ``path`` leads to; "" if nothing is there."""
    real = Path(os.path.realpath(path))
    if any(real.is_relative_to(root) for root in _VIRTUAL) and not real.is_relative_to(_SHARED_MEMORY):
        return f"inside {Path(*real.parts[:2])}"
    try:
        return _KINDS.get(stat.S_IFMT(real.stat().st_mode), "special")
    except OSError:
        return ""
