"""One file from one address over HTTP: hashed while it arrives, continued where the connection broke off."""

import logging
import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from orca_ray import __version__
from orca_ray.data import cache
from orca_ray.data.crew import Stopped
from orca_ray.data.part import Part

if TYPE_CHECKING:
    from requests import Response, Session

logger = logging.getLogger(__name__)

Told = Callable[[int, int | None], None]
"""Is told how many bytes are there, and of how many."""

_READ_BYTES = 1 << 16
_WORTH_ANOTHER_TRY = frozenset({408, 425, 429})
_LONGEST_ASKED_WAIT = 300.0


@dataclass(frozen=True)
class Patience:
    """How long to put up with a bad server."""

    tries: int = 6
    """Tries in a row that may bring nothing new."""
    tries_to_reach: int = 3
    """The same, where the server cannot even be reached: as a rule there is no network."""
    first_wait: float = 1.0
    """Seconds before the second try; twice as many before each further one, give or take a quarter."""
    longest_wait: float = 60.0
    connect_seconds: float = 15.0
    silence_seconds: float = 60.0
    """Without a byte for so long, a connection counts as broken."""

    def wait(self, failures: int) -> float:
        """Return the seconds to wait after so many failures in a row."""
        # The bound on the exponent keeps the power finite.
        doubled = min(self.first_wait * 2.0 ** min(failures - 1, 30), self.longest_wait)
        return doubled * random.uniform(0.75, 1.25)


