"""``orca-sweep data generate``: small sets in PDEBench's layout, solved here from the published equations."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from orca_ray.cli.output import QuietOption, duration, note, size


def register(group: typer.Typer) -> None:
    """Add the command to the group ``data``."""
    group.command("generate")(generate)


def generate(
    task: Annotated[str, typer.Argument(metavar="TASK", help="pdebench/advection, pdebench/burgers, …")],
    samples: Annotated[int, typer.Option("--samples", "-n", min=1, metavar="N", help="How many samples.")],
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Sample i of a seed is the same in every file, large or small.")
    ] = 0,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Directory. Default: where pdebench_generated/TASK reads it."),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", "-w", min=1, metavar="W", help="Processes.")] = 1,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file that was generated with other options.")
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Solve a task's published equations and write them as PDEBench lays out its files.

    Such a set is no benchmark: the task that reads it is pdebench_generated/TASK, which has a board of its own.
    After an interruption the same command goes on.
    """
    from orca_ray.simulation import run

    begin = time.monotonic()
    place = run.target(task, out)  # a misspelt task is told before anything is drawn
    before = _stated(place)
    try:
        with _progress(task, samples, quiet=quiet) as told:
            path, made = run.generate(
                task, samples, seed=seed, directory=out, workers=workers, overwrite=overwrite, progress=told
            )
    except KeyboardInterrupt:
        note(f"interrupted, but {place} is whole" if _stated(place) != before else _what_stays(run.solved(task, out)))
        raise
    if not quiet:
        done = duration(time.monotonic() - begin) if made else "already there"
        print(f"{task}: {samples} samples, {size(path.stat().st_size)}, {path} ({done})")


def _what_stays(solved: int) -> str:
    stays = f": {solved} samples are kept, and the same command goes on from there" if solved else ""
    return f"interrupted: no file was written{stays}"


def _stated(path: Path) -> tuple[int, int] | None:
    """Return what tells one file from another in its place; None where there is none."""
    with contextlib.suppress(OSError):
        status = path.stat()
        return status.st_ino, status.st_mtime_ns
    return None


@contextlib.contextmanager
def _progress(task: str, samples: int, *, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Yield what draws the progress: a bar on a terminal, a line at each tenth elsewhere, nothing when ``quiet``."""
    if quiet:
        yield None
    elif not sys.stderr.isatty():
        yield _Tenths(task)
    else:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            line = bar.add_task(task, total=samples)
            yield lambda done, _: bar.update(line, completed=done)


class _Tenths:
    """Notes each tenth once."""

    def __init__(self, task: str) -> None:
        self._task = task
        self._told = 0

    def __call__(self, done: int, total: int) -> None:
        tenth = 10 * done // total
        if tenth > self._told:
            self._told = tenth
            note(f"{self._task}: {done} of {total} samples")
