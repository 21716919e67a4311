"""Logs of trials: from the worker's log to the rows of the table of logs."""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from orca_ray.results.record import StoredRow, stored

MAX_BYTES = 64 * 2**10
"""Largest size of the stored log of one attempt; of a longer log, the end is kept."""


@stored
@dataclass(frozen=True)
class LogRow(StoredRow):
    """A part of the log of a trial.

    The whole log is the texts of its rows in the order of ``attempt`` and
    ``written_at``.
    """

    sweep: str
    trial_key: str
    attempt: int
    written_at: datetime
    text: str


def last_bytes(text: str, limit: int = MAX_BYTES) -> str:
    """Return ``text`` or, if it exceeds ``limit`` bytes, its last lines.

    The last lines then follow a line "[N bytes left out]".
    """
    content = text.encode("utf-8", "replace")
    if len(content) <= limit:
        return text
    end = content[-limit:]
    whole_lines = end[end.find(b"\n") + 1 :]
    num_left_out = len(content) - len(whole_lines)
    text_of_lines = whole_lines.decode("utf-8", "replace")
    return f"[{num_left_out} bytes left out]\n{text_of_lines}"


class LogStream:
    """Log of one attempt at a trial, in the driver.

    `take` returns the beginning of the log while the attempt runs, and its end
    afterwards. Both have at most half of `MAX_BYTES`. Of the text that was not taken
    yet, only as many bytes are kept, the last ones.
    """

    def __init__(self) -> None:
        self._waiting = ""
        self._taken = 0

    def add(self, text: str) -> None:
        """Add text that a worker reported."""
        self._waiting = last_bytes(self._waiting + text, MAX_BYTES // 2)

    def take(self, *, ended: bool = False) -> str:
        """Return the text not taken yet.

        Returns "" if the text is too long to be stored before the attempt has
        ``ended``.
        """
        # The other half of `MAX_BYTES` is for the last text of the attempt.
        if not ended and self._taken + len(self._waiting) > MAX_BYTES // 2:
            return ""
        text = self._waiting
        self._waiting = ""
        self._taken += len(text)
        return text


class TrialLog(logging.StreamHandler[io.StringIO]):
    """Log handler that collects messages of the loggers of orca-ray, from INFO on."""

    def __init__(self) -> None:
        super().__init__(io.StringIO())
        self.setLevel(logging.INFO)
        self.setFormatter(
            logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
        )

    def take(self) -> str:
        """Return the text of the messages since the last call; see `last_bytes`."""
        stream = self.stream
        self.setStream(io.StringIO())
        return last_bytes(stream.getvalue())

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Context manager: collect the messages that any thread of the process logs."""
        logger = logging.getLogger("orca_ray")
        level = logger.level
        logger.addHandler(self)
        is_unset = level == logging.NOTSET
        logger.setLevel(logging.INFO if is_unset else min(level, logging.INFO))
        try:
            yield
        finally:
            logger.setLevel(level)
            logger.removeHandler(self)
