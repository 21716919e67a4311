"""Notices about a sweep, sent to a command or a URL that the user named.

A notice never stops the sweep: it is sent in a thread, with a time limit, and a failure
is logged once.
"""

import contextlib
import json
import logging
import os
import queue
import shlex
import shutil
import signal
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from types import TracebackType
from typing import Self

from orca_ray.errors import ClusterLostError, UserError, printable
from orca_ray.paths import split_uri
from orca_ray.sweep.run import events
from orca_ray.version import __version__

logger = logging.getLogger(__name__)

SECONDS = 20.0
"""Longest time that one notice may take."""
CLOSE_SECONDS = 30.0
"""Longest time for which the end of a sweep waits for its last notices."""
MAX_WAITING = 100
"""Largest number of notices that wait to be sent; later ones are dropped."""
MAX_TEXT = 1000
"""Largest number of characters of a notice's text."""


class Notifier:
    """Listener that sends a notice when a person should look at the sweep.

    It does so when the sweep has ended, was interrupted or failed, when a node gets no
    more trials, and when the cluster is lost. A notice is a JSON object with the keys
    ``event``, ``text``, ``sweep`` and ``host``; chat services show ``text``. A URL gets
    it in a POST request, a command on its standard input.

    Use it as a context manager around the sweep, so that it sees exceptions.
    """

    def __init__(self, target: str | None) -> None:
        """Check the target: a URL, a command line, or None for no notices.

        Raises UserError if a URL or command line cannot be used.
        """
        self._url = ""
        self._command: list[str] = []
        if target is not None:
            self._url, self._command = _parse(target)
        self._sweep = ""
        self._failed = False
        self._waiting: queue.Queue[bytes | None] = queue.Queue(MAX_WAITING)
        self._thread = threading.Thread(target=self._work, name="notify", daemon=True)

    @property
    def _is_on(self) -> bool:
        return bool(self._url or self._command)

    def __enter__(self) -> Self:
        if self._is_on:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, ClusterLostError):
            self._notify("cluster_lost", str(error))
        elif isinstance(error, Exception):
            self._notify("error", f"{type(error).__name__}: {error}")
        elif error is not None:
            self._notify("interrupted", "interrupted; the same command continues")
        if self._thread.is_alive():
            self._put(None)
            self._thread.join(CLOSE_SECONDS)
            if self._thread.is_alive():
                self._warn(f"not all were sent within {CLOSE_SECONDS:g} s")

    def __call__(self, event: events.Event) -> None:
        """Send a notice about an event, if it is one that a person should know."""
        match event:
            case events.SweepStarted():
                self._sweep = event.sweep
            case events.Message(text, is_alarm=True):
                self._notify("quarantine", text)
            case events.SweepFinished(summary):
                self._sweep = summary.sweep
                self._notify(*_ending(summary))

    def _notify(self, event: str, text: str) -> None:
        """Queue a notice, without waiting for it."""
        if not self._is_on:
            return
        name = f"{self._sweep}: " if self._sweep else ""
        notice = {
            "event": event,
            "text": printable(name + text)[:MAX_TEXT],
            "sweep": printable(self._sweep),
            "host": socket.gethostname(),
        }
        self._put(json.dumps(notice).encode())

    def _put(self, notice: bytes | None) -> None:
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(notice)

    def _work(self) -> None:
        """Send notices until None comes; the thread runs this method."""
        while (notice := self._waiting.get()) is not None:
            try:
                if self._url:
                    _post(self._url, notice)
                else:
                    _run(self._command, notice)
            except Exception as error:  # whatever is wrong, the sweep goes on
                self._warn(_reason(error))

    def _warn(self, why: str) -> None:
        """Log once that a notice was not sent; the target may hold a secret."""
        if not self._failed:
            self._failed = True
            logger.warning("--notify: a notice was not sent: %s", why)


def _parse(target: str) -> tuple[str, list[str]]:
    """Return the URL or the words of the command that ``--notify`` names."""
    if target.startswith(("http://", "https://")):
        if not split_uri(target).hostname:
            raise UserError("--notify: the URL names no host")
        return target, []
    try:
        words = shlex.split(target)
    except ValueError as error:
        raise UserError(f"--notify: the command cannot be read: {error}") from error
    if not words or shutil.which(words[0]) is None:
        raise UserError(
            "--notify names neither an http(s):// URL nor a command that exists: give"
            " e.g. 'mail -s orca-ray lab@example.org'"
        )
    return "", words


def _ending(summary: events.Summary) -> tuple[str, str]:
    """Return the event and the text of the notice about an ended sweep."""
    num_done = sum(summary.statuses.values())
    text = f"{num_done} of {summary.planned} trials"
    if summary.failed:
        text += f", {len(summary.failed)} failed"
    if summary.unfinished:
        text += f", {len(summary.unfinished)} methods of tasks without a score"
    if summary.limit:
        text += f"; {summary.limit}"
    if summary.interrupted:
        return "interrupted", f"interrupted after {text}; the same command continues"
    if summary.failed or summary.unfinished:
        return "failed", f"ended with {text}"
    return "finished", f"done: {text}"


def _post(url: str, notice: bytes) -> None:
    """Send a notice to a URL."""
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"orca-ray/{__version__}",
    }
    request = urllib.request.Request(url, notice, headers)
    opener = urllib.request.build_opener(_NoRedirects)
    try:
        opener.open(request, timeout=SECONDS).close()
    except urllib.error.HTTPError as error:
        error.close()
        raise


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Handler that refuses redirects.

    urllib would read the whole body of a redirect, of any size, and then send a request
    without the notice.
    """

    def redirect_request(self, *_: object) -> None:
        """Return None, which makes the redirect an `urllib.error.HTTPError`."""
        return


def _run(command: list[str], notice: bytes) -> None:
    """Run a command with a notice on its standard input; end it if it takes long."""
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            process.communicate(notice, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode:
        raise OSError(f"the command ended with code {process.returncode}")


def _reason(error: Exception) -> str:
    """Return why a notice was not sent, without the target."""
    if isinstance(error, subprocess.TimeoutExpired):
        return f"the command took more than {SECONDS:g} s"
    code = getattr(error, "code", None)
    if isinstance(code, int):
        return f"the server answered with status {code}"
    if isinstance(error, OSError) and error.args and not error.filename:
        return str(error.args[-1])[:200]
    return type(error).__name__
