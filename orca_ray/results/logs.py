"""Logs of trials: what a worker logs, what the driver keeps of it, and the rows of the
table of logs.
"""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from orca_ray.results.record import StoredRow, stored

MAX_BYTES = 64 * 2**10
"""Largest size of the text that is stored for one run of a trial; the end of a longer
log is kept.
"""


@stored
@dataclass(frozen=True)
class LogRow(StoredRow):
    """A part of the log of a trial, which is the texts of its rows in the order of
    ``attempt`` and ``written_at``.
    """

    sweep: str
    trial_key: str
    attempt: int
    written_at: datetime
    text: str


def last_bytes(text: str, limit: int = MAX_BYTES) -> str:
    """Return ``text`` or, if it exceeds ``limit`` bytes, its last lines below the line
    "[N bytes left out]".
    """
    content = text.encode("utf-8", "replace")
    if len(content) <= limit:
        return text
    kept = content[-limit:]
    kept = kept[kept.find(b"\n") + 1 :]
    return (
        f"[{len(content) - len(kept)} bytes left"
        f" out]\n{kept.decode('utf-8', 'replace')}"
    )


class LogStream:
    """Log of one attempt at a trial, in the driver: `take` returns its beginning while
    the attempt runs, then its end.

    Each has at most half of `MAX_BYTES`. Of text not taken yet, only the last half of
    `MAX_BYTES` is kept.
    """

    def __init__(self) -> None:
        self._waiting = ""
        self._taken = 0

    def add(self, text: str) -> None:
        """Add text that a worker reported."""
        self._waiting = last_bytes(self._waiting + text, MAX_BYTES // 2)

    def take(self, *, ended: bool = False) -> str:
        """Return the text not taken yet; "" if it is too long to be stored before the
        attempt has ``ended``.
        """
        if not ended and self._taken + len(self._waiting) > MAX_BYTES // 2:
            return ""
        text = self._waiting
        self._waiting = ""
        self._taken += len(text)
        return text


class TrialLog(logging.StreamHandler[io.StringIO]):
    """Log handler that collects messages of the loggers of orca-ray, from level INFO
    on, with tracebacks.
    """

    def __init__(self) -> None:
        super().__init__(io.StringIO())
        self.setLevel(logging.INFO)
        self.setFormatter(
            logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
        )

    def take(self) -> str:
        """Return the text of the messages since the last call, shortened by
        `last_bytes`.
        """
        taken = self.stream
        self.setStream(io.StringIO())
        return last_bytes(taken.getvalue())

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Context manager: collect what is logged in its block, by any thread of this
        process.
        """
        logger = logging.getLogger("orca_ray")
        level = logger.level
        logger.addHandler(self)
        logger.setLevel(min(level or logging.INFO, logging.INFO))
        try:
            yield
        finally:
            logger.setLevel(level)
            logger.removeHandler(self)
