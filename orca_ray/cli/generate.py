"""``orca-sweep data generate``: small PDE sets in PDEBench's layout, solved on this machine."""

import contextlib
import time
from pathlib import Path
from typing import Annotated

import typer

from orca_ray.cli.data_progress import DataProgress
from orca_ray.cli.options import QuietOption, directory
from orca_ray.cli.output import duration, note, say, size
from orca_ray.paths import new_directories_removed, require_directory

MAX_SEED = 2**63 - 1


def generate(
    task: Annotated[str, typer.Argument(metavar="TASK", help="pdebench/advection, pdebench/burgers, …")],
    samples: Annotated[int, typer.Option("--samples", "-n", min=1, metavar="N", help="Number of samples.")],
    seed: Annotated[
        int,
        typer.Option(min=0, max=MAX_SEED, help="Sample i of a seed is the same in every file, whatever its --samples."),
    ] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            parser=directory,
            help="Directory of the file. Default: where pdebench_generated/TASK reads it.",
        ),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", "-w", min=1, metavar="W", help="Number of processes.")] = 1,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file that was generated with other options.")
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Solve a task's published equations and write the samples in PDEBench's layout.

    Such a set is no benchmark: the task that reads it, pdebench_generated/TASK, has a leaderboard of its own.
    The same command continues after an interruption.
    """
    from orca_ray.simulation import run

    begin = time.monotonic()
    target = run.target(task, out)  # refuses a misspelt task before anything is created
    if out is not None:
        require_directory(out, "--out")
    before = _identity(target)
    try:
        with new_directories_removed(target.parent), DataProgress(quiet=quiet) as progress:
            path, made = run.generate(
                task,
                samples,
                seed=seed,
                directory=out,
                workers=workers,
                overwrite=overwrite,
                progress=lambda done, total: progress(f"{task}: {done} of {total} samples"),
            )
    except KeyboardInterrupt:
        solved = run.solved(task, out)
        continues = f": {solved} samples are stored, and the same command continues from there" if solved else ""
        whole = _identity(target) != before
        note(f"interrupted, but {target} is complete" if whole else f"interrupted: no file was written{continues}")
        raise
    if not quiet:
        done = duration(time.monotonic() - begin) if made else "already there"
        say(f"{task}: {samples} samples, {size(path.stat().st_size)}, {path} ({done})")


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what distinguishes one file from its replacement; None if there is none."""
    with contextlib.suppress(OSError):
        status = path.stat()
        return status.st_ino, status.st_mtime_ns
    return None
