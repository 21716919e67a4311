"""Archives and compressed files from untrusted sources.

The module reads gzip streams, unpacks archives, and limits decompressed sizes.
``tarfile`` and ``zipfile`` read the members of archives, which are first written to a
scratch directory inside the target. This module refuses more than tarfile's data filter
does: all links, names that are unsafe on any operating system, and contents larger than
the free disk space or 200 times the archive.
"""

import contextlib
import errno
import filecmp
import gzip
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, cast

from orca_ray.data import cache
from orca_ray.data.raw import LOCKS, PINS
from orca_ray.errors import UserError, quoted, shorten

_MAX_RATIO = 200
"""Largest ratio of unpacked to stored bytes.

The data of our benchmarks reach 10; a decompression bomb exceeds 1000.
"""
_ANY_RATIO_BYTES = 256 * 2**20
"""Unpacked size up to which data may have any ratio."""
SCRATCH = ".unpack-"
"""Prefix of the names of the scratch directories that `unpack` uses."""
_OURS = (PINS, LOCKS, ".tmp-", SCRATCH)
"""Prefixes of the files that orca-ray itself writes to a raw directory.

No member may have such a name.
"""
_GZIP = b"\x1f\x8b"
"""First bytes of a gzip file."""
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
"""First bytes of a zip file, and first bytes of an empty zip file."""
_HEADERS = frozenset(
    {
        tarfile.GNUTYPE_LONGNAME,
        tarfile.GNUTYPE_LONGLINK,
        tarfile.XHDTYPE,
        tarfile.XGLTYPE,
        tarfile.SOLARIS_XHDTYPE,
    }
)
"""Types of the tar headers that describe the next member.

tarfile reads them into memory.
"""
_MAX_HEADER_BYTES = 2**20
"""Largest size of a tar header that describes the next member."""
_KINDS = {
    tarfile.SYMTYPE: "symbolic link",
    tarfile.LNKTYPE: "hard link",
    tarfile.FIFOTYPE: "pipe",
    tarfile.CHRTYPE: "device",
    tarfile.BLKTYPE: "device",
}
"""Names of the kinds of tar members that are refused."""
_COPY_BYTES = 2**20
"""Size of the blocks that are read at once."""
_Report = Callable[[int, int | None], None]
_Member = tuple[str, int, IO[bytes] | None]
"""Name, size and content of a member; the content of a directory is None."""


class DamagedFile(UserError):
    """Raised for a compressed file that cannot be read to its end.

    It is also raised for an archive without an expected path.
    """


def open_gzip(path: Path) -> IO[bytes]:
    """Return the decompressed content of a ``.gz`` file as a stream.

    The caller closes it. The file is first decompressed to its end once. Raises
    UserError if the file is not gzip, ends early, has a wrong checksum, or decompresses
    to more than 200 times its size and more than 256 MiB.
    """
    allowed = max_bytes(cache.check_special(path))
    with cache.open_file(path) as packed:
        magic = packed.read(2)
        if magic != _GZIP:
            raise UserError(
                f"{path}: expected a gzip file, found one that begins with {magic!r};"
                " fetch the file again"
            )
        packed.seek(0)
        with archive_errors(path, "gzip file"), gzip.GzipFile(fileobj=packed) as stream:
            while block := stream.read(_COPY_BYTES):
                allowed -= len(block)
                if allowed < 0:
                    raise growth_error(path)
    return cast(IO[bytes], gzip.open(path))


def max_bytes(size: int) -> int:
    """Return the largest allowed unpacked size of ``size`` compressed bytes.

    It is 200 times ``size``, or 256 MiB if that is more.
    """
    return max(_ANY_RATIO_BYTES, _MAX_RATIO * size)


def check_growth(path: Path, declared: int, stored: int, where: str = "") -> None:
    """Raise UserError if ``declared`` unpacked bytes exceed ``max_bytes(stored)``.

    The message contains ``where``.
    """
    if declared > max_bytes(stored):
        raise growth_error(
            path,
            f"{where}: {declared} bytes are declared, {stored} are stored,"
            f" {max_bytes(stored)} allowed",
        )


def drain(stream: IO[bytes]) -> None:
    """Read the rest of a stream, so that the checksum at its end is verified."""
    while stream.read(_COPY_BYTES):
        pass


def growth_error(path: Path, where: str = "") -> UserError:
    """Return the error for a file that decompresses to more bytes than allowed.

    The message contains ``where``.
    """
    return UserError(
        f"{path}: unfolds to more than {_MAX_RATIO} times its size{where}; it may be an"
        " attack"
    )


