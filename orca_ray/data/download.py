"""Download of one file over HTTP, which continues after a broken connection.

A later process can continue it, too. No library is used for this, because ``requests``,
``urllib3`` and pooch start a broken download from its beginning, and the client of
Hugging Face serves only its hub.
"""

import contextlib
import json
import logging
import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from orca_ray.data import cache
from orca_ray.errors import UserError
from orca_ray.version import __version__

if TYPE_CHECKING:
    from requests import Response, Session

logger = logging.getLogger(__name__)

ReportDownloaded = Callable[[int, int | None], None]
"""Function that is called with the number of bytes received, and the file's length.

The length is None if unknown. The function may raise Stopped.
"""
_TEMPORARY = frozenset({408, 425, 429})
"""Status codes below 500 after which a retry may succeed."""
_LONGEST_RETRY_AFTER = 300.0
"""Longest wait in seconds that a server may ask for."""
_MOST_DOUBLINGS = 30
"""Largest number of doublings of a waiting time, so that it stays finite."""


@dataclass(frozen=True)
class Patience:
    """Settings of a download: number of tries, waiting times and time-outs."""

    tries: int = 6
    """Number of consecutive tries without a new byte after which the download fails."""
    tries_to_reach: int = 2
    """Number of tries, in place of ``tries``, if no server answers at all.

    The server or proxy then cannot be reached, or does not answer.
    """
    first_wait: float = 1.0
    """Seconds before the second try. They are doubled for each further try.

    All waiting times are varied at random by ±25 %.
    """
    longest_wait: float = 60.0
    """Largest number of seconds before a try, without the random variation."""
    connect_seconds: float = 10.0
    """Time-out for the connection, including TLS and the tunnel through a proxy."""
    silence_seconds: float = 15.0
    """A connection counts as broken when no byte arrives for this many seconds."""


class Stopped(Exception):
    """Raised in a worker thread that ends early because its ``stop`` event was set."""


class Failed(Exception):
    """Raised if a download from a URL failed; the message is the reason."""

    def __init__(
        self,
        reason: str,
        *,
        permanent: bool = False,
        reached: bool = True,
        wait: float = 0.0,
    ) -> None:
        """Store the arguments.

        ``permanent``: whether a retry is useless. ``reached``: whether a server
        answered. ``wait``: seconds before a retry.
        """
        super().__init__(reason)
        self.permanent = permanent
        self.reached = reached
        self.wait = wait


def check_answer(url: str, patience: Patience) -> None:
    """Raise Failed if no server answers at ``url``.

    Call this before a library that would retry for many minutes.
    """
    import requests

    host = urlsplit(url).hostname
    timeout = (patience.connect_seconds, patience.silence_seconds)
    for attempt in range(patience.tries_to_reach):
        try:
            requests.head(url, timeout=timeout).close()
            return
        except requests.Timeout:
            reason = f"no answer came from {host} before the time-out"
        except requests.RequestException as error:
            # e.g. about certificates, which the client may know
            if type(error) is not requests.ConnectionError:
                return
            reason = f"{host} cannot be reached"
        if attempt + 1 < patience.tries_to_reach:
            time.sleep(patience.first_wait)
    raise Failed(f"{reason} ({patience.tries_to_reach} tries)", reached=False)


def download(
    url: str,
    part: Path,
    *,
    hash_known: bool,
    patience: Patience,
    stop: threading.Event,
    report: ReportDownloaded,
) -> None:
    """Download a file to ``part``, a path that ends in ``.part``.

    An interrupted download is continued by the next call. ``<part>.json`` stores the
    URL, the length and the server's validator, a header that identifies a version of
    the file (a strong ETag, else Last-Modified). A download is continued only if URL
    and validator are the same as before. With ``hash_known``, the caller verifies the
    result by a known hash; then a download without a validator or from another URL is
    continued, too. Otherwise, a server that does not send the length is refused.

    Raises Failed if the server has no such file or all tries failed; the received bytes
    are kept for a later call. Raises Stopped if ``stop`` was set, UserError if ``part``
    is a symbolic link or the file does not fit on the disk, and OSErrors of writing.
    """
    from requests import Session

    start = _received(part, url, hash_known).size
    furthest = start  # largest size that was reached
    failures = 0
    with Session() as session:
        session.headers.update(
            {"User-Agent": f"orca-ray/{__version__}", "Accept-Encoding": "identity"}
        )
        while True:
            try:
                return _try_once(session, url, part, hash_known, patience, report)
            except Failed as error:
                failure = error
            size = _received(part, url, hash_known).size
            # Failures are counted since the last try that brought more bytes.
            failures = 1 if size > furthest else failures + 1
            furthest = max(furthest, size)
            if failure.permanent:
                raise failure
            is_reached = failure.reached or furthest > start
            if failures >= (patience.tries if is_reached else patience.tries_to_reach):
                raise Failed(f"{failure} ({failures} tries)")
            seconds = max(_waiting_seconds(patience, failures), failure.wait)
            logger.debug("%s: %s; trying again in %.1f s", url, failure, seconds)
            if stop.wait(seconds):
                raise Stopped


