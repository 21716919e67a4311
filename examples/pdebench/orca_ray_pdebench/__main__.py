"""``python -m orca_ray_pdebench TASK --samples N``: the command that generates the data
file of a task.
"""

import contextlib
import os
import signal
import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from pathlib import Path

from orca_ray.cli.output import (
    INTERRUPTED,
    USER_ERROR,
    DataProgress,
    duration,
    fail,
    say,
    size,
)
from orca_ray.errors import UserError
from orca_ray.paths import check_directory
from orca_ray_pdebench import run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with ``arguments`` (None: those of this process), and return its
    exit code.
    """
    parser = ArgumentParser(
        prog="python -m orca_ray_pdebench",
        description=(
            "Solve a task's published equations and write the samples in PDEBench's"
            " layout. Such a set is no benchmark: the task that reads it,"
            " pdebench_generated/TASK, has a leaderboard of its own. The same command"
            " continues after an interruption."
        ),
    )
    parser.add_argument(
        "task", metavar="TASK", help="pdebench/advection, pdebench/burgers, …"
    )
    parser.add_argument(
        "--samples",
        "-n",
        type=int,
        required=True,
        metavar="N",
        help="number of samples",
    )
    text = "sample i of a seed is the same in every file, whatever its --samples"
    parser.add_argument("--seed", type=int, default=0, metavar="S", help=text)
    text = "directory of the file; default: where pdebench_generated/TASK reads it"
    parser.add_argument("--out", type=Path, metavar="DIR", help=text)
    parser.add_argument(
        "--workers", "-w", type=int, default=1, metavar="W", help="number of processes"
    )
    text = "replace a file that was generated with other options"
    parser.add_argument("--overwrite", action="store_true", help=text)
    parser.add_argument("--quiet", "-q", action="store_true", help="print only errors")
    given = parser.parse_args(arguments)
    begin = time.monotonic()
    try:
        target = run.target(
            given.task, given.out
        )  # raises for a misspelt task, before anything is created
        if given.out is not None:
            check_directory(given.out, "--out")
        with (
            _new_directories_removed(target.parent),
            DataProgress(quiet=given.quiet) as progress,
        ):
            path, made = run.generate(
                given.task,
                given.samples,
                seed=given.seed,
                directory=given.out,
                workers=given.workers,
                overwrite=given.overwrite,
                progress=lambda done, total: progress(
                    f"{given.task}: {done} of {total} samples"
                ),
            )
    except KeyboardInterrupt:
        solved = run.solved(given.task, given.out)
        continues = (
            f": {solved} samples are stored, and the same command continues from there"
            if solved
            else ""
        )
        return fail(f"interrupted: no file was written{continues}", INTERRUPTED)
    except UserError as error:
        return fail(str(error), USER_ERROR)
    if not given.quiet:
        done = duration(time.monotonic() - begin) if made else "already there"
        say(
            f"{given.task}: {given.samples} samples, {size(path.stat().st_size)},"
            f" {path} ({done})"
        )
    return 0


@contextlib.contextmanager
def _new_directories_removed(path: Path) -> Iterator[None]:
    """Context manager: if its block raises, remove ``path`` and its parents, as far as
    the block created them.

    A directory that holds files other than ``*.lock`` is kept; the lock files are
    deleted.
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


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    sys.exit(main())
