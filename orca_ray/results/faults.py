"""Errors of file systems: retries after temporary errors, and messages for users.

The messages contain no credentials.
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

from orca_ray.errors import BusyStoreError, UserError
from orca_ray.paths import hide_secrets

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")

ATTEMPTS = 12
"""Largest number of attempts at an operation, the first one included."""
PATIENCE_SECONDS = 12.0
"""Seconds after the first attempt in which a failed attempt is repeated.

A single attempt may take longer.
"""
FIRST_PAUSE_SECONDS = 0.5
"""Mean pause before the second attempt; each later pause is twice as long."""
LONGEST_PAUSE_SECONDS = 1.0
"""Largest mean pause.

A server that refuses 30 % of requests then refuses the same one in all attempts with a
probability below 1e-6.
"""

_PASSING_CODES = {
    errno.ETIMEDOUT,
    errno.ECONNRESET,
    errno.ECONNABORTED,
    errno.ECONNREFUSED,
    errno.EPIPE,
    errno.ENETUNREACH,
}
"""Codes of errors after which a retry may succeed."""
_PASSING = re.compile(
    r"timed? ?out|request_?timeout"
    r"|connection (was )?(reset|refused|closed|aborted)|couldn't connect|broken pipe"
    r"|network_connection|slow_?down|service_?unavailable"
    r"|internal_?(failure|error)|throttl|\bunavailable\b"
    r"|http (status|response)( code)?:? (5\d\d|429)"
    r"|curlcode: (7|28|35|52|55|56)\b",
    re.IGNORECASE,
)
"""Matches messages of errors after which a retry may succeed."""
_LASTING = re.compile(
    r"access_?denied|no_?such_?bucket|invalid_?access|signature|forbidden|\b40[134]\b",
    re.IGNORECASE,
)
"""Matches messages of server errors that a retry does not change."""

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
    errno.EACCES: "Check the permissions, or choose another directory with --results.",
    errno.EPERM: "Check the permissions, or choose another directory with --results.",
    errno.ENOTDIR: (
        "A part of the path is a file: choose another directory with --results."
    ),
}
"""What a user can do about an error, by its code."""


def is_temporary(error: Exception) -> bool:
    """Return whether a retry may succeed after an error.

    This holds for time-outs, broken connections, and the HTTP statuses 5xx and 429.
    """
    if isinstance(error, OSError) and error.errno in _PASSING_CODES:
        return True
    return bool(_PASSING.search(str(error))) and not _LASTING.search(str(error))


def call_with_retries(
    action: Callable[[], _Result],
    where: str,
    patient: Callable[[], bool] = lambda: True,
) -> _Result:
    """Return the result of ``action``; repeat it after errors that `is_temporary`.

    There are at most `ATTEMPTS` attempts. Pauses grow exponentially and are random, so
    that many workers do not repeat their requests at the same time. If ``patient``
    returns False after an error, there is no further attempt. The last error is raised.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    for attempt in range(1, ATTEMPTS):
        try:
            return action()
        except (OSError, pa.ArrowException) as error:
            if not is_temporary(error) or not patient() or time.monotonic() > deadline:
                raise
            mean_pause = FIRST_PAUSE_SECONDS * 2 ** (attempt - 1)
            pause = min(mean_pause, LONGEST_PAUSE_SECONDS) * random.uniform(0.5, 1.5)
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
def explain_errors(
    verb: str, where: str, secrets: Collection[str] = ()
) -> Iterator[None]:
    """Context manager: raise file-system errors as UserError "cannot VERB WHERE".

    After errors that are temporary, it is a BusyStoreError. FileNotFoundError is raised
    unchanged. Texts in ``secrets`` are left out of the
    message. If the original error contains such a text, it is not chained either,
    because the log would print it.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno:
            reason = os.strerror(error.errno)
            advice = _ADVICE.get(error.errno, "")
        else:
            reason = str(error).split("\n")[0]
            advice = ""
        kind: type[UserError] = UserError
        if is_temporary(error):
            kind = BusyStoreError
            advice = "The store may be busy: run the same command again later."
        explanation = kind(
            f"cannot {verb} {where}: {hide_secrets(reason, secrets)}. {advice}".rstrip()
        )
        has_secret = hide_secrets(str(error), secrets) != str(error)
        raise explanation from (None if has_secret else error)


class RetriedFile:
    """A file of an object store, for `pyarrow.PythonFile`; failed reads are retried."""

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
        bases = {
            os.SEEK_SET: 0,
            os.SEEK_CUR: self._position,
            os.SEEK_END: self._stream.size(),
        }
        self._position = bases[whence] + offset
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def read(self, num_bytes: int | None = None) -> bytes:
        """Return the next bytes, at most ``num_bytes`` (None: all).

        Raises UserError if the store keeps failing.
        """
        if num_bytes is None or num_bytes < 0:
            size = self._stream.size() - self._position
        else:
            size = num_bytes
        content = self._retry(lambda: self._stream.read_at(size, self._position))
        self._position += len(content)
        return bytes(content)
