"""``python -m orca_ray_pdebench TASK --samples N``: generate a task's data file."""

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
    """Run the command, and return its exit code.

    ``arguments`` None stands for those of this process.
    """
    options = _parser().parse_args(arguments)
    begin = time.monotonic()
    try:
        # raises for a misspelt task, before anything is created
        target = run.target(options.task, options.out)
        if options.out is not None:
            check_directory(options.out, "--out")
        with (
            _new_directories_removed(target.parent),
            DataProgress(quiet=options.quiet) as progress,
        ):

            def report(num_solved: int, num_samples: int) -> None:
                progress(f"{options.task}: {num_solved} of {num_samples} samples")

            path, is_new = run.generate(
                options.task,
                options.samples,
                seed=options.seed,
                directory=options.out,
                workers=options.workers,
                overwrite=options.overwrite,
                progress=report,
            )
    except KeyboardInterrupt:
        message = "interrupted: no file was written"
        num_stored = run.solved(options.task, options.out)
        if num_stored:
            message += (
                f": {num_stored} samples are stored, and the same command continues"
                " from there"
            )
        return fail(message, INTERRUPTED)
    except UserError as error:
        return fail(str(error), USER_ERROR)
    if not options.quiet:
        took = duration(time.monotonic() - begin) if is_new else "already there"
        say(
            f"{options.task}: {options.samples} samples, {size(path.stat().st_size)},"
            f" {path} ({took})"
        )
    return 0


def _parser() -> ArgumentParser:
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
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="S",
        help="sample i of a seed is the same in every file, whatever its --samples",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="directory of the file; default: where pdebench_generated/TASK reads it",
    )
    parser.add_argument(
        "--workers", "-w", type=int, default=1, metavar="W", help="number of processes"
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace a file that was generated with other options",
    )
    parser.add_argument("--quiet", "-q", action="store_true", help="print only errors")
    return parser


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


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    sys.exit(main())
