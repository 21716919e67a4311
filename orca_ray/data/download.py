"""Download of one file over HTTP, hashed on arrival and continued after a broken connection."""

import logging
import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from orca_ray import __version__
from orca_ray.data import cache
from orca_ray.data.partial_download import PartialDownload
from orca_ray.data.thread_pool import Stopped

if TYPE_CHECKING:
    from requests import Response, Session

logger = logging.getLogger(__name__)

_READ_BYTES = 1 << 16
_TEMPORARY = frozenset({408, 425, 429})
_LONGEST_RETRY_AFTER = 300.0


@dataclass(frozen=True)
class Patience:
    """Retries and time-outs."""

    tries: int = 6
    """Consecutive tries without a new byte."""
    tries_to_reach: int = 3
    """The same for a server that cannot be reached: usually there is no network."""
    first_wait: float = 1.0
    """Seconds before the second try, doubled for each further one, plus or minus a quarter."""
    longest_wait: float = 60.0
    connect_seconds: float = 15.0
    silence_seconds: float = 60.0
    """Seconds without a byte after which a connection counts as broken."""

    def wait(self, failures: int) -> float:
        """Return the seconds to wait after a number of consecutive failures."""
        # The bound on the exponent keeps the power finite.
        doubled = min(self.first_wait * 2.0 ** min(failures - 1, 30), self.longest_wait)
        return doubled * random.uniform(0.75, 1.25)


class Failed(Exception):
    """A URL gave no file; the message is the reason."""

    def __init__(self, reason: str, *, permanent: bool = False, reached: bool = True, wait: float = 0.0) -> None:
        """Store whether another try is useless, whether a server answered, and the wait that it asked for."""
        super().__init__(reason)
        self.permanent, self.reached, self.wait = permanent, reached, wait


def content_length(url: str, patience: Patience) -> int:
    """Return the length of the file at ``url``; 0 when the server does not report it."""
    import requests

    try:
        timeout = (patience.connect_seconds, patience.silence_seconds)
        with requests.head(url, allow_redirects=True, timeout=timeout) as response:
            known = response.ok and not _is_page(response.headers)
            return (_length(response.headers) or 0) if known else 0
    except requests.RequestException as error:
        logger.debug("%s does not report its length: %s", url, error)
        return 0


