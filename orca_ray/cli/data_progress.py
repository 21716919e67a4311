"""Shows the progress of fetching, preparing and generating data: bars on a terminal, else lines."""

import contextlib
import logging
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

from typer import Argument, Option

from orca_ray.cli.options import QuietOption, directory_option
from orca_ray.cli.output import duration, note, say, size
from orca_ray.paths import check_directory, new_directories_removed

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


def generate(
    task: Annotated[str, Argument(metavar="TASK", help="pdebench/advection, pdebench/burgers, …")],
    samples: Annotated[int, Option("--samples", "-n", min=1, metavar="N", help="Number of samples.")],
    seed: Annotated[
        int, Option(min=0, max=2**63 - 1, help="Sample i of a seed is the same in every file, whatever its --samples.")
    ] = 0,
    out: Annotated[
        Path | None,
        directory_option("--out", "Directory of the file. Default: where pdebench_generated/TASK reads it."),
    ] = None,
    workers: Annotated[int, Option("--workers", "-w", min=1, metavar="W", help="Number of processes.")] = 1,
    overwrite: Annotated[
        bool, Option("--overwrite", help="Replace a file that was generated with other options.")
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Solve a task's published equations and write the samples in PDEBench's layout.

    Such a set is no benchmark: the task that reads it, pdebench_generated/TASK, has a leaderboard of its own.
    The same command continues after an interruption.
    """
    from orca_ray.simulation import run

    begin = time.monotonic()
    target = run.target(task, out)  # raises for a misspelt task, before anything is created
    if out is not None:
        check_directory(out, "--out")
    before = _identity(target)
    try:
        with new_directories_removed(target.parent), DataProgress(quiet=quiet) as progress:

            def count(done: int, total: int) -> None:
                progress(f"{task}: {done} of {total} samples")

            path, made = run.generate(
                task, samples, seed=seed, directory=out, workers=workers, overwrite=overwrite, progress=count
            )
    except KeyboardInterrupt:
        solved = run.solved(task, out)
        continues = f": {solved} samples are stored, and the same command continues from there" if solved else ""
        whole = _identity(target) != before
        raise KeyboardInterrupt(
            f"interrupted, but {target} is complete" if whole else f"interrupted: no file was written{continues}"
        ) from None
    if not quiet:
        done = duration(time.monotonic() - begin) if made else "already there"
        say(f"{task}: {samples} samples, {size(path.stat().st_size)}, {path} ({done})")


def _identity(path: Path) -> tuple[int, int] | None:
    """Return inode and modification time, which change if the file is replaced; None if there is no file."""
    with contextlib.suppress(OSError):
        status = path.stat()
        return status.st_ino, status.st_mtime_ns
    return None
