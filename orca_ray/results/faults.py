"""Errors of file systems: which errors are temporary and lead to retries, and messages
without credentials.
"""

import contextlib
import errno
import logging
import os
import random
import re
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any, TypeVar

import pyarrow as pa

from orca_ray.errors import UserError
from orca_ray.paths import without

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")

ATTEMPTS = 5
"""Largest number of attempts at an operation, the first one included."""
PATIENCE_SECONDS = 12.0
"""Seconds after the first attempt in which a failed attempt is repeated; an attempt may
wait long for an answer.
"""
FIRST_PAUSE_SECONDS = 0.5
"""Mean pause before the second attempt; each later pause is twice as long."""

_PASSING_CODES = {
    errno.ETIMEDOUT,
    errno.ECONNRESET,
    errno.ECONNABORTED,
    errno.ECONNREFUSED,
    errno.EPIPE,
    errno.ENETUNREACH,
}
_PASSING = re.compile(
    r"timed? ?out|request_?timeout|connection (was"
    r" )?(reset|refused|closed|aborted)|couldn't connect|broken pipe"
    r"|network_connection|slow_?down|service_?unavailable|internal_?(failure|error)|throttl|\bunavailable\b"
    r"|http (status|response)( code)?:? (5\d\d|429)|curlcode: (7|28|35|52|55|56)\b",
    re.IGNORECASE,
)
_LASTING = re.compile(
    r"access_?denied|no_?such_?bucket|invalid_?access|signature|forbidden|\b40[134]\b",
    re.IGNORECASE,
)
"""Matches error messages of servers that stay the same however often a request is
repeated.
"""

_ADVICE = {
    errno.ENOSPC: (
        "Free some disk space, then run the same command again: finished trials are"
        " stored."
    ),
    errno.EDQUOT: (
        "Your disk quota is used up: free some of it, then run the same command again."
    ),
    errno.EROFS: (
        "The file system is read-only: choose another directory with --results."
    ),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM),
        "Check the permissions, or choose another directory with --results.",
    ),
    errno.ENOTDIR: (
        "A part of the path is a file: choose another directory with --results."
    ),
}


def may_pass(error: Exception) -> bool:
    """Return whether an error is a time-out, a broken connection or HTTP status 5xx or
    429, so a retry may succeed.
    """
    if isinstance(error, OSError) and error.errno in _PASSING_CODES:
        return True
    return bool(_PASSING.search(str(error))) and not _LASTING.search(str(error))


def retried(
    action: Callable[[], _Result],
    where: str,
    patient: Callable[[], bool] = lambda: True,
) -> _Result:
    """Return the result of ``action``; repeat it after errors that `may_pass`, at most
    `ATTEMPTS` times in all.

    Pauses grow exponentially and are random, so that many workers do not repeat their
    requests at the same time. If ``patient`` returns False after an error, there is no
    further attempt. The last error is raised.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    for attempt in range(1, ATTEMPTS):
        try:
            return action()
        except (OSError, pa.ArrowException) as error:
            if not may_pass(error) or not patient() or time.monotonic() > deadline:
                raise
            pause = FIRST_PAUSE_SECONDS * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
            logger.info(
                "%s: %s; attempt %d follows in %.1f s",
                where,
                type(error).__name__,
                attempt + 1,
                pause,
            )
            time.sleep(pause)
    return action()


@contextlib.contextmanager
def explained(verb: str, where: str, secrets: Collection[str] = ()) -> Iterator[None]:
    """Context manager: raise file-system errors as UserError "cannot VERB WHERE";
    FileNotFoundError is passed on.

    Texts in ``secrets`` are left out of the message. If the original error contains
    such a text, it is not chained either, because the log would print it.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        code = error.errno if isinstance(error, OSError) else None
        reason = os.strerror(code) if code else str(error).split("\n")[0]
        shown = without(reason, secrets)
        explanation = UserError(
            f"cannot {verb} {where}: {shown}. {_ADVICE.get(code or 0, '')}".rstrip()
        )
        raise explanation from (
            error if without(str(error), secrets) == str(error) else None
        )


class RetriedFile:
    """A file of an object store as `pyarrow.PythonFile` reads it: each read is one or
    several requests.
    """

    def __init__(self, stream: Any, retry: Callable[[Callable[[], Any]], Any]) -> None:
        self._stream = stream
        self._retry = retry
        self._position = 0

    @property
    def closed(self) -> bool:
        """Whether the file is closed."""
        return bool(self._stream.closed)

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position, and return it."""
        base = {
            os.SEEK_SET: 0,
            os.SEEK_CUR: self._position,
            os.SEEK_END: self._stream.size(),
        }[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def read(self, num_bytes: int | None = None) -> bytes:
        """Return the next bytes, at most ``num_bytes`` (None: all); raises UserError if
        the store keeps failing.
        """
        wanted = (
            self._stream.size() - self._position
            if num_bytes is None or num_bytes < 0
            else num_bytes
        )
        content = bytes(
            self._retry(lambda: self._stream.read_at(wanted, self._position))
        )
        self._position += len(content)
        return content