class Failed(Exception):
    """An address gave no file; the message says why."""

    def __init__(self, reason: str, *, lasting: bool = False, reached: bool = True, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.lasting = lasting
        """Whether another try is in vain."""
        self.reached = reached
        """Whether there was a server at all."""
        self.wait = wait
        """Seconds that the server asked for."""


def download(part: Part, *, hash_known: bool, patience: Patience, stop: threading.Event, told: Told) -> None:
    """Fetch the rest of a part, till it is whole.

    Args:
        part: what is there of the file; its directory exists. Redirects of its address are followed.
        hash_known: whether the caller can tell a wrong file by its hash. If not, only a server that says which version
            of a file it sends is asked to continue it, and one that does not say how long it is is refused.
        patience: tries and time-outs.
        stop: calls the fetch off.
        told: is told of progress.

    Raises:
        Failed: the server has no such file, or patience is at its end; what arrived is kept for a later call.
        Stopped: ``stop`` was set.
        UserError: the disk is full or not writable.
    """
    from requests import Session

    furthest, failures = part.size, 0
    with Session() as session:
        session.headers.update({"User-Agent": f"orca-ray/{__version__}", "Accept-Encoding": "identity"})
        while not part.complete:
            try:
                _try_once(session, part, hash_known, patience, stop, told)
                break
            except Failed as error:
                failure = error
            failures = 1 if part.size > furthest else failures + 1
            furthest = max(furthest, part.size)
            if failure.lasting:
                raise failure
            if failures >= (patience.tries if failure.reached else patience.tries_to_reach):
                raise Failed(f"{failure} ({failures} tries)")
            _wait(max(patience.wait(failures), failure.wait), part.url, failure, stop)


def content_length(url: str, patience: Patience) -> int:
    """Return how long the file at ``url`` is, or 0 where its server does not say without sending it."""
    import requests

    try:
        timeout = (patience.connect_seconds, patience.silence_seconds)
        with requests.head(url, allow_redirects=True, timeout=timeout) as response:
            known = response.ok and not _is_page(response.headers)
            return (_length(response.headers) or 0) if known else 0
    except requests.RequestException as error:
        logger.debug("%s does not tell its length: %s", url, error)
        return 0


def _wait(seconds: float, url: str, failure: Failed, stop: threading.Event) -> None:
    logger.debug("%s: %s; again in %.1f s", url, failure, seconds)
    if stop.wait(seconds):
        raise Stopped


def _try_once(
    session: "Session", part: Part, hash_known: bool, patience: Patience, stop: threading.Event, told: Told
) -> None:
    import requests
    import urllib3

    if part.size and not (part.validator or hash_known):
        part.discard()  # what continues it could be another file's end, and nobody would know
    headers = {}
    if part.size:
        headers["Range"] = f"bytes={part.size}-"
        if part.validator:
            headers["If-Range"] = part.validator
    timeout = (patience.connect_seconds, patience.silence_seconds)
    try:
        with session.get(part.url, headers=headers, stream=True, timeout=timeout) as response:
            _refuse_status(response, part)
            _agree(response, part, hash_known)
            _receive(response, part, stop, told)
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise _explained(error, part, patience) from error


def _refuse_status(response: "Response", part: Part) -> None:
    status = response.status_code
    if status in (200, 206):
        if _is_page(response.headers) and not part.path.name.endswith((".html.part", ".htm.part")):
            raise Failed("a web page came instead of the file: the address asks for a log-in, or is gone", lasting=True)
        return
    if status == 416:  # the part is no beginning of what is there now
        part.discard()
        raise Failed("the file there is shorter than what came before")
    told = f"the server answered {status} {response.reason or ''}".rstrip()
    again = status >= 500 or status in _WORTH_ANOTHER_TRY
    raise Failed(told, lasting=not again, wait=_asked_wait(response.headers) if again else 0.0)


def _agree(response: "Response", part: Part, hash_known: bool) -> None:
    """Settle where in the file the body of the answer begins, and how long the file is."""
    if response.status_code == 206:
        if not part.size or not part.continues_with(response.headers):
            part.discard()
            raise Failed("the file there changed since its first part was fetched")
    else:  # the file changed, or this server sends whole files only
        total = _length(response.headers)
        if total is None and not hash_known and not _chunked(response.headers):
            raise Failed(
                "the server does not say how long the file is: a broken connection would go unseen", lasting=True
            )
        with cache.disk_errors(part.path.parent):
            part.begin(response.headers, total)
    if part.total is not None:
        cache.require_space(part.path.parent, part.total - part.size)


def _receive(response: "Response", part: Part, stop: threading.Event, told: Told) -> None:
    with cache.disk_errors(part.path.parent), part.path.open("ab") as stream:
        # What the server labels as compressed is stored as it comes: an archive stays the archive.
        for block in response.raw.stream(_READ_BYTES, decode_content=False):
            if stop.is_set():
                raise Stopped
            stream.write(block)
            part.append(block)
            told(part.size, part.total)
    if part.total is not None and part.size != part.total:
        size, total = part.size, part.total
        if size > total:
            part.discard()
        raise Failed(f"{size} bytes came, {total} were announced")


def _explained(error: Exception, part: Part, patience: Patience) -> Failed:
    """Word what went wrong with a connection."""
    import requests
    import urllib3

    logger.debug("%s: %s", part.url, error)
    host = urlsplit(part.url).hostname or part.url
    if isinstance(error, requests.exceptions.SSLError):
        return Failed(f"no secure connection to {host}: {error}", lasting=True)
    if isinstance(error, requests.exceptions.ProxyError):
        return Failed(f"the proxy on the way to {host} cannot be reached or refuses", reached=False)
    if isinstance(error, requests.exceptions.TooManyRedirects | ValueError):  # ValueError: no address at all
        return Failed(str(error), lasting=True)
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
        return Failed(f"no answer from {host} for {patience.silence_seconds:g} s")
    reason = getattr(error.args[0], "reason", None) if error.args else None
    if isinstance(reason, urllib3.exceptions.NewConnectionError):
        return Failed(f"{host} cannot be reached", reached=False)
    return Failed(f"the connection broke off after {part.size} of {part.total or 'an unknown number of'} bytes")


def _length(headers: Mapping[str, str]) -> int | None:
    text = headers.get("Content-Length", "")
    return int(text) if text.isdecimal() else None


def _chunked(headers: Mapping[str, str]) -> bool:
    return headers.get("Transfer-Encoding", "").strip().lower() == "chunked"


def _is_page(headers: Mapping[str, str]) -> bool:
    return headers.get("Content-Type", "").partition(";")[0].strip().lower() == "text/html"


def _asked_wait(headers: Mapping[str, str]) -> float:
    text = headers.get("Retry-After", "")
    return min(float(text), _LONGEST_ASKED_WAIT) if text.isdecimal() else 0.0
