"""Download of one file over HTTP; after a broken connection or in a later process, it continues where it stopped."""

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
"""Called with the number of bytes received so far, and the length of the file (None if unknown)."""
_TEMPORARY = frozenset({408, 425, 429})
_LONGEST_RETRY_AFTER = 300.0


@dataclass(frozen=True)
class Patience:
    """Settings of a download: number of tries, waiting times and time-outs."""

    tries: int = 6
    """The download fails after this many consecutive tries in which no new byte arrived."""
    tries_to_reach: int = 2
    """Used instead of ``tries`` while no byte has arrived and the server or proxy cannot be reached or does not
    answer."""
    first_wait: float = 1.0
    """Seconds before the second try; doubled for each further try up to ``longest_wait``, then varied by ±25 %."""
    longest_wait: float = 60.0
    connect_seconds: float = 10.0
    """Time-out for the connection, including TLS and the tunnel through a proxy."""
    silence_seconds: float = 15.0
    """A connection counts as broken when no byte arrives for this many seconds."""


class Stopped(Exception):
    """Raised in a worker thread that ends early because its ``stop`` event was set."""


class Failed(Exception):
    """Raised if no file could be downloaded from a URL; the message is the reason."""

    def __init__(self, reason: str, *, permanent: bool = False, reached: bool = True, wait: float = 0.0) -> None:
        """``permanent``: retrying is useless; ``reached``: a server answered; ``wait``: seconds before a retry."""
        super().__init__(reason)
        self.permanent, self.reached, self.wait = permanent, reached, wait


def check_answer(url: str, patience: Patience) -> None:
    """Raise Failed if no server answers at ``url``; call this before a library that would retry for many minutes."""
    import requests

    host = urlsplit(url).hostname
    for attempt in range(patience.tries_to_reach):
        try:
            requests.head(url, timeout=(patience.connect_seconds, patience.silence_seconds)).close()
            return
        except requests.Timeout:
            reason = f"no answer came from {host} before the time-out"
        except requests.RequestException as error:
            if type(error) is not requests.ConnectionError:  # e.g. about certificates, which the client may know
                return
            reason = f"{host} cannot be reached"
        if attempt + 1 < patience.tries_to_reach:
            time.sleep(patience.first_wait)
    raise Failed(f"{reason} ({patience.tries_to_reach} tries)", reached=False)


