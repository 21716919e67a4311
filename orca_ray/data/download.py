"""Download of one file over HTTP; after a broken connection or in a later process, it
continues where it stopped.
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
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from orca_ray.data import cache
from orca_ray.errors import UserError
from orca_ray.version import __version__

if TYPE_CHECKING:
    from requests import Response, Session

logger = logging.getLogger(__name__)

ReportDownloaded = Callable[[int, int | None], None]
"""Called with the number of bytes received so far, and the length of the file (None if
unknown); may raise Stopped.
"""
_TEMPORARY = frozenset({408, 425, 429})
_LONGEST_RETRY_AFTER = 300.0


@dataclass(frozen=True)
class Patience:
    """Settings of a download: number of tries, waiting times and time-outs."""

    tries: int = 6
    """The download fails after this many consecutive tries in which no new byte
    arrived.
    """
    tries_to_reach: int = 2
    """Used instead of ``tries`` while no byte has arrived and the server or proxy
    cannot be reached or does not answer.
    """
    first_wait: float = 1.0
    """Seconds before the second try; doubled for each further try up to
    ``longest_wait``, then varied by ±25 %.
    """
    longest_wait: float = 60.0
    connect_seconds: float = 10.0
    """Time-out for the connection, including TLS and the tunnel through a proxy."""
    silence_seconds: float = 15.0
    """A connection counts as broken when no byte arrives for this many seconds."""


class Stopped(Exception):
    """Raised in a worker thread that ends early because its ``stop`` event was set."""


class Failed(Exception):
    """Raised if no file could be downloaded from a URL; the message is the reason."""

    def __init__(
        self,
        reason: str,
        *,
        permanent: bool = False,
        reached: bool = True,
        wait: float = 0.0,
    ) -> None:
        """``permanent``: retrying is useless; ``reached``: a server answered; ``wait``:
        seconds before a retry.
        """
        super().__init__(reason)
        self.permanent = permanent
        self.reached = reached
        self.wait = wait


def check_answer(url: str, patience: Patience) -> None:
    """Raise Failed if no server answers at ``url``; call this before a library that
    would retry for many minutes.
    """
    import requests

    host = urlsplit(url).hostname
    for attempt in range(patience.tries_to_reach):
        try:
            requests.head(
                url, timeout=(patience.connect_seconds, patience.silence_seconds)
            ).close()
            return
        except requests.Timeout:
            reason = f"no answer came from {host} before the time-out"
        except requests.RequestException as error:
            if (
                type(error) is not requests.ConnectionError
            ):  # e.g. about certificates, which the client may know
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
    """Download a file to ``part``, a path that ends in ``.part``; the bytes of an
    earlier call are continued.

    ``<part>.json`` stores the URL, the length and the server's validator, a header that
    identifies a version of the file (a strong ETag, else Last-Modified). A download
    continues only if URL and validator are the same as before. With ``hash_known``, the
    caller verifies the result by a known hash: a download without a validator or from
    another URL is then continued, too. Otherwise, a server that does not send the
    length is refused.

    Raises Failed if the server has no such file or all tries failed (the bytes received
    are kept for a later call), Stopped if ``stop`` was set, UserError if ``part`` is a
    symbolic link or the file does not fit on the disk, and the OSErrors of writing.
    """
    from requests import Session

    start = furthest = _received(part, url, hash_known)[0]
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
            size = _received(part, url, hash_known)[0]
            failures = 1 if size > furthest else failures + 1
            furthest = max(furthest, size)
            if failure.permanent:
                raise failure
            if failures >= (
                patience.tries
                if failure.reached or furthest > start
                else patience.tries_to_reach
            ):
                raise Failed(f"{failure} ({failures} tries)")
            # The bound on the exponent keeps the power finite.
            doubled = min(
                patience.first_wait * 2.0 ** min(failures - 1, 30),
                patience.longest_wait,
            )
            seconds = max(doubled * random.uniform(0.75, 1.25), failure.wait)
            logger.debug("%s: %s; trying again in %.1f s", url, failure, seconds)
            if stop.wait(seconds):
                raise Stopped


def discard(part: Path) -> None:
    """Remove the bytes received so far and the JSON file that describes them."""
    part.unlink(missing_ok=True)
    _description(part).unlink(missing_ok=True)


def _description(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _received(part: Path, url: str, hash_known: bool) -> tuple[int, int | None, str]:
    """Return size, announced length (None: unknown) and validator of what can be
    continued; the size is 0 if nothing.

    The validator is "" if the bytes are of another URL.
    """
    if part.is_symlink():
        raise UserError(
            f"{part} is a symbolic link, and no file is written through it: remove it"
        )
    found: dict[str, Any] = {}
    with contextlib.suppress(UserError, OSError):
        found = cache.read_json(_description(part))
    kinds = {"url": str, "validator": str, "bytes": int | None}
    if part.exists() and all(
        isinstance(found.get(key, ...), kind) for key, kind in kinds.items()
    ):
        size = cache.check_special(part)
        total = found["bytes"]
        validator = found["validator"] if found["url"] == url else ""
        if (validator or hash_known) and (total is None or size <= total):
            return size, total, validator
    return 0, None, ""


def _try_once(
    session: "Session",
    url: str,
    part: Path,
    hash_known: bool,
    patience: Patience,
    report: ReportDownloaded,
) -> None:
    import requests
    import urllib3

    size, total, validator = _received(part, url, hash_known)
    if size and size == total:
        return
    headers = {"Range": f"bytes={size}-"} if size else {}
    if size and validator:
        headers["If-Range"] = validator
    answered = False
    timeout = patience.connect_seconds, patience.silence_seconds
    try:
        with session.get(
            url, headers=headers, stream=True, timeout=timeout
        ) as response:
            answered = True
            _check_status(response, part)
            if response.status_code == 206:
                _check_continued(response, part, size, total, validator)
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
        raise _explained(
            error, url, answered, f"{size} of {total or 'an unknown number of'} bytes"
        ) from error
    if total is not None and size != total:
        if size > total:
            discard(part)
        raise Failed(f"{size} bytes came, {total} were announced")


def _check_status(response: "Response", part: Path) -> None:
    status = response.status_code
    if status == 416:
        discard(part)
        raise Failed("the file on the server is shorter than the part that came before")
    if status not in (200, 206):
        temporary = status >= 500 or status in _TEMPORARY
        retry_after = response.headers.get("Retry-After", "")
        wait = (
            min(float(retry_after), _LONGEST_RETRY_AFTER)
            if temporary and retry_after.isdecimal()
            else 0.0
        )
        reason = f"the server answered {status} {response.reason or ''}".rstrip()
        raise Failed(reason, permanent=not temporary, wait=wait)
    page = (
        response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        == "text/html"
    )
    if page and not part.stem.endswith((".html", ".htm")):
        raise Failed(
            "a web page came instead of the file: the address needs a log-in or is"
            " gone",
            permanent=True,
        )


def _check_continued(
    response: "Response", part: Path, size: int, total: int | None, validator: str
) -> None:
    """Raise Failed unless the response starts at the next missing byte of the same
    version of the file.
    """
    found = re.fullmatch(
        r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip()
    )
    same_place = size and found is not None and int(found[1]) == size
    same_length = found is not None and (
        found[2] == "*" or total in (None, int(found[2]))
    )
    if not (
        same_place
        and same_length
        and (not validator or _validator(response.headers) in ("", validator))
    ):
        discard(part)
        raise Failed("the file on the server changed since its first part was fetched")


def _start_anew(
    response: "Response", url: str, part: Path, hash_known: bool
) -> int | None:
    """Empty ``part``, describe the file that the server sends, and return the length of
    this file; None if unknown.
    """
    length = response.headers.get("Content-Length", "")
    total = int(length) if length.isdecimal() else None
    chunked = response.headers.get("Transfer-Encoding", "").strip().lower() == "chunked"
    if total is None and not hash_known and not chunked:
        reason = (
            "the server does not say how long the file is: a broken connection would go"
            " unnoticed"
        )
        raise Failed(reason, permanent=True)
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


def _explained(error: Exception, url: str, answered: bool, received: str) -> Failed:
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
    if isinstance(
        error, requests.exceptions.TooManyRedirects | ValueError
    ):  # ValueError: not a URL
        return Failed(str(error), permanent=True)
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
        what = "nothing more came" if answered else "no answer came"
        return Failed(f"{what} from {host} before the time-out", reached=answered)
    reason = getattr(error.args[0], "reason", None) if error.args else None
    if isinstance(reason, urllib3.exceptions.NewConnectionError):
        return Failed(f"{host} cannot be reached", reached=False)
    return Failed(f"the connection broke off after {received}")


def _validator(headers: Mapping[str, str]) -> str:
    """Return the header that identifies a version of a file (a strong ETag, else
    Last-Modified); "" if none.
    """
    etag = headers.get("ETag", "")
    return (
        etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")
    )
