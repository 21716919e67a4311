"""``orca-sweep data generate``: solve the equations of PDEBench's tasks."""

import contextlib
import time
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from orca_ray.cli.data_progress import DataProgress
from orca_ray.cli.options import QuietOption, directory_option
from orca_ray.cli.output import duration, say, size
from orca_ray.paths import check_directory, new_directories_removed


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
