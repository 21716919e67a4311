"""Checks of paths that users give, and URIs without the credentials that they hold."""

import os
import stat
from collections.abc import Collection, Iterable
from io import BufferedReader
from pathlib import Path
from urllib.parse import (
    SplitResult,
    parse_qsl,
    quote,
    unquote,
    urlencode,
    urlsplit,
)

from orca_ray.errors import UserError

_VIRTUAL_ROOTS = ("/proc", "/sys", "/dev")
"""Directories of the kernel, in which reading and writing have side effects."""
_SHARED_MEMORY = "/dev/shm"
"""File system in memory that holds ordinary files, though it lies in /dev."""
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a directory",
    stat.S_IFREG: "a file",
}
"""Word for each type of file, for messages."""


def check_special(path: Path, what: str) -> None:
    """Raise `UserError` if ``path`` is neither a file nor a directory on a disk.

    Refused are pipes, devices, sockets, and paths inside /proc, /sys or /dev (except
    /dev/shm). The message names the argument ``what``, e.g. ``--out``. The path is not
    opened, and may be missing.
    """
    kind = _kind(path)
    if kind not in ("", "a file", "a directory"):
        raise UserError(
            f"{what} {path} is {kind}: give a path to a regular file or directory on a"
            " disk"
        )


def check_directory(path: Path, what: str) -> Path:
    """Return ``path`` if it is a directory or could be created as one.

    Otherwise raise a `UserError` about the argument ``what``.
    """
    check_special(path, what)
    absolute = path.absolute()
    # The path could be created if the nearest existing one above it is a directory.
    nearest = next(place for place in (absolute, *absolute.parents) if _exists(place))
    if not nearest.is_dir():
        kind = _kind(nearest) or "a broken link"
        if nearest == absolute:
            problem = f"{what} {path} is {kind}"
        else:
            problem = f"{what} {path}: {nearest} is {kind}"
        raise UserError(
            f"{problem}; give a directory, or a path where one can be created"
        )
    return path


def expand_user(path: Path | str) -> Path:
    """Return ``path`` with ``~`` replaced; one of an unknown user stays as it is."""
    return Path(os.path.expanduser(path))


def split_uri(uri: str) -> SplitResult:
    """Return the parts of a URI; UserError if it has none, e.g. ``s3://[a``."""
    try:
        return urlsplit(uri)
    except ValueError:
        # Texts of `urlsplit` repeat the user name and password.
        raise UserError(
            f"{public_uri(uri, options=False)}: expected a path or URI, such as"
            " s3://BUCKET/FOLDER; its host has brackets or characters that no host has"
        ) from None


def check_output(path: Path, what: str, *, reads: Iterable[Path | str] = ()) -> None:
    """Raise `UserError` if the output file ``path`` cannot or must not be written.

    It must not be written if that would change what the same command reads: ``reads``
    are the files, directories and URIs that the command reads, and the output may be
    none of these files, and in none of these directories. ``what`` names the argument,
    e.g. ``--out``.
    """
    check_special(path, what)
    folder = path.absolute().parent
    problem = ""
    if path.is_dir():
        problem = f"{path} is a directory"
    elif not folder.is_dir():
        problem = f"{folder} is no directory"
    if problem:
        raise UserError(
            f"{what} {path}: {problem}; give the path of a file in an existing"
            " directory"
        )
    check_unread(path, what, reads)


def check_unread(path: Path, what: str, reads: Iterable[Path | str]) -> None:
    """Raise `UserError` if ``path`` is one of ``reads``, or lies in one of them.

    ``path`` is an output file or directory; `check_output` describes the arguments.
    """
    output = _real_path(path)
    for source in map(str, reads):
        is_file_uri = source.startswith("file://")
        read = _real_path(unquote(split_uri(source).path) if is_file_uri else source)
        if output == read:
            problem = "it is read"
        elif read.is_dir() and output.is_relative_to(read):
            problem = f"it lies in {public_uri(source)}, which is read"
        else:
            continue
        raise UserError(
            f"{what} {path}: {problem} by this command, which would change it; give"
            " another path"
        )


def _real_path(path: Path | str) -> Path:
    """Return ``path`` without links and "~"."""
    return Path(os.path.realpath(os.path.expanduser(path)))


