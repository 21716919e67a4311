"""Unpacking of archives that may come from anyone: what would land elsewhere, is no file, or swells is refused.

Everything is unpacked beside its place and moved there when the whole archive was read.
"""

import contextlib
import errno
import filecmp
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, cast

from orca_ray.data import cache
from orca_ray.data.gzip_stream import GzipStream, archive_errors, most_bytes, open_gzip, size_of, swollen
from orca_ray.data.pins import NAME as PINS
from orca_ray.data.raw import LOCKS
from orca_ray.errors import UserError

__all__ = ["SCRATCH", "Progress", "open_gzip", "unpack"]

SCRATCH = ".unpack-"
"""Names of directories of unfinished unpacking begin so."""
_OURS = (PINS, LOCKS, ".tmp-", SCRATCH)
"""What names of our own in a raw directory begin with."""

Progress = Callable[[int, int], None]
"""Told how many bytes of the archive are read, and how many it has."""
_Report = Callable[[int], None]

_HEADERS = frozenset(
    {
        tarfile.GNUTYPE_LONGNAME,
        tarfile.GNUTYPE_LONGLINK,
        tarfile.XHDTYPE,
        tarfile.XGLTYPE,
        tarfile.SOLARIS_XHDTYPE,
    }
)
"""Members of a tar that tarfile reads into memory, for they describe the next."""
_MOST_HEADER_BYTES = 2**20
_COPY_BYTES = 2**20


def unpack(archive: Path, into: Path, progress: Progress | None = None, *, stamp: Path | None = None) -> None:
    """Unpack a ``.tar``, ``.tar.gz`` or ``.zip`` (told by content) into a directory, replacing nothing there.

    Nothing appears in ``into`` before the archive is read to its end; then it is moved there, a directory that is new
    at once, the files of one that exists one by one.

    Args:
        archive: the file.
        into: the directory; made where it does not exist.
        progress: told every megabyte.
        stamp: a file that is there while things are moved, and stays when that is cut short: then unpack once more.

    Raises:
        UserError: with archive and member, for a member that has ``..`` or an absolute path, is a link, device or pipe,
            is encrypted, is named like our own files, or is there already with another content; for contents beyond the
            free space or 200 times the archive; for a damaged archive.
    """
    size = size_of(archive)
    report = progress or (lambda done, total: None)
    with cache.read_errors(archive), archive.open("rb") as stream:
        is_zip = stream.read(4) in (b"PK\x03\x04", b"PK\x05\x06")
    unpack_members = _unpack_zip if is_zip else _unpack_tar
    with cache.scratch_directory(into, SCRATCH) as scratch, cache.disk_errors(into):
        with archive_errors(archive, "archive (.tar, .tar.gz, .zip)"):
            unpack_members(archive, scratch, _Room(archive, size, scratch), lambda done: report(min(done, size), size))
        # Once for all: half a million small files would each wait for the disk.
        os.sync()
        _refuse_replacing(scratch, into, archive)
        if stamp is not None:
            stamp.parent.mkdir(parents=True, exist_ok=True)
            stamp.touch()
        _move(scratch, into)
        if stamp is not None:
            stamp.unlink()
    report(size, size)


class _Room:
    """What may be unpacked: as much as is free, and not too many times the archive."""

    def __init__(self, archive: Path, size: int, directory: Path) -> None:
        self._archive, self._directory = archive, directory
        self._free = shutil.disk_usage(directory).free
        self._most = most_bytes(size)
        self._taken = 0

    def take(self, member: str, size: int) -> None:
        """Count a member's bytes before any is written; raises UserError when they are too many."""
        self._taken += max(0, size)
        if size < 0 or self._taken > self._most:
            raise swollen(self._archive, f" at {member!r} ({size} bytes)")
        if self._taken > self._free:
            raise UserError(
                f"{self._archive}: no space left at {member!r}: {self._taken} bytes are unpacked by then, {self._free} "
                f"are free. {cache.make_room(self._directory)}"
            )