class Download:
    """The download of one file: ``<target>.part`` holds the bytes received so far, ``<target>.part.json`` their origin.

    The JSON file stores the URL, the length and the server's validator, a header that identifies a version of the file
    (a strong ETag, else Last-Modified). A download continues only if URL and validator are the same as before. With
    ``hash_known``, the caller verifies the result by a known hash: a download without a validator or from another URL
    is then continued, too. Otherwise, a server that does not send the length is refused.
    """

    _total: int | None

    def __init__(self, target: Path, url: str, *, hash_known: bool) -> None:
        """Load the state of an unfinished download by an earlier process, if it can be continued from ``url``."""
        self.path = target.with_name(f"{target.name}.part")
        self._target, self._url, self._hash_known = target, url, hash_known
        self._description = target.with_name(f"{target.name}.part.json")
        self._reset()
        self._check_link()
        description: dict[str, Any] = {}
        with contextlib.suppress(UserError, OSError):
            found = cache.read_json(self._description)
            kinds = {"url": str, "validator": str, "bytes": int | None}
            description = found if all(isinstance(found.get(key, ...), kind) for key, kind in kinds.items()) else {}
        validator = description.get("validator", "") if description.get("url") == url else ""
        if description and (validator or hash_known) and self.path.exists():
            size, total = cache.check_special(self.path), description["bytes"]
            if total is None or size <= total:
                self.size, self._total, self._validator = size, total, validator
        self.continued = self.size > 0
        """Whether the first bytes of the file were downloaded by an earlier process or from another URL."""

    def _reset(self) -> None:
        self.size, self._validator, self.continued, self._total = 0, "", False, None

    def _check_link(self) -> None:
        if self.path.is_symlink():
            raise UserError(f"{self.path} is a symbolic link, and no file is written through it: remove it")

    def run(self, patience: Patience, stop: threading.Event, report: ReportDownloaded) -> None:
        """Download the rest of the file to ``<target>.part``.

        Raises Failed if the server has no such file or all tries failed (the bytes received are kept for a later call),
        Stopped if ``stop`` was set, and UserError if the disk is full or not writable.
        """
        from requests import Session

        furthest, failures, any_received = self.size, 0, False
        with Session() as session:
            session.headers.update({"User-Agent": f"orca-ray/{__version__}", "Accept-Encoding": "identity"})
            while self._total is None or self.size < self._total:
                try:
                    self._try_once(session, patience, stop, report)
                    break
                except Failed as error:
                    failure = error
                failures = 1 if self.size > furthest else failures + 1
                any_received |= self.size > furthest
                furthest = max(furthest, self.size)
                if failure.permanent:
                    raise failure
                if failures >= (patience.tries if failure.reached or any_received else patience.tries_to_reach):
                    raise Failed(f"{failure} ({failures} tries)")
                # The bound on the exponent keeps the power finite.
                doubled = min(patience.first_wait * 2.0 ** min(failures - 1, 30), patience.longest_wait)
                seconds = max(doubled * random.uniform(0.75, 1.25), failure.wait)
                logger.debug("%s: %s; trying again in %.1f s", self._url, failure, seconds)
                if stop.wait(seconds):
                    raise Stopped

    def discard(self) -> None:
        """Remove the bytes received so far and the JSON file that describes them."""
        self.path.unlink(missing_ok=True)
        self._description.unlink(missing_ok=True)
        self._reset()

    def finish(self) -> None:
        """Move the complete and verified file to its target, and remove the JSON file that describes it."""
        cache.replace_file(self.path, self._target)
        self._description.unlink(missing_ok=True)

    def _try_once(
        self, session: "Session", patience: Patience, stop: threading.Event, report: ReportDownloaded
    ) -> None:
        import requests
        import urllib3

        if self.size and not (self._validator or self._hash_known):
            self.discard()  # the rest could belong to another version of the file, unnoticed
        answered = False
        headers = {"Range": f"bytes={self.size}-"} if self.size else {}
        if self.size and self._validator:
            headers["If-Range"] = self._validator
        timeout = patience.connect_seconds, patience.silence_seconds
        try:
            with session.get(self._url, headers=headers, stream=True, timeout=timeout) as response:
                answered = True
                self._check_status(response)
                with cache.disk_errors(self.path.parent):
                    self._accept_headers(response)
                    self._receive(response, stop, report)
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise self._explained(error, answered) from error

    def _check_status(self, response: "Response") -> None:
        status = response.status_code
        if status == 416:
            self.discard()
            raise Failed("the file on the server is shorter than the part that came before")
        if status not in (200, 206):
            temporary = status >= 500 or status in _TEMPORARY
            retry_after = response.headers.get("Retry-After", "")
            wait = min(float(retry_after), _LONGEST_RETRY_AFTER) if temporary and retry_after.isdecimal() else 0.0
            reason = f"the server answered {status} {response.reason or ''}".rstrip()
            raise Failed(reason, permanent=not temporary, wait=wait)
        if _is_page(response.headers) and self._target.suffix not in (".html", ".htm"):
            raise Failed("a web page came instead of the file: the address needs a log-in or is gone", permanent=True)

    def _accept_headers(self, response: "Response") -> None:
        """Start the file anew unless the response continues it; UserError if the disk is too small for the rest."""
        headers = response.headers
        if response.status_code == 206:
            if not self._is_continued_by(headers):
                self.discard()
                raise Failed("the file on the server changed since its first part was fetched")
        else:  # the file changed, or the server ignores ranges
            total = _length(headers)
            chunked = headers.get("Transfer-Encoding", "").strip().lower() == "chunked"
            if total is None and not self._hash_known and not chunked:
                reason = "the server does not say how long the file is: a broken connection would go unnoticed"
                raise Failed(reason, permanent=True)
            # Emptied before the description changes: a process killed in between leaves no bytes of a wrong version.
            cache.create_file(self.path).close()
            self._reset()
            self._total, self._validator = total, _validator(headers)
            description = {"url": self._url, "bytes": total, "validator": self._validator}
            cache.write_text(self._description, json.dumps(description))
        if self._total is not None:
            cache.check_space(self.path.parent, self._total - self.size)

    def _is_continued_by(self, headers: Mapping[str, str]) -> bool:
        """Return whether a response starts at the next missing byte of the same version of the file."""
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", "").strip())
        if not self.size or found is None or int(found[1]) != self.size:
            return False
        same_length = found[2] == "*" or self._total in (None, int(found[2]))
        return same_length and (not self._validator or _validator(headers) in ("", self._validator))

    def _receive(self, response: "Response", stop: threading.Event, report: ReportDownloaded) -> None:
        self._check_link()
        with self.path.open("ab") as stream:
            # The body is stored as it is sent: a server may label an archive as compressed content.
            for block in response.raw.stream(1 << 16, decode_content=False):
                if stop.is_set():
                    raise Stopped
                stream.write(block)
                self.size += len(block)
                report(self.size, self._total)
        size, total = self.size, self._total
        if total is not None and size != total:
            if size > total:
                self.discard()
            raise Failed(f"{size} bytes came, {total} were announced")

    def _explained(self, error: Exception, answered: bool) -> Failed:
        import requests
        import urllib3

        logger.debug("%s: %s", self._url, error)
        host = urlsplit(self._url).hostname or self._url
        if isinstance(error, requests.exceptions.SSLError):
            return Failed(f"no secure connection to {host}: {error}", permanent=True)
        if isinstance(error, requests.exceptions.ProxyError):
            return Failed(f"the proxy to {host} cannot be reached or refuses", reached=False)
        if isinstance(error, requests.exceptions.TooManyRedirects | ValueError):  # ValueError: not a URL
            return Failed(str(error), permanent=True)
        if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
            what = "nothing more came" if answered else "no answer came"
            return Failed(f"{what} from {host} before the time-out", reached=answered)
        reason = getattr(error.args[0], "reason", None) if error.args else None
        if isinstance(reason, urllib3.exceptions.NewConnectionError):
            return Failed(f"{host} cannot be reached", reached=False)
        return Failed(f"the connection broke off after {self.size} of {self._total or 'an unknown number of'} bytes")


def _validator(headers: Mapping[str, str]) -> str:
    """Return the header that identifies a version of a file (a strong ETag, else Last-Modified); "" if none."""
    etag = headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")


def _length(headers: Mapping[str, str]) -> int | None:
    text = headers.get("Content-Length", "")
    return int(text) if text.isdecimal() else None


def _is_page(headers: Mapping[str, str]) -> bool:
    return headers.get("Content-Type", "").partition(";")[0].strip().lower() == "text/html"