def regular_size(path: Path, *, directories: bool = False) -> int:
    """Return the size in bytes of the regular file at ``path``, without opening it.

    Other files are refused, because reading a pipe, a device, or a file in ``/proc`` or
    ``/sys`` may never end.

    Raises:
        UserError: ``path`` is not a regular file; a directory is accepted only with
            ``directories``.
        OSError: ``path`` does not exist, or the file system fails.
    """
    # in this order: a file that vanishes meanwhile is an OSError
    kind = _kind(path)
    size = path.stat().st_size
    if kind == "a file" or (directories and kind == "a directory"):
        return size
    expected = "file or directory" if directories else "file"
    raise UserError(
        f"cannot read {path}: expected a regular {expected}, found {kind};"
        " remove it, or name another path"
    )


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading in binary mode; raises as `regular_size` does."""
    regular_size(path)
    return path.open("rb")


def _exists(path: Path) -> bool:
    """Return whether ``path`` exists, even as a broken link.

    Raises OSError if the system refuses the name.
    """
    try:
        return bool(path.lstat())
    except (FileNotFoundError, NotADirectoryError):
        return False


def _kind(path: Path) -> str:
    """Return what ``path`` is, e.g. "a named pipe"; "" if nothing is there.

    Links are followed.
    """
    real = Path(os.path.realpath(path))
    is_virtual = any(real.is_relative_to(root) for root in _VIRTUAL_ROOTS)
    if is_virtual and not real.is_relative_to(_SHARED_MEMORY):
        return f"inside {Path(*real.parts[:2])}"
    try:
        return _KINDS.get(stat.S_IFMT(real.stat().st_mode), "special")
    except OSError:
        return ""


_PUBLIC_OPTIONS = frozenset(
    {
        "region",
        "scheme",
        "endpoint_override",
        "retry_limit_seconds",
        "allow_bucket_creation",
        "tls_verify_certificates",
        "user",
        "replication",
        "buffer_size",
        "default_block_size",
    }
)
"""Query parameters of URIs of `pyarrow.fs` that are printed.

Every other parameter may be a secret, e.g. ``access_key``.
"""
_MIN_SECRET_LENGTH = 3
"""Length of the shortest secret; to hide shorter texts would spoil every message."""


def hide_secrets(text: str, secrets: Collection[str]) -> str:
    """Return ``text`` with each of the ``secrets`` replaced by ``***``."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def public_uri(uri: str, *, options: bool = True) -> str:
    """Return a path or URI without user name, password and secret query parameters.

    The result may be printed. Without ``options``, the whole query is left out.
    """
    if "://" not in uri:
        return uri
    scheme, after_scheme = uri.split("://", 1)
    place, _, query = after_scheme.partition("?")
    public = f"{scheme}://{place[len(_user_info(place)) :]}"
    parameters = [
        (name, value)
        for name, value in parse_qsl(query)
        if options and _is_public(name, value)
    ]
    if not parameters:
        return public
    return f"{public}?{urlencode(parameters, safe='/:')}"


def _is_public(name: str, value: str) -> bool:
    return name in _PUBLIC_OPTIONS and "@" not in value


def secrets_in(uri: str) -> frozenset[str]:
    """Return the texts in a URI that must not be printed.

    They are user name, password and secret parameters, as they stand, decoded and
    encoded; texts of fewer than `_MIN_SECRET_LENGTH` characters do not count.
    """
    if "://" not in uri:
        return frozenset()
    place, _, query = uri.split("://", 1)[1].partition("?")
    user = _user_info(place).removesuffix("@")
    secrets = [user, *user.split(":", 1)]
    for parameter in query.split("&"):
        name, _, value = parameter.partition("=")
        if not _is_public(name, unquote(value)):
            secrets.append(value)
    spellings: set[str] = set()
    for secret in secrets:
        spellings |= {secret, unquote(secret), quote(secret, safe="")}
    return frozenset(text for text in spellings if len(text) >= _MIN_SECRET_LENGTH)


def _user_info(place: str) -> str:
    """Return the part of ``user:password@host/path`` up to "@"; "" if there is none.

    A password may hold "/", though it should not.
    """
    netloc = place.partition("/")[0]
    if "@" in netloc:
        return netloc[: netloc.rindex("@") + 1]
    # Text after ":" that is no port is the beginning of a password with "/".
    port = netloc.partition(":")[2]
    if port and not port.isdecimal() and "@" in place:
        return place[: place.rindex("@") + 1]
    return ""