@dataclass(frozen=True)
class Download:
    """The download of one file.

    Without a known hash, a file is only continued when the server identifies its version, and a server that does not
    send the length is refused.
    """

    part: PartialDownload
    """What has arrived; its directory exists. Redirects of its URL are followed."""
    hash_known: bool
    """Whether the caller verifies the result by its hash."""
    patience: Patience
    stop: threading.Event
    """Cancels the download."""
    report: Callable[[int, int | None], None]
    """Called with the number of bytes that have arrived, and the length of the file."""

    def run(self) -> None:
        """Fetch the rest of the partial download until it is complete.

        Raises:
            Failed: the server has no such file, or all tries failed; what arrived is stored for a later call.
            Stopped: ``stop`` was set.
            UserError: the disk is full or not writable.
        """
        from requests import Session

        part, patience = self.part, self.patience
        furthest, failures = part.size, 0
        with Session() as session:
            session.headers.update({"User-Agent": f"orca-ray/{__version__}", "Accept-Encoding": "identity"})
            while not part.complete:
                try:
                    self._try_once(session)
                    break
                except Failed as error:
                    failure = error
                failures = 1 if part.size > furthest else failures + 1
                furthest = max(furthest, part.size)
                if failure.permanent:
                    raise failure
                if failures >= (patience.tries if failure.reached else patience.tries_to_reach):
                    raise Failed(f"{failure} ({failures} tries)")
                seconds = max(patience.wait(failures), failure.wait)
                logger.debug("%s: %s; trying again in %.1f s", part.url, failure, seconds)
                if self.stop.wait(seconds):
                    raise Stopped

    def _try_once(self, session: "Session") -> None:
        import requests
        import urllib3

        part = self.part
        if part.size and not (part.validator or self.hash_known):
            part.discard()  # its continuation could belong to another version, unnoticed
        headers = {"Range": f"bytes={part.size}-"} if part.size else {}
        if part.size and part.validator:
            headers["If-Range"] = part.validator
        timeout = (self.patience.connect_seconds, self.patience.silence_seconds)
        try:
            with session.get(part.url, headers=headers, stream=True, timeout=timeout) as response:
                self._refuse_status(response)
                with cache.disk_errors(part.path.parent):
                    self._accept_headers(response)
                    self._receive(response)
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise self._explained(error) from error

    def _refuse_status(self, response: "Response") -> None:
        status = response.status_code
        if status == 416:  # the part is longer than the file on the server
            self.part.discard()
            raise Failed("the file on the server is shorter than the part that came before")
        if status not in (200, 206):
            temporary = status >= 500 or status in _TEMPORARY
            retry_after = response.headers.get("Retry-After", "")
            wait = min(float(retry_after), _LONGEST_RETRY_AFTER) if temporary and retry_after.isdecimal() else 0.0
            reason = f"the server answered {status} {response.reason or ''}".rstrip()
            raise Failed(reason, permanent=not temporary, wait=wait)
        if _is_page(response.headers) and not self.part.path.name.endswith((".html.part", ".htm.part")):
            raise Failed("a web page came instead of the file: the address needs a log-in or is gone", permanent=True)

    def _accept_headers(self, response: "Response") -> None:
        """Determine where in the file the body of the response starts, and the length of the file."""
        part, headers = self.part, response.headers
        if response.status_code == 206:
            if not part.size or not part.is_continued_by(headers):
                part.discard()
                raise Failed("the file on the server changed since its first part was fetched")
        else:  # the file changed, or the server ignores ranges
            total = _length(headers)
            chunked = headers.get("Transfer-Encoding", "").strip().lower() == "chunked"
            if total is None and not self.hash_known and not chunked:
                reason = "the server does not say how long the file is: a broken connection would go unnoticed"
                raise Failed(reason, permanent=True)
            part.start(headers, total)
        if part.total is not None:
            cache.require_space(part.path.parent, part.total - part.size)

    def _receive(self, response: "Response") -> None:
        part = self.part
        with part.open() as stream:
            # The body is stored as it is sent: a server may label an archive as compressed content.
            for block in response.raw.stream(_READ_BYTES, decode_content=False):
                if self.stop.is_set():
                    raise Stopped
                stream.write(block)
                part.digest.update(block)
                self.report(part.size, part.total)
        if part.total is not None and part.size != part.total:
            size, total = part.size, part.total
            if size > total:
                part.discard()
            raise Failed(f"{size} bytes came, {total} were announced")

    def _explained(self, error: Exception) -> Failed:
        """Return the reason for a failed connection in words."""
        import requests
        import urllib3

        part = self.part
        logger.debug("%s: %s", part.url, error)
        host = urlsplit(part.url).hostname or part.url
        if isinstance(error, requests.exceptions.SSLError):
            return Failed(f"no secure connection to {host}: {error}", permanent=True)
        if isinstance(error, requests.exceptions.ProxyError):
            return Failed(f"the proxy to {host} cannot be reached or refuses", reached=False)
        if isinstance(error, requests.exceptions.TooManyRedirects | ValueError):  # ValueError: not a URL
            return Failed(str(error), permanent=True)
        if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
            return Failed(f"no answer from {host} for {self.patience.silence_seconds:g} s")
        reason = getattr(error.args[0], "reason", None) if error.args else None
        if isinstance(reason, urllib3.exceptions.NewConnectionError):
            return Failed(f"{host} cannot be reached", reached=False)
        return Failed(f"the connection broke off after {part.size} of {part.total or 'an unknown number of'} bytes")


def _length(headers: Mapping[str, str]) -> int | None:
    text = headers.get("Content-Length", "")
    return int(text) if text.isdecimal() else None


def _is_page(headers: Mapping[str, str]) -> bool:
    return headers.get("Content-Type", "").partition(";")[0].strip().lower() == "text/html"