@contextlib.contextmanager
def archive_errors(path: Path, expected: str) -> Iterator[None]:
    """Context manager: convert exceptions in the block into `DamagedFile`.

    UserError, MemoryError and errors of the disk are raised unchanged. The message says
    that ``path`` should be a whole file of the kind ``expected``, such as "gzip file".
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        # bz2 raises OSError without a number; EINVAL: a zip file points to a position
        # before its start.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise damaged(path, f"a whole {expected}", error) from error


def damaged(where: Path | str, expected: str, error: Exception) -> DamagedFile:
    """Return the error for a damaged file, whose reader raised ``error``."""
    problem = (
        f"found it damaged or another file ({type(error).__name__}:"
        f" {shorten(str(error))})"
    )
    return DamagedFile(f"{where}: expected {expected}, {problem}; fetch the file again")


def unpack(
    archive: Path, into: Path, progress: _Report | None = None, required: str = ""
) -> None:
    """Unpack a ``.tar``, ``.tar.gz`` or ``.zip`` archive into the directory ``into``.

    No existing file is replaced. ``progress`` is called with the number of bytes
    unpacked so far, and None. The format is detected from the content. Members are
    moved to ``into`` after the whole archive was read. ``required`` is a path below
    ``into`` that must exist in the end; "": none. It is moved last and in one step, so
    that its absence shows that an interrupted move must be repeated.

    Raises UserError for a member that has ``..`` or an absolute path, is a link, device
    or pipe, is encrypted, has a name that orca-ray gives to its own files, or already
    exists with different content. It is also raised if the contents are larger than the
    free disk space or 200 times the archive, and if the archive is damaged or lacks the
    required path.
    """
    with cache.scratch_directory(into, SCRATCH) as scratch, cache.disk_errors(into):
        with archive_errors(archive, "archive (.tar, .tar.gz, .zip)"):
            written = 0
            for num_bytes in _unpack_members(archive, scratch):
                written += num_bytes
                if progress:
                    progress(written, None)
        if required and not (
            os.path.lexists(scratch / required) or (into / required).exists()
        ):
            raise DamagedFile(
                f"{archive} holds no {required}, which is expected in it: it is another"
                " archive"
            )
        # One sync for all files: with half a million small files, one sync per file
        # would take very long.
        os.sync()
        moves = list(_moves(scratch, into))
        for path, target in moves:
            _check_move(archive, path, target)
        # The required path comes last, because True sorts after False.
        moves.sort(key=lambda move: (into / required).is_relative_to(move[1]))
        for path, target in moves:
            os.replace(path, target)


def _unpack_members(archive: Path, scratch: Path) -> Iterator[int]:
    """Write all members below ``scratch``; yield the size of each block."""
    allowed = max_bytes(cache.check_special(archive))
    free = shutil.disk_usage(scratch).free
    unpacked = 0
    for name, num_bytes, content in _members(archive):
        unpacked += max(0, num_bytes)
        if num_bytes < 0 or unpacked > allowed:
            raise growth_error(archive, f" at {quoted(name)} ({num_bytes} bytes)")
        if unpacked > free:
            raise UserError(
                f"{archive}: no space left at {quoted(name)}: {unpacked} bytes are"
                f" unpacked by then, {free} are free. {cache.make_room(scratch)}"
            )
        target = _target(archive, name, scratch)
        yield from _write(archive, target, num_bytes, content)


def _check_move(archive: Path, path: Path, target: Path) -> None:
    """Raise UserError if another file than ``path`` is at ``target``.

    An equal file may be there, so that an interrupted move can be repeated.
    """
    if target.exists() and path.is_dir() != target.is_dir():
        raise UserError(
            f"{archive}: {target} is in the way: one is a file, the other a"
            " directory. Move it"
        )
    if not os.path.lexists(target):
        return
    if not target.is_file() or not filecmp.cmp(path, target, shallow=False):
        raise UserError(
            f"{archive}: {target} is there with another content, and is not replaced."
            " If the archive's is right, remove it; else unpack elsewhere"
        )


def read_whole(path: Path) -> None:
    """Read a gzip, zip (``.npz``) or ``.tar`` file to its end to check it.

    Other files are ignored. Raises UserError for a damaged file, and for one that
    decompresses to more than 200 times its size.
    """
    with cache.open_file(path) as stream:
        magic = stream.read(4)
    if magic[:2] == _GZIP:
        open_gzip(path).close()
        return
    if magic not in _ZIP and path.suffix != ".tar":
        return
    unpacked = 0
    size = cache.check_special(path)
    with archive_errors(path, "archive (.tar, .zip, .npz)"):
        for _, num_bytes, member in _members(path):
            unpacked += num_bytes
            check_growth(path, unpacked, size)
            if member is not None:
                drain(member)


def _members(archive: Path) -> Iterator[_Member]:
    """Yield the members of an archive, whose format is detected from its content."""
    with cache.open_file(archive) as stream:
        magic = stream.read(4)
        stream.seek(0)
        if magic in _ZIP:
            with zipfile.ZipFile(stream) as content:
                yield from _zip_members(archive, content)
        elif magic[:2] == _GZIP:
            with open_gzip(archive) as unzipped:
                yield from _tar_members(archive, unzipped)
        else:
            yield from _tar_members(archive, stream)


class _TarInfo(tarfile.TarInfo):
    """A tar member, whose header is checked.

    Raises ReadError for a header that is damaged or over 1 MiB. The library tarfile
    would take a damaged header for the end of the archive.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_TarInfo":
        try:
            member = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):  # the end mark
                raise
            raise tarfile.ReadError(
                f"no header of a member where one is due: {error}"
            ) from error
        if member.type in _HEADERS and not 0 <= member.size <= _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {member.size} bytes")
        return member


