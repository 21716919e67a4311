"""Functions that print messages, tables and JSON, the exit codes, the progress of work
on data, and the log file.
"""

import dataclasses
import io
import json
import logging
import math
import os
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import Enum
from logging.handlers import RotatingFileHandler
from typing import TYPE_CHECKING, Any, Literal, Self

from rich import box
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from orca_ray.data.cache import home
from orca_ray.errors import printable, shorten

if TYPE_CHECKING:
    from orca_ray.results.record import Record

TRIALS_FAILED = OUT_OF_DATE = 1
USER_ERROR = 2
INTERNAL_ERROR = 70
CLUSTER_LOST = 75
INTERRUPTED = 130


def say(message: str = "") -> None:
    """Print a message of one or more lines to stdout, and flush it."""
    print(printable(message, keep="\n"), flush=True)


def note(message: str) -> None:
    """Print a message of one or more lines to stderr, so that stdout holds only tables
    or JSON.
    """
    print(printable(message, keep="\n"), file=sys.stderr)


def fail(message: str, code: int) -> int:
    """Print an error message to stderr, with very long lines cut, and return the exit
    code ``code``.
    """
    message = shorten(
        "\n".join(shorten(line, 2000) for line in message.split("\n")), 20_000
    )
    note(
        message
        if message.lower().startswith(("error", "interrupted", "usage"))
        else f"error: {message}"
    )
    return code


def reason(record: "Record") -> str:
    """Return the last line of the error in ``record``, which says why the trial failed."""
    lines = (record.error or "").strip().splitlines()
    return lines[-1] if lines else "no message"


def emit_json(value: Any) -> None:
    """Print ``value`` as JSON to stdout, converted by `plain`, with unprintable
    characters escaped.
    """
    text = json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    print(
        "".join(
            char if char == "\n" or char.isprintable() else json.dumps(char)[1:-1]
            for char in text
        )
    )


def plain(value: Any) -> Any:
    """Return ``value`` as JSON types: dataclasses become dicts, sets lists, NaN and inf
    None, other objects text.
    """
    return json.loads(
        json.dumps(value, default=_plainer), parse_constant=lambda _: None
    )


def _plainer(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {
            field.name: getattr(value, field.name)
            for field in dataclasses.fields(value)
        }
    if isinstance(value, Mapping | set | frozenset):
        return dict(value) if isinstance(value, Mapping) else list(value)
    if isinstance(value, Enum):
        return value.value
    return value.isoformat() if isinstance(value, datetime) else str(value)


def console(min_width: int = 0) -> Console:
    """Return a Rich console for the current stdout, at least ``min_width`` characters
    wide.
    """
    # A file or pipe has no width: 200 characters, so that lines are seldom broken.
    wide = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 200
    found = Console(width=wide, soft_wrap=False, highlight=False)
    found.width = max(found.width, min_width)
    return found


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    right: Iterable[str] = (),
    wrap: Iterable[str] = (),
) -> RenderableType:
    """Return a plain Rich table; columns named in ``right`` are right-aligned, those in
    ``wrap`` may wrap at spaces.
    """
    numbers = set(right)
    soft = set(wrap)
    result = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for column in columns:
        side: Literal["left", "right"] = "right" if column in numbers else "left"
        result.add_column(
            column, justify=side, overflow="fold", no_wrap=column not in soft
        )
    for row in rows:
        result.add_row(*(Text(_cell(cell)) for cell in row))
    return result


def _cell(value: object) -> str:
    return "–" if value is None else printable(str(value))


def show(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    right: Iterable[str] = (),
    wrap: Iterable[str] = (),
) -> None:
    """Print a `table` with the same arguments.

    Cells are never shortened; a narrow terminal wraps the lines.
    """
    cells = [[_cell(cell) for cell in row] for row in rows]
    soft = set(wrap)
    width = 2 * (len(columns) - 1)
    for name, *column in zip(columns, *cells, strict=True):
        parts = [
            part
            for text in (name, *column)
            for part in (text.split() if name in soft else [text])
        ]
        width += max(map(cell_len, parts), default=0)
    console(width).print(table(columns, cells, right, soft), crop=False)


def duration(seconds: float) -> str:
    """Format a duration: ``8.4 s``, ``3 min 05 s``, ``2 h 07 min``."""
    if seconds < 59.95:  # what would be written as 60.0 s is a minute
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def size(num_bytes: float) -> str:
    """Format a number of bytes, e.g. ``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return (
                f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
            )
        num_bytes /= 1024
    return f"{num_bytes:.1f} TiB"


def score(value: float | None) -> str:
    """Format a score with four decimals; ``–`` if it is None or not finite."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.4f}"


