"""The log file of ``orca-sweep``, which receives tracebacks and details; warnings also go to stderr."""

import io
import logging
import os
import sys
from logging.handlers import RotatingFileHandler

from orca_ray.data.cache import home
from orca_ray.errors import printable

MAX_BYTES = 2**20


class _LogFile(RotatingFileHandler):
    """Creates its directory with its first line, so that ``--help`` writes nothing.

    A log that cannot be written never stops a command: the message itself still reaches stderr.
    """

    def _open(self) -> io.TextIOWrapper:
        os.makedirs(os.path.dirname(self.baseFilename), exist_ok=True)
        return super()._open()

    def handleError(self, record: logging.LogRecord) -> None:
        """Ignore the error."""


class _Console(logging.StreamHandler):  # type: ignore[type-arg] # generic only in the stubs
    """Warnings on stderr, except those of the logger ``hidden``, whose errors the command line prints itself."""

    def __init__(self, hidden: str) -> None:
        super().__init__()
        self.setLevel(logging.WARNING)
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        self.addFilter(lambda record: record.name != hidden)

    def format(self, record: logging.LogRecord) -> str:
        """Escape what a terminal would act on."""
        return printable(super().format(record), keep="\n")

    def emit(self, record: logging.LogRecord) -> None:
        """Write to the current stderr, which a live table replaces so that lines appear above it."""
        self.stream = sys.stderr  # not setStream: it flushes the old stream, which may be closed by now
        super().emit(record)


def start(hidden: str) -> None:
    """Send the package's log to ``<home>/logs/orca-sweep.log``; another call follows a changed ``ORCA_RAY_HOME``."""
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
    """Return the path of the log file, or None if nothing could be written."""
    for handler in logging.getLogger("orca_ray").handlers:
        if isinstance(handler, _LogFile) and os.path.exists(handler.baseFilename):
            return handler.baseFilename
    return None