def _tar_members(archive: Path, stream: IO[bytes]) -> Iterator[_Member]:
    """Yield the members of a tar archive; UserError for one that is not a plain file.

    Directories are yielded without content.
    """
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=_TarInfo) as tar:
        while (member := tar.next()) is not None:
            cast(Any, tar).members.clear()  # tarfile would store them all
            if member.issparse():
                raise _special(archive, member.name, "sparse file")
            if member.isdir():
                yield member.name, 0, None
            elif member.isreg():
                yield member.name, member.size, tar.extractfile(member)
            else:
                kind = _KINDS.get(member.type, f"member of type {member.type!r}")
                raise _special(archive, member.name, kind)


def _zip_members(archive: Path, content: zipfile.ZipFile) -> Iterator[_Member]:
    """Yield the members of a zip archive; UserError for one that is not a plain file.

    Directories are yielded without content.
    """
    for member in content.infolist():
        # The upper 16 bits are the mode on Unix; 0 if another system wrote the archive.
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind == stat.S_IFLNK:
            raise _special(archive, member.filename, "symbolic link")
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _special(archive, member.filename, "device, pipe or socket")
        if member.flag_bits & 1:  # bit 0: encrypted
            raise UserError(
                f"{archive}, {quoted(member.filename)}: expected a readable file, found"
                " an encrypted one"
            )
        if member.filename.endswith("/"):
            yield member.filename, 0, None
            continue
        with content.open(member) as stream:
            yield member.filename, member.file_size, stream


def _special(archive: Path, name: str, kind: str) -> UserError:
    """Return the error for a member that is neither a file nor a directory."""
    return UserError(
        f"{archive}, {quoted(name)}: expected files and directories, found a {kind};"
        " refused"
    )


def _target(archive: Path, name: str, scratch: Path) -> Path:
    """Return where to write the member ``name``.

    Raises UserError for a name that is unsafe on any operating system.
    """
    path = PurePosixPath(name)
    windows = PureWindowsPath(name)
    is_outside = path.is_absolute() or ".." in path.parts
    is_outside_on_windows = windows.drive or windows.root or "\\" in name
    if not name or "\0" in name or is_outside or is_outside_on_windows:
        raise UserError(
            f"{archive}, {quoted(name)}: expected a path below the directory, found one"
            " that is absolute, has '..' or '\\', or is empty; refused"
        )
    if path.parts and path.parts[0].lower().startswith(_OURS):
        raise UserError(
            f"{archive}, {quoted(name)}: {path.parts[0]} is a name of orca-ray's own"
            " files; refused"
        )
    return scratch / path


def _write(
    archive: Path, target: Path, size: int, content: IO[bytes] | None
) -> Iterator[int]:
    """Write a member of ``size`` bytes, and yield the size of each block.

    ``content`` is None for a directory.
    """
    directory = target.parent if content else target
    try:
        directory.mkdir(parents=True, exist_ok=True)
        stream = target.open("wb") if content else None
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise UserError(
            f"{archive}, {quoted(target.name)}: a file and a directory have the same"
            " name"
        ) from error
    except OSError as error:
        if error.errno not in (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL):
            raise
        name = target.name[:300]
        raise UserError(
            f"{archive}, {quoted(name)}: no file can have this name here"
            f" ({error.strerror})"
        ) from error
    if stream is None or content is None:
        return
    with stream:
        while block := content.read(_COPY_BYTES):
            yield stream.write(block)
        if stream.tell() != size:
            raise EOFError(
                f"{quoted(target.name)} has {size} bytes, {stream.tell()} are there"
            )


def _moves(source: Path, into: Path) -> Iterator[tuple[Path, Path]]:
    """Yield (old path, new path) of each rename that merges two directories.

    ``source`` is merged into ``into``.
    """
    for path in sorted(source.iterdir()):
        target = into / path.name
        if path.is_dir() and target.is_dir():
            yield from _moves(path, target)
        else:
            yield path, target