def _waiting_seconds(patience: Patience, failures: int) -> float:
    """Return the seconds to wait after so many failures, varied at random."""
    doublings = min(failures - 1, _MOST_DOUBLINGS)
    seconds = min(patience.first_wait * 2.0**doublings, patience.longest_wait)
    return seconds * random.uniform(0.75, 1.25)


def discard(part: Path) -> None:
    """Remove the bytes received so far and the JSON file that describes them."""
    part.unlink(missing_ok=True)
    _description(part).unlink(missing_ok=True)


def _description(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


class _Received(NamedTuple):
    """The bytes of a download that can be continued."""

    size: int
    """Number of bytes; 0: nothing can be continued."""
    total: int | None
    """Announced length of the file; None: unknown."""
    validator: str
    """Validator of the file; "": the bytes are of another URL."""


def _received(part: Path, url: str, hash_known: bool) -> _Received:
    """Return the bytes of an earlier download to ``part`` that can be continued."""
    if part.is_symlink():
        raise UserError(
            f"{part} is a symbolic link, and no file is written through it: remove it"
        )
    nothing = _Received(0, None, "")
    description: dict[str, Any] = {}
    with contextlib.suppress(UserError, OSError):
        description = cache.read_json(_description(part))
    kinds = {"url": str, "validator": str, "bytes": int | None}
    # A missing key becomes Ellipsis, which is of none of these types.
    is_described = all(
        isinstance(description.get(key, ...), kind) for key, kind in kinds.items()
    )
    if not is_described or not part.exists():
        return nothing
    size = cache.check_special(part)
    total = description["bytes"]
    validator = description["validator"] if description["url"] == url else ""
    is_verifiable = bool(validator) or hash_known
    if not is_verifiable or (total is not None and size > total):
        return nothing
    return _Received(size, total, validator)


def _try_once(
    session: "Session",
    url: str,
    part: Path,
    hash_known: bool,
    patience: Patience,
    report: ReportDownloaded,
) -> None:
    """Download the missing bytes of a file; raise Failed if some are still missing."""
    import requests
    import urllib3

    received = _received(part, url, hash_known)
    size = received.size
    total = received.total
    if size and size == total:
        return
    headers = _range_headers(received)
    is_answered = False
    timeout = (patience.connect_seconds, patience.silence_seconds)
    try:
        with session.get(
            url, headers=headers, stream=True, timeout=timeout
        ) as response:
            is_answered = True
            _check_status(response, part)
            if response.status_code == 206:
                _check_continued(response, part, received)
            else:  # the file changed, or the server ignores ranges
                size = 0
                total = _start_anew(response, url, part, hash_known)
            if total is not None:
                cache.check_space(part.parent, total - size)
            with part.open("ab") as stream:
                # The body is stored as it is sent: a server may label an archive as
                # compressed content.
                for block in response.raw.stream(1 << 16, decode_content=False):
                    stream.write(block)
                    size += len(block)
                    report(size, total)
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        progress = f"{size} of {total or 'an unknown number of'} bytes"
        raise _make_failure(error, url, is_answered, progress) from error
    if total is None or size == total:
        return
    if size > total:
        discard(part)
    raise Failed(f"{size} bytes came, {total} were announced")


def _range_headers(received: _Received) -> dict[str, str]:
    """Return the headers that ask for the bytes after those received."""
    headers = {}
    if received.size:
        headers["Range"] = f"bytes={received.size}-"
        if received.validator:
            headers["If-Range"] = received.validator
    return headers


def _check_status(response: "Response", part: Path) -> None:
    """Raise Failed unless the answer has the file or a part of it."""
    status = response.status_code
    if status == 416:
        discard(part)
        raise Failed("the file on the server is shorter than the part that came before")
    if status not in (200, 206):
        is_temporary = status >= 500 or status in _TEMPORARY
        retry_after = response.headers.get("Retry-After", "")
        wait = 0.0
        if is_temporary and retry_after.isdecimal():
            wait = min(float(retry_after), _LONGEST_RETRY_AFTER)
        reason = f"the server answered {status} {response.reason or ''}".rstrip()
        raise Failed(reason, permanent=not is_temporary, wait=wait)
    content_type = response.headers.get("Content-Type", "").partition(";")[0]
    is_page = content_type.strip().lower() == "text/html"
    if is_page and not part.stem.endswith((".html", ".htm")):
        raise Failed(
            "a web page came instead of the file: the address needs a log-in or is"
            " gone",
            permanent=True,
        )


def _check_continued(response: "Response", part: Path, received: _Received) -> None:
    """Raise Failed unless the response continues what was received.

    It must start at the next missing byte of the same version of the file.
    """
    content_range = response.headers.get("Content-Range", "").strip()
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", content_range)
    is_next = False
    is_length = False
    if match:
        is_next = received.size > 0 and int(match[1]) == received.size
        is_length = match[2] == "*" or received.total in (None, int(match[2]))
    validator = _validator(response.headers)
    is_version = not received.validator or validator in ("", received.validator)
    if not (is_next and is_length and is_version):
        discard(part)
        raise Failed("the file on the server changed since its first part was fetched")


def _start_anew(
    response: "Response", url: str, part: Path, hash_known: bool
) -> int | None:
    """Empty ``part``, and store a description of the file that the server sends.

    Return the length of this file; None if unknown.
    """
    length = response.headers.get("Content-Length", "")
    total = int(length) if length.isdecimal() else None
    encoding = response.headers.get("Transfer-Encoding", "").strip().lower()
    if total is None and not hash_known and encoding != "chunked":
        raise Failed(
            "the server does not say how long the file is: a broken connection would go"
            " unnoticed",
            permanent=True,
        )
    # Emptied before the description changes: a process killed in between leaves no
    # bytes of a wrong version.
    cache.create_file(part).close()
    description = {
        "url": url,
        "bytes": total,
        "validator": _validator(response.headers),
    }
    cache.write_text(_description(part), json.dumps(description))
    return total


def _make_failure(
    error: Exception, url: str, is_answered: bool, progress: str
) -> Failed:
    """Return the failure of a download that raised ``error``.

    ``progress``: text on the number of bytes that were received.
    """
    import requests
    import urllib3

    logger.debug("%s: %s", url, error)
    host = urlsplit(url).hostname or url
    if isinstance(error, requests.exceptions.SSLError):
        return Failed(f"no secure connection to {host}: {error}", permanent=True)
    if isinstance(error, requests.exceptions.ProxyError):
        return Failed(
            f"the proxy to {host} cannot be reached or refuses", reached=False
        )
    # ValueError: not a URL
    if isinstance(error, requests.exceptions.TooManyRedirects | ValueError):
        return Failed(str(error), permanent=True)
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
        what = "nothing more came" if is_answered else "no answer came"
        return Failed(f"{what} from {host} before the time-out", reached=is_answered)
    reason = getattr(error.args[0], "reason", None) if error.args else None
    if isinstance(reason, urllib3.exceptions.NewConnectionError):
        return Failed(f"{host} cannot be reached", reached=False)
    return Failed(f"the connection broke off after {progress}")


def _validator(headers: Mapping[str, str]) -> str:
    """Return the header that identifies a version of a file; "" if there is none.

    It is a strong ETag, else Last-Modified.
    """
    etag = headers.get("ETag", "")
    if etag and not etag.startswith("W/"):
        return etag
    return headers.get("Last-Modified", "")
