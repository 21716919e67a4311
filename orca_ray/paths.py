"""Paths that users give, and URIs of results stores without the credentials that they
may hold.
"""

import os
import stat
from collections.abc import Collection, Iterable
from io import BufferedReader
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from orca_ray.errors import UserError

_VIRTUAL = ("/proc", "/sys", "/dev")
_SHARED_MEMORY = "/dev/shm"  # a file system in memory that holds ordinary files
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a directory",
    stat.S_IFREG: "a file",
}


def check_special(path: Path, what: str) -> None:
    """Raise `UserError` if ``path`` is a pipe, device or socket, or is inside /proc,
    /sys or /dev (but not /dev/shm).

    The message names the argument ``what``, e.g. ``--out``. The path is not opened, and
    may be missing.
    """
    found = _kind(path)
    if found not in ("", "a file", "a directory"):
        raise UserError(
            f"{what} {path} is {found}: give a path to a regular file or directory on a"
            " disk"
        )


def check_directory(path: Path, what: str) -> Path:
    """Return ``path`` if it is a directory or could be created as one; otherwise raise
    a `UserError` about ``what``.
    """
    check_special(path, what)
    blocking = next(
        each for each in (path.absolute(), *path.absolute().parents) if _exists(each)
    )
    if not blocking.is_dir():
        found = _kind(blocking) or "a broken link"
        where = (
            f"{what} {path} is {found}"
            if blocking == path.absolute()
            else f"{what} {path}: {blocking} is {found}"
        )
        raise UserError(
            f"{where}; give a directory, or a path where one can be created"
        )
    return path


def check_output(path: Path, what: str, *, reads: Iterable[Path | str] = ()) -> None:
    """Raise `UserError` if no file can be written to ``path``, or if it would change
    what the same command reads.

    ``reads`` are the files, directories and URIs that the command reads: the output may
    be none of these files, and in none of these directories. ``what`` names the
    argument, e.g. ``--out``.
    """
    check_special(path, what)
    folder = path.absolute().parent
    if path.is_dir() or not folder.is_dir():
        found = (
            f"{path} is a directory" if path.is_dir() else f"{folder} is no directory"
        )
        raise UserError(
            f"{what} {path}: {found}; give the path of a file in an existing directory"
        )
    check_unread(path, what, reads)


def check_unread(path: Path, what: str, reads: Iterable[Path | str]) -> None:
    """Raise `UserError` if the output file or directory ``path`` is or lies in one of
    ``reads``: `check_output`.
    """
    real = Path(os.path.realpath(os.path.expanduser(path)))
    for each in map(str, reads):
        plain = unquote(urlsplit(each).path) if each.startswith("file://") else each
        read = Path(os.path.realpath(os.path.expanduser(plain)))
        if real == read or (read.is_dir() and real.is_relative_to(read)):
            found = (
                "it is read"
                if real == read
                else f"it lies in {public_uri(each)}, which is read"
            )
            raise UserError(
                f"{what} {path}: {found} by this command, which would change it; give"
                " another path"
            )


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
    found = _kind(path)
    size = path.stat().st_size
    if found != "a file" and not (directories and found == "a directory"):
        expected = "file or directory" if directories else "file"
        remedy = "remove it, or name another path"
        raise UserError(
            f"cannot read {path}: expected a regular {expected}, found {found};"
            f" {remedy}"
        )
    return size


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading in binary mode; raises the same errors as
    `regular_size`.
    """
    regular_size(path)
    return path.open("rb")


def _exists(path: Path) -> bool:
    """Return whether ``path`` exists, even as a broken link; raises OSError if the
    system refuses the name.
    """
    try:
        return bool(path.lstat())
    except (FileNotFoundError, NotADirectoryError):
        return False


def _kind(path: Path) -> str:
    """Return what ``path`` is after following links, e.g. "a named pipe"; "" if nothing
    is there.
    """
    real = Path(os.path.realpath(path))
    if any(real.is_relative_to(root) for root in _VIRTUAL) and not real.is_relative_to(
        _SHARED_MEMORY
    ):
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
"""Query parameters of URIs of `pyarrow.fs` that are printed; every other one may be a
secret, e.g. ``access_key``.
"""


def without(text: str, secrets: Collection[str]) -> str:
    """Return ``text`` with each of the ``secrets`` replaced by ``***``."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def public_uri(uri: str, *, options: bool = True) -> str:
    """Return a path or URI without user name, password and secret query parameters, to
    be printed.

    Without ``options``, the whole query is left out.
    """
    if "://" not in uri:
        return uri
    scheme, rest = uri.split("://", 1)
    place, _, query = rest.partition("?")
    place = place[len(_user_info(place)) :]
    kept = [
        (name, value)
        for name, value in parse_qsl(query)
        if options and name in _PUBLIC_OPTIONS and "@" not in value
    ]
    return f"{scheme}://{place}{'?' if kept else ''}{urlencode(kept, safe='/:')}"


def secrets_in(uri: str) -> frozenset[str]:
    """Return the texts of 3 or more characters in a URI that must not be printed: user,
    password, secret parameters.
    """
    if "://" not in uri:
        return frozenset()
    place, _, query = uri.split("://", 1)[1].partition("?")
    user = _user_info(place).removesuffix("@")
    found = [user, *user.split(":", 1)]
    for part in query.split("&"):
        name, _, value = part.partition("=")
        if name not in _PUBLIC_OPTIONS or "@" in unquote(value):
            found.append(value)
    forms = {
        form for text in found for form in (text, unquote(text), quote(text, safe=""))
    }
    return frozenset(
        form for form in forms if len(form) > 2
    )  # shorter ones would spoil every message


def _user_info(place: str) -> str:
    """Return the part of ``user:password@host/path`` up to "@"; a password may hold
    "/", though it should not.
    """
    netloc = place.partition("/")[0]
    if "@" in netloc:
        return netloc[: netloc.rindex("@") + 1]
    port = netloc.partition(":")[2]
    return (
        place[: place.rindex("@") + 1]
        if port and not port.isdecimal() and "@" in place
        else ""
    )
