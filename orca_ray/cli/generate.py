"""``orca-sweep data generate``: simulate the data of a task of PDEBench."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from orca_ray.cli.options import QuietOption
from orca_ray.cli.output import DataProgress, duration, say, size
from orca_ray.paths import check_directory


def generate(
    task: Annotated[
        str, Argument(metavar="TASK", help="Task, e.g. pdebench/advection.")
    ],
    samples: Annotated[
        int, Option("--samples", "-n", metavar="N", help="Number of samples.")
    ],
    seed: Annotated[
        int,
        Option(
            metavar="S",
            help=(
                "Seed. Sample i of a seed is the same in every file, whatever its"
                " number of samples."
            ),
        ),
    ] = 0,
    out: Annotated[
        Path | None,
        Option(
            metavar="DIR",
            help=(
                "Directory of the file. Default: where the task pdebench_generated/…"
                " reads it."
            ),
        ),
    ] = None,
    workers: Annotated[
        int, Option("--workers", "-w", metavar="W", help="Number of processes.")
    ] = 1,
    overwrite: Annotated[
        bool,
        Option(
            "--overwrite", help="Replace a file that was generated with other options."
        ),
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Solve a task's published equations, and write samples in PDEBench's layout.

    Such a set is no benchmark: the task that reads it, pdebench_generated/TASK, has a
    leaderboard of its own. The same command continues after an interruption.
    """
    from orca_ray.simulation.pdebench import run

    begin = time.monotonic()
    # Raises for a misspelt task, before anything is created.
    target = run.data_file(task, out)
    if out is not None:
        check_directory(out, "--out")
    try:
        with (
            _new_directories_removed(target.parent),
            DataProgress(quiet=quiet) as progress,
        ):

            def report(num_solved: int, num_samples: int) -> None:
                progress(f"{task}: {num_solved} of {num_samples} samples")

            path, is_new = run.generate(
                task,
                samples,
                seed=seed,
                directory=out,
                workers=workers,
                overwrite=overwrite,
                progress=report,
            )
    except KeyboardInterrupt:
        message = "interrupted: no file was written"
        num_stored = run.count_solved(task, out)
        if num_stored:
            message += (
                f": {num_stored} samples are stored, and the same command continues"
                " from there"
            )
        raise KeyboardInterrupt(message) from None
    if not quiet:
        took = duration(time.monotonic() - begin) if is_new else "already there"
        say(f"{task}: {samples} samples, {size(path.stat().st_size)}, {path} ({took})")


@contextlib.contextmanager
def _new_directories_removed(path: Path) -> Iterator[None]:
    """Context manager: if its block raises, remove the directories that it created.

    The directories are ``path`` and its parents. A directory that holds files other
    than ``*.lock`` is kept; the lock files are deleted.
    """
    created = [
        directory
        for directory in (path.absolute(), *path.absolute().parents)
        if not directory.exists()
    ]
    try:
        yield
    except BaseException:
        for directory in created:  # the innermost one first
            for lock in directory.rglob("*.lock"):
                lock.unlink(missing_ok=True)
            for folder, _, _ in os.walk(directory, topdown=False):
                with contextlib.suppress(OSError):  # not empty: keep it
                    os.rmdir(folder)
        raise
