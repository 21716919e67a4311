"""Printing of messages, tables, JSON and progress; exit codes; the log file."""

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

TRIALS_FAILED = 1
"""Exit code if trials failed, or a reproduced score differs."""
OUT_OF_DATE = 1
"""Exit code of ``leaderboard --check`` if a file is out of date."""
USER_ERROR = 2
"""Exit code for bad input."""
INTERNAL_ERROR = 70
"""Exit code for a defect of orca-ray."""
CLUSTER_LOST = 75
"""Exit code if the cluster of a running sweep is lost."""
STORE_BUSY = 75
"""Exit code if a results store does not answer for now."""
INTERRUPTED = 130
"""Exit code after Ctrl-C or SIGTERM."""

_PIPE_WIDTH = 200
"""Width in characters of output to a file or pipe, so that lines are seldom broken."""


def say(message: str = "") -> None:
    """Print a message of one or more lines to stdout, and flush it."""
    print(printable(message, keep="\n"), flush=True)


def note(message: str) -> None:
    """Print a message of one or more lines to stderr.

    Stdout then holds only tables or JSON.
    """
    print(printable(message, keep="\n"), file=sys.stderr)


def fail(message: str, code: int) -> int:
    """Print an error message to stderr, and return the exit code ``code``.

    Very long lines and messages are cut.
    """
    lines = [shorten(line, limit=2000) for line in message.split("\n")]
    text = shorten("\n".join(lines), limit=20_000)
    if not text.lower().startswith(("error", "interrupted", "usage")):
        text = f"error: {text}"
    note(text)
    return code


def reason(record: "Record") -> str:
    """Return the last line of a record's error, which says why the trial failed."""
    lines = (record.error or "").strip().splitlines()
    return lines[-1] if lines else "no message"


def emit_json(value: Any) -> None:
    """Print ``value`` as JSON to stdout, converted by `to_json_types`.

    Unprintable characters are escaped.
    """
    text = json.dumps(
        to_json_types(value), indent=2, ensure_ascii=False, allow_nan=False
    )
    print("".join(map(_json_character, text)))


def _json_character(char: str) -> str:
    """Return a character of a JSON text, escaped if it is not printable."""
    if char == "\n" or char.isprintable():
        return char
    return json.dumps(char)[1:-1]  # without the quotation marks


def to_json_types(value: Any) -> Any:
    """Return ``value`` as JSON types.

    Dataclasses become dicts, sets lists, NaN and inf None, other objects text.
    """
    text = json.dumps(value, default=_to_json_type)
    return json.loads(text, parse_constant=lambda _: None)


def _to_json_type(value: Any) -> Any:
    """Return an object that JSON lacks in the form of a dict, a list or text."""
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: getattr(value, name) for name in names}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return list(value)
    if isinstance(value, Enum):
        return value.value
    return value.isoformat() if isinstance(value, datetime) else str(value)