_LOGGERS = ("orca_ray.data.cache", "orca_ray.data.raw", "orca_ray.tasks")
"""Loggers whose INFO messages are shown as progress."""
_SECONDS_BETWEEN_LINES = 10.0
_COUNT = re.compile(
    r"(?P<what>\S.*?)(?<! after) (?P<done>\d+) of (?P<total>\d+)\b(?P<rest>.*)"
)
"""Matches progress lines such as ``protein.zip: 410 of 1100 MB, 38.0 MB/s``, but not
"... goes on after 40 of 90".
"""


class DataProgress(logging.Handler):
    """Log handler that prints progress: lines that it is called with and, in its block,
    INFO messages on work on data.

    A line with progress ("410 of 1100") updates a bar on a terminal; elsewhere, at most
    one line with progress of the same work is printed every ten seconds. All is printed
    to stderr; with ``quiet``, nothing.
    """

    def __init__(self, *, quiet: bool) -> None:
        super().__init__(logging.INFO)
        self._quiet = quiet
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._printed: dict[str, float] = {}

    def __enter__(self) -> Self:
        if not self._quiet and sys.stderr.isatty():
            self._bars = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                TextColumn("{task.percentage:>3.0f} %"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[rest]}", markup=False),
                console=Console(stderr=True, highlight=False),
                transient=True,
                # what goes to a pipe must not change
                redirect_stdout=sys.stdout.isatty(),
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
        """Print a log record of level INFO; ignore other levels: another handler prints
        warnings and errors.
        """
        if record.levelno == logging.INFO:
            self(record.getMessage())

    def __call__(self, line: str) -> None:
        """Print ``line`` or, if it reports progress on a terminal, update its progress
        bar.
        """
        if self._quiet:
            return
        counted = _COUNT.fullmatch(line)
        if counted is None:
            self._finish(line.partition(": ")[0])
            note(line)
        elif self._bars is not None:
            what = counted["what"].rstrip(":")
            done = int(counted["done"])
            total = int(counted["total"])
            if what not in self._tasks:
                self._tasks[what] = self._bars.add_task(what, rest="")
            rest = f"{counted['done']} of {counted['total']}{counted['rest']}"
            self._bars.update(self._tasks[what], completed=done, total=total, rest=rest)
            if done >= total:
                self._finish(what)
        elif (
            time.monotonic()
            - self._printed.setdefault(counted["what"], time.monotonic())
            >= _SECONDS_BETWEEN_LINES
        ):
            self._printed[counted["what"]] = time.monotonic()
            note(line)

    def _finish(self, what: str) -> None:
        if self._bars is not None and what in self._tasks:
            self._bars.remove_task(self._tasks.pop(what))


MAX_BYTES = 2**20


class _LogFile(RotatingFileHandler):
    """Log file whose directory is created by the first message, so that ``--help``
    writes nothing.

    If the file cannot be written, the command continues; warnings and errors still
    appear on stderr.
    """

    def _open(self) -> io.TextIOWrapper:
        os.makedirs(os.path.dirname(self.baseFilename), exist_ok=True)
        return super()._open()

    def handleError(self, record: logging.LogRecord) -> None:
        """Ignore errors of writing the log."""


class _Console(logging.Handler):
    """Prints messages to the current ``sys.stderr``, which a live table replaces: they
    then appear above the table.
    """

    def emit(self, record: logging.LogRecord) -> None:
        try:
            note(self.format(record))
        except Exception:  # a log message never ends the command
            self.handleError(record)


def start(hidden: str) -> None:
    """Log to ``logs/orca-sweep.log`` in the cache directory; print warnings, except
    those of logger ``hidden``.
    """
    package = logging.getLogger("orca_ray")
    for handler in [h for h in package.handlers if isinstance(h, _LogFile | _Console)]:
        package.removeHandler(handler)
        handler.close()
    file = _LogFile(
        home() / "logs" / "orca-sweep.log",
        maxBytes=MAX_BYTES,
        backupCount=2,
        delay=True,
    )
    file.setFormatter(
        logging.Formatter("%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s")
    )
    package.setLevel(logging.DEBUG)
    screen = _Console(logging.WARNING)
    screen.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    screen.addFilter(
        lambda record: record.name != hidden
    )  # `fail` prints the messages of this logger
    package.addHandler(file)
    package.addHandler(screen)


def path() -> str | None:
    """Return the path of the log file; None if there is no log file, e.g. because it
    could not be written.
    """
    for handler in logging.getLogger("orca_ray").handlers:
        if isinstance(handler, _LogFile) and os.path.exists(handler.baseFilename):
            return handler.baseFilename
    return None