class _Member(tarfile.TarInfo):
    """A member of a tar; headers that tarfile would take for the end, or let fill the memory, are errors."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Member":
        try:
            member = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):  # the end mark
                raise
            raise tarfile.ReadError(f"no header of a member where one is due: {error}") from error
        if member.type in _HEADERS and not 0 <= member.size <= _MOST_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {member.size} bytes")
        return member


def _unpack_tar(archive: Path, scratch: Path, room: _Room, report: _Report) -> None:
    with _tar_content(archive) as (content, position):
        with tarfile.open(fileobj=content, mode="r|", tarinfo=_Member) as tar:
            while (member := tar.next()) is not None:
                cast(Any, tar).members.clear()  # it would keep them all
                target = _target(archive, member.name, scratch)
                if member.issparse() or not (member.isdir() or member.isreg()):
                    raise UserError(
                        f"{archive}, {member.name!r}: expected files and directories, found a {_kind(member)}; refused"
                    )
                tarfile.data_filter(member, str(scratch))
                if member.isdir():
                    _make_directory(archive, target)
                else:
                    room.take(member.name, member.size)
                    source = tar.extractfile(member)
                    assert source is not None
                    _write(archive, source, target, member.size, lambda _: report(position()))
        while content.read(_COPY_BYTES):  # to its end, where the checksum of a gzip file is
            pass


@contextlib.contextmanager
def _tar_content(archive: Path) -> Iterator[tuple[IO[bytes], Callable[[], int]]]:
    """Give the tar as a stream, and what tells how much of the file is read."""
    with archive.open("rb") as plain:
        if plain.read(2) != b"\x1f\x8b":
            plain.seek(0)
            yield plain, plain.tell
            return
    with GzipStream(archive) as content:
        yield content, content.packed_bytes


def _kind(member: tarfile.TarInfo) -> str:
    kinds = {
        "symbolic link": member.issym(),
        "hard link": member.islnk(),
        "device": member.isblk() or member.ischr(),
        "pipe": member.isfifo(),
        "sparse file": member.issparse(),
    }
    return next((name for name, found in kinds.items() if found), f"member of type {member.type!r}")


def _unpack_zip(archive: Path, scratch: Path, room: _Room, report: _Report) -> None:
    with zipfile.ZipFile(archive) as content:
        members = [(member, _target(archive, member.filename, scratch)) for member in content.infolist()]
        for member, _ in members:
            _refuse_special(archive, member)
            room.take(member.filename, member.file_size)
        done = 0
        for member, target in members:
            if member.is_dir():
                _make_directory(archive, target)
                continue
            with content.open(member) as source:
                packed = member.compress_size / max(1, member.file_size)
                begun = done
                _write(archive, source, target, member.file_size, lambda n: report(begun + int(n * packed)))  # noqa: B023
            done += member.compress_size


def _refuse_special(archive: Path, member: zipfile.ZipInfo) -> None:
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        found = "symbolic link" if kind == stat.S_IFLNK else "device, pipe or socket"
        raise UserError(f"{archive}, {member.filename!r}: expected files and directories, found a {found}; refused")
    if member.flag_bits & 1:
        raise UserError(f"{archive}, {member.filename!r}: expected a file that can be read, found an encrypted one")


def _target(archive: Path, name: str, scratch: Path) -> Path:
    """Return where a member goes; raises UserError for a name that could lead out of the directory, on any system."""
    path = PurePosixPath(name)
    windows = PureWindowsPath(name)
    outside = path.is_absolute() or ".." in path.parts or windows.drive or windows.root
    if not name or outside or "\\" in name or "\0" in name:
        raise UserError(
            f"{archive}, {name!r}: expected a path below the directory, found one that is absolute, has '..' or '\\', "
            "or is empty; refused"
        )
    if path.parts and path.parts[0].lower().startswith(_OURS):
        raise UserError(f"{archive}, {name!r}: {path.parts[0]} is a name of orca-ray's own files; refused")
    return scratch / path


@contextlib.contextmanager
def _name_errors(archive: Path, name: str) -> Iterator[None]:
    try:
        yield
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise UserError(f"{archive}, {name!r}: a file and a directory have the same name") from error
    except OSError as error:
        if error.errno not in (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL):
            raise
        raise UserError(f"{archive}, {name[:300]!r}: no file can have this name here ({error.strerror})") from error


def _make_directory(archive: Path, path: Path) -> None:
    with _name_errors(archive, path.name):
        path.mkdir(parents=True, exist_ok=True)


def _write(archive: Path, source: IO[bytes], target: Path, size: int, report: _Report) -> None:
    _make_directory(archive, target.parent)
    with _name_errors(archive, target.name):
        stream = target.open("wb")
    done = 0
    with stream:
        while part := source.read(_COPY_BYTES):
            stream.write(part)
            done += len(part)
            report(done)
    if done != size:
        raise EOFError(f"{target.name!r} has {size} bytes, {done} are there")


def _refuse_replacing(source: Path, into: Path, archive: Path) -> None:
    """Refuse to move over what is there, unless it is the same: a move that was cut short can be repeated."""
    for path in sorted(source.iterdir()):
        target = into / path.name
        if path.is_dir() and target.is_dir():
            _refuse_replacing(path, target, archive)
        elif target.exists() and path.is_dir() != target.is_dir():
            raise UserError(f"{archive}: {target} is in the way: one is a file, the other a directory. Move it")
        elif os.path.lexists(target) and not (target.is_file() and filecmp.cmp(path, target, shallow=False)):
            raise UserError(
                f"{archive}: {target} is there with another content, and is not replaced. If the archive's is right, "
                "remove it; else unpack elsewhere"
            )


def _move(source: Path, into: Path) -> None:
    """Move what is in ``source`` into a directory, merging directories that are there."""
    for path in sorted(source.iterdir()):
        target = into / path.name
        if path.is_dir() and target.is_dir():
            _move(path, target)
        else:
            os.replace(path, target)
