"""All tasks by name.

Packages ``orca_ray/tasks/<benchmark>`` and their modules declare ``TASK``, or several
``TASKS``. Other packages add benchmarks by entry points (docs/plug-ins.md).
"""

import functools
import logging
import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from orca_ray import tasks as benchmarks
from orca_ray.data import cache, prepared
from orca_ray.data.prepared import Arrays
from orca_ray.data.raw import Workspace
from orca_ray.data.rows import Target
from orca_ray.discovery import declared, modules, with_plug_ins
from orca_ray.errors import UserError, lookup, unknown_name
from orca_ray.tasks.task import Task

logger = logging.getLogger(__name__)

BENCHMARK = "own"
"""Name of the benchmark of all own tasks, which are the tasks of a user's own data."""
DECLARATION = "task.json"
PREPROCESSING = "preprocessing.json"
"""Names of the files that are stored beside the prepared arrays of an own task."""
_VERSION = 1
_NAME = re.compile(r"own/[a-z0-9_]+-[0-9a-f]{6}")
_LEFT_OUT = ("build", "files", "packages", "fetcher")


def is_own(name: str) -> bool:
    """Return whether ``name`` has the form ``own/NAME-HASH`` of an own task's name.

    The task need not exist.
    """
    return _NAME.fullmatch(name) is not None


def own_directory(name: str) -> Path:
    """Return the cache directory of an own task, existing or not.

    Raises UserError if ``name`` is not like own/NAME-HASH.
    """
    if not is_own(name):
        raise UserError(
            "an own task is named own/NAME-HASH, with 6 hexadecimal digits at the end,"
            f" got {name!r}"
        )
    return prepared.directory_of(name, _VERSION)


def own_names() -> list[str]:
    """Return the names of the own tasks in the cache, sorted."""
    folders = (
        path.parent.parent.name
        for path in (cache.home() / "prepared" / BENCHMARK).glob(f"*/1/{DECLARATION}")
    )
    return sorted(
        f"{BENCHMARK}/{name}" for name in folders if is_own(f"{BENCHMARK}/{name}")
    )


def own_tasks() -> dict[str, Task]:
    """Return the own tasks in the cache by name, sorted.

    Tasks with an invalid declaration are logged and left out.
    """
    tasks = {}
    for name in own_names():
        try:
            tasks[name] = get_own_task(name)
        except UserError as error:
            logger.warning("%s", error)
    return tasks


def get_own_task(name: str) -> Task:
    """Return the own task ``name``.

    Raises UserError if it is not in the cache of this node, or its declaration is
    invalid.
    """
    path = own_directory(name) / DECLARATION if is_own(name) else None
    if path is None or not path.is_file():
        advice = (
            "Own tasks are made by 'orca-sweep adapt DATA' and kept in the cache"
            " directory."
        )
        raise unknown_name("task", name, own_names() or ["none yet"], advice)
    task = task_from_json(cache.read_json(path), str(path))
    if task.name != name:
        raise UserError(
            f"{path}: expected the declaration of {name}, found that of {task.name};"
            " adapt the data again"
        )
    return task


def task_to_json(task: Task) -> dict[str, Any]:
    """Return the declaration of a task as a JSON object.

    Fields that only its `Task.build` needs are left out.
    """
    names = [field.name for field in fields(task) if field.name not in _LEFT_OUT]
    # The first version had the name modality for the field ``domain``.
    values = {
        {"domain": "modality"}.get(name, name): getattr(task, name) for name in names
    }
    return {**values, "target": asdict(task.target)}


def task_from_json(content: Mapping[str, Any], where: str = DECLARATION) -> Task:
    """Return the task of a JSON object from `task_to_json`.

    Its ``build`` is `refuse_build`. Raises UserError if the object is invalid.
    """
    values = dict(content)
    try:
        target = Target(
            **{**values.pop("target"), "shape": tuple(content["target"]["shape"])}
        )
        for name in ("input_shape", "num_samples"):
            values[name] = (
                None if values[name] is None else tuple(map(int, values[name]))
            )
        return Task(
            domain=values.pop("modality"), **values, target=target, build=refuse_build
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{where}: no declaration of a task ({type(error).__name__}: {error})"
        ) from error


def refuse_build(workspace: Workspace) -> Arrays:
    """Raise UserError.

    This is the ``build`` of own tasks, which are prepared when registered, never from
    raw files.
    """
    raise UserError(missing_data_text(workspace.task))


def missing_data_text(name: str) -> str:
    """Return the message for an own task without data in the cache of this node."""
    advice = (
        "run the same 'orca-sweep adapt' again; on a cluster, name a folder that all"
        " nodes share with --staging"
    )
    return (
        f"{name}: its prepared data are missing or damaged in {cache.home()}: {advice}"
    )


@functools.cache
def all_tasks() -> Mapping[str, Task]:
    """Return all tasks except own tasks by full name, sorted by name.

    Those of plug-ins come last. A plug-in cannot add tasks to a benchmark of this
    package, so that boards are the same in every installation, nor to ``own``. Raises
    ValueError if two tasks of this package have the same name.
    """
    # Importing the modules is cheap, because heavy libraries are imported only inside
    # `Task.build`.
    packages = modules(benchmarks, only_packages=True)
    own = declared(
        Task,
        "TASK",
        (module for package in packages for module in (package, *modules(package))),
    )
    benchmarks_here = {task.benchmark for task in own.values()}

    def objection(new: Task, found: Mapping[str, Task]) -> str:
        if new.benchmark == BENCHMARK:
            return (
                f"declares {new.name!r}, but {BENCHMARK!r} is the benchmark of users'"
                " own data; name it otherwise"
            )
        taken = new.benchmark in benchmarks_here
        return (
            f"declares {new.name!r}, but the benchmark {new.benchmark!r} is orca-ray's"
            if taken
            else ""
        )

    return with_plug_ins("task", Task, own, objection)


def known_tasks() -> Mapping[str, Task]:
    """Return all tasks by name, and then the own tasks in the cache.

    The first are those of `all_tasks`; own tasks need a valid declaration.
    """
    return {**all_tasks(), **own_tasks()}


def get_task(name: str) -> Task:
    """Return a task by its full name, e.g. ``pocket/digits``.

    Raises UserError for an unknown one. Tasks of a user's own data, ``own/NAME-HASH``,
    are read from the cache directory.
    """
    # Plug-ins are loaded for own tasks, too: errors then name those that were refused.
    tasks = all_tasks()
    if name.startswith(f"{BENCHMARK}/"):
        return get_own_task(name)
    return lookup("task", name, tasks)


def all_benchmarks() -> list[str]:
    """Return the names of all benchmarks except ``own``, sorted."""
    return sorted({task.benchmark for task in all_tasks().values()})


def get_benchmark(name: str) -> list[Task]:
    """Return the tasks of a benchmark, sorted by name.

    Raises UserError for an unknown benchmark. ``own`` is the benchmark of all own tasks
    in the cache directory; `all_benchmarks` leaves it out.
    """
    benchmarks = all_benchmarks()
    if name == BENCHMARK and (own := own_tasks()):
        return list(own.values())
    if name not in benchmarks:
        raise unknown_name("benchmark", name, benchmarks)
    return [task for task in all_tasks().values() if task.benchmark == name]
