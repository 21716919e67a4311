"""Sends log messages of ``orca-sweep`` to a log file, and warnings and errors also to stderr."""

import io
import logging
import os
import sys
from logging.handlers import RotatingFileHandler

from orca_ray.data.cache import home
from orca_ray.errors import printable

MAX_BYTES = 2**20


class _LogFile(RotatingFileHandler):
    """Log file whose directory is created by the first message, so that ``--help`` writes nothing.

    If the file cannot be written, the command continues; warnings and errors still appear on stderr.
    """

    def _open(self) -> io.TextIOWrapper:
        os.makedirs(os.path.dirname(self.baseFilename), exist_ok=True)
        return super()._open()

    def handleError(self, record: logging.LogRecord) -> None:
        """Ignore errors of writing the log."""


class _Console(logging.StreamHandler):  # type: ignore[type-arg] # generic only in the stubs
    """Prints warnings and errors to stderr, except those of the logger ``hidden``, which are printed elsewhere."""

    def __init__(self, hidden: str) -> None:
        super().__init__()
        self.setLevel(logging.WARNING)
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        self.addFilter(lambda record: record.name != hidden)

    def format(self, record: logging.LogRecord) -> str:
        """Format a record, with control sequences escaped."""
        return printable(super().format(record), keep="\n")

    def emit(self, record: logging.LogRecord) -> None:
        """Write to the current ``sys.stderr``; a live table replaces it, so that messages appear above the table."""
        self.stream = sys.stderr  # not setStream: it flushes the old stream, which may be closed by now
        super().emit(record)


def start(hidden: str) -> None:
    """Log to ``logs/orca-sweep.log`` in the cache directory, and warnings also to stderr (not those of ``hidden``)."""
    package = logging.getLogger("orca_ray")
    for handler in [h for h in package.handlers if isinstance(h, _LogFile | _Console)]:
        package.removeHandler(handler)
        handler.close()
    file = _LogFile(home() / "logs" / "orca-sweep.log", maxBytes=MAX_BYTES, backupCount=2, delay=True)
    file.setFormatter(logging.Formatter("%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"))
    package.setLevel(logging.DEBUG)
    package.addHandler(file)
    package.addHandler(_Console(hidden))


def path() -> str | None:
    """Return the path of the log file, or None if it does not exist, because it could not be written."""
    for handler in logging.getLogger("orca_ray").handlers:
        if isinstance(handler, _LogFile) and os.path.exists(handler.baseFilename):
            return handler.baseFilename
    return None