def console(min_width: int = 0) -> Console:
    """Return a Rich console for the current stdout, of at least ``min_width``."""
    has_width = sys.stdout.isatty() or "COLUMNS" in os.environ
    screen = Console(
        width=None if has_width else _PIPE_WIDTH, soft_wrap=False, highlight=False
    )
    screen.width = max(screen.width, min_width)
    return screen


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    right: Iterable[str] = (),
    wrap: Iterable[str] = (),
) -> RenderableType:
    """Return a plain Rich table.

    Columns named in ``right`` are right-aligned; those in ``wrap`` may wrap at spaces.
    """
    right_columns = set(right)
    wrapped_columns = set(wrap)
    result = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for column in columns:
        side: Literal["left", "right"] = "right" if column in right_columns else "left"
        result.add_column(
            column,
            justify=side,
            overflow="fold",
            no_wrap=column not in wrapped_columns,
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
    wrapped_columns = set(wrap)
    width = 2 * (len(columns) - 1)  # the space between columns
    for name, *texts in zip(columns, *cells, strict=True):
        parts = [name, *texts]
        if name in wrapped_columns:  # as wide as the longest word
            parts = " ".join(parts).split()
        width += max(map(cell_len, parts), default=0)
    console(width).print(table(columns, cells, right, wrapped_columns), crop=False)


def duration(seconds: float) -> str:
    """Format a duration: ``8.4 s``, ``3 min 05 s``, ``2 h 07 min``."""
    if seconds < 59.95:  # what would be written as 60.0 s is a minute
        return f"{seconds:.1f} s"
    minutes, whole_seconds = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {whole_seconds:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def size(num_bytes: float) -> str:
    """Format a number of bytes, e.g. ``1.5 GiB``."""
    if num_bytes < 1024:
        return f"{num_bytes:.0f} B"
    amount = num_bytes / 1024
    for unit in ("KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def score(value: float | None) -> str:
    """Format a score with four decimals; ``–`` if it is None or not finite."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.4f}"


_LOGGERS = ("orca_ray.data.cache", "orca_ray.data.raw", "orca_ray.tasks")
"""Loggers whose INFO messages are shown as progress."""
_SECONDS_BETWEEN_LINES = 10.0
"""Seconds between two lines with progress of the same work."""
_COUNT = re.compile(
    r"(?P<what>\S.*?)(?<! after) (?P<done>\d+) of (?P<total>\d+)\b(?P<rest>.*)"
)
"""Matches progress lines such as ``protein.zip: 410 of 1100 MB, 38.0 MB/s``.

"... goes on after 40 of 90" does not match.
"""


class DataProgress(logging.Handler):
    """Log handler that prints the progress of work on data.

    Call it with a line to print. In its ``with`` block, it also prints INFO messages
    about work on data. A line with progress ("410 of 1100") updates a bar on a
    terminal; elsewhere, at most one line with progress of the same work is printed
    every ten seconds. Everything goes to stderr; with ``quiet``, nothing is printed.
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
        """Print a log record of level INFO.

        Another handler prints warnings and errors.
        """
        if record.levelno == logging.INFO:
            self(record.getMessage())

    def __call__(self, line: str) -> None:
        """Print ``line`` or, if it reports progress on a terminal, update its bar."""
        if self._quiet:
            return
        count = _COUNT.fullmatch(line)
        if count is None:
            # Another line about the same work, "WORK: ...", says that it has ended.
            self._finish(line.partition(": ")[0])
            note(line)
        elif self._bars is not None:
            self._update_bar(self._bars, count)
        else:
            self._note_seldom(line, count)

    def _update_bar(self, bars: Progress, count: re.Match[str]) -> None:
        """Draw the bar of the work that a line with progress is about.

        ``count`` is a match of `_COUNT`.
        """
        work = count["what"].rstrip(":")
        done = int(count["done"])
        total = int(count["total"])
        if work not in self._tasks:
            self._tasks[work] = bars.add_task(work, rest="")
        details = f"{count['done']} of {count['total']}{count['rest']}"
        bars.update(self._tasks[work], completed=done, total=total, rest=details)
        if done >= total:
            self._finish(work)

    def _note_seldom(self, line: str, count: re.Match[str]) -> None:
        """Print a line with progress, unless one was printed shortly before.

        The first line about a piece of work is not printed. ``count`` is a match of
        `_COUNT`.
        """
        work = count["what"].rstrip(":")
        now = time.monotonic()
        last_time = self._printed.setdefault(work, now)
        if now - last_time >= _SECONDS_BETWEEN_LINES:
            self._printed[work] = now
            note(line)
        if int(count["done"]) >= int(count["total"]):
            self._finish(work)

    def _finish(self, work: str) -> None:
        """Forget a piece of work that has ended, and remove its bar, if it has one."""
        self._printed.pop(work, None)
        if self._bars is not None and work in self._tasks:
            self._bars.remove_task(self._tasks.pop(work))


MAX_BYTES = 2**20
"""Size at which the log file is replaced by a new one."""


class _LogFile(RotatingFileHandler):
    """Log file whose directory is created by the first message.

    ``--help`` thus writes nothing. If the file cannot be written, the command
    continues; warnings and errors still appear on stderr.
    """

    def _open(self) -> io.TextIOWrapper:
        os.makedirs(os.path.dirname(self.baseFilename), exist_ok=True)
        return super()._open()

    def handleError(self, record: logging.LogRecord) -> None:
        """Ignore errors of writing the log."""


class _Formatter(logging.Formatter):
    """Formatter of messages and tracebacks, whose credentials become ``***``."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), keep="\n\t")


class _Console(logging.Handler):
    """Log handler that prints messages to the current ``sys.stderr``.

    A live table replaces ``sys.stderr``: messages then appear above the table.
    """

    def emit(self, record: logging.LogRecord) -> None:
        try:
            note(self.format(record))
        except Exception:  # a log message never ends the command
            self.handleError(record)


def start(hidden: str) -> None:
    """Log to ``logs/orca-sweep.log`` in the cache directory, and print warnings.

    Warnings of the logger ``hidden`` are not printed, because `fail` prints them.
    """
    package = logging.getLogger("orca_ray")
    for handler in list(package.handlers):
        if isinstance(handler, _LogFile | _Console):
            package.removeHandler(handler)
            handler.close()
    file = _LogFile(
        home() / "logs" / "orca-sweep.log",
        maxBytes=MAX_BYTES,
        backupCount=2,
        delay=True,
    )
    file.setFormatter(
        _Formatter("%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s")
    )
    screen = _Console(logging.WARNING)
    screen.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    screen.addFilter(lambda record: record.name != hidden)
    package.setLevel(logging.DEBUG)
    package.addHandler(file)
    package.addHandler(screen)


def path() -> str | None:
    """Return the path of the log file; None if there is none.

    There is none, for example, if it could not be written.
    """
    for handler in logging.getLogger("orca_ray").handlers:
        if isinstance(handler, _LogFile) and os.path.exists(handler.baseFilename):
            return handler.baseFilename
    return None
