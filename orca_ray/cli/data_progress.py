"""Shows the progress of fetching, preparing and generating data: bars on a terminal, else lines."""

import logging
import re
import sys
import time
from typing import TYPE_CHECKING, Self

from orca_ray.cli.output import note

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_LOGGERS = ("orca_ray.data.cache", "orca_ray.data.raw", "orca_ray.tasks")
"""Loggers whose INFO messages are shown as progress."""
_SECONDS_BETWEEN_LINES = 10.0
_COUNT = re.compile(r"(?P<what>\S.*?)(?<! after) (?P<done>\d+) of (?P<total>\d+)\b(?P<rest>.*)")
"""Matches progress lines such as ``protein.zip: 410 of 1100 MB, 38.0 MB/s``, but not "... goes on after 40 of 90"."""


class DataProgress(logging.Handler):
    """Prints lines to stderr: those that it is called with, and INFO messages of `_LOGGERS` inside its ``with`` block.

    A line with progress ("410 of 1100") updates a bar on a terminal; elsewhere one is printed every ten seconds.
    """

    def __init__(self, *, quiet: bool) -> None:
        super().__init__(logging.INFO)
        self._quiet = quiet
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._printed: dict[str, float] = {}

    def __enter__(self) -> Self:
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._bars = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                TextColumn("{task.percentage:>3.0f} %"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[rest]}", markup=False),
                console=Console(stderr=True, highlight=False),
                transient=True,
                redirect_stdout=sys.stdout.isatty(),  # what goes to a pipe must not change
            )
            self._bars.start()
        for name in _LOGGERS:
            logging.getLogger(name).addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        for name in _LOGGERS:
            logging.getLogger(name).removeHandler(self)
        if self._bars is not None:
            self._bars.stop()

    def emit(self, record: logging.LogRecord) -> None:
        """Print a log record of level INFO; another handler prints warnings and errors."""
        if record.levelno == logging.INFO:
            self(record.getMessage())

    def __call__(self, line: str) -> None:
        """Print a line, or update the progress bar that belongs to it."""
        if self._quiet:
            return
        counted = _COUNT.fullmatch(line)
        if counted is None:
            self._finish(line.partition(": ")[0])
            note(line)
        elif self._bars is not None:
            what, done, total = counted["what"].rstrip(":"), int(counted["done"]), int(counted["total"])
            if what not in self._tasks:
                self._tasks[what] = self._bars.add_task(what, rest="")
            rest = f"{counted['done']} of {counted['total']}{counted['rest']}"
            self._bars.update(self._tasks[what], completed=done, total=total, rest=rest)
            if done >= total:
                self._finish(what)
        elif time.monotonic() - self._printed.setdefault(counted["what"], time.monotonic()) >= _SECONDS_BETWEEN_LINES:
            self._printed[counted["what"]] = time.monotonic()
            note(line)

    def _finish(self, what: str) -> None:
        if self._bars is not None and what in self._tasks:
            self._bars.remove_task(self._tasks.pop(what))
