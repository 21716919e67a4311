"""All tasks by name. Modules ``orca_ray/tasks/<benchmark>/*.py`` declare one task as ``TASK``, several as ``TASKS``.

Other packages add benchmarks by entry points (docs/plug-ins.md).
"""

import functools
from collections.abc import Mapping

from orca_ray import tasks as benchmarks
from orca_ray.discovery import declared, modules, with_plug_ins
from orca_ray.errors import lookup, unknown_name
from orca_ray.tasks.own import BENCHMARK, get_own_task, own_tasks
from orca_ray.tasks.task import Task


@functools.cache
def all_tasks() -> Mapping[str, Task]:
    """Return all tasks by full name, sorted by name, those of plug-ins last.

    A plug-in cannot add tasks to a benchmark of this package, whose boards would then be others on each installation,
    nor to ``own``, whose tasks are read from the cache directory.
    Raises ValueError if two tasks of this package have the same name.
    """
    # Importing the modules is cheap, because heavy libraries are imported only inside `Task.build`.
    packages = modules(benchmarks, only_packages=True)
    own = declared(Task, "TASK", (module for package in packages for module in modules(package)))
    benchmarks_here = {task.benchmark for task in own.values()}

    def objection(new: Task, found: Mapping[str, Task]) -> str:
        if new.benchmark == BENCHMARK:
            return f"declares {new.name!r}, but {BENCHMARK!r} is the benchmark of users' own data; name it otherwise"
        taken = new.benchmark in benchmarks_here
        return f"declares {new.name!r}, but the benchmark {new.benchmark!r} is orca-ray's" if taken else ""

    return with_plug_ins("task", Task, own, objection)


def known_tasks() -> Mapping[str, Task]:
    """Return `all_tasks`, and the own tasks in the cache directory whose declaration is valid."""
    return {**all_tasks(), **own_tasks()}


def get_task(name: str) -> Task:
    """Return a task by its full name, e.g. ``pocket/digits``; raises UserError for an unknown one.

    Tasks of a user's own data, ``own/NAME-HASH``, are read from the cache directory.
    """
    found = all_tasks()  # first: an error then also says which plug-ins were refused
    return get_own_task(name) if name.startswith(f"{BENCHMARK}/") else lookup("task", name, found)


def all_benchmarks() -> list[str]:
    """Return the names of all benchmarks, sorted."""
    return sorted({task.benchmark for task in all_tasks().values()})


def get_benchmark(name: str) -> list[Task]:
    """Return the tasks of a benchmark, sorted by name; raises UserError for an unknown benchmark.

    ``own`` is the benchmark of all own tasks in the cache directory; `all_benchmarks` leaves it out.
    """
    benchmarks = all_benchmarks()
    if name == BENCHMARK and (own := own_tasks()):
        return list(own.values())
    if name not in benchmarks:
        raise unknown_name("benchmark", name, benchmarks)
    return [task for task in all_tasks().values() if task.benchmark == name]
