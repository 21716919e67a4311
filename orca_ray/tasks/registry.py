"""All tasks by name: every ``TASK``, and every entry of ``TASKS``, in a module ``orca_ray/tasks/<benchmark>/*.py``."""

import functools
import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from types import MappingProxyType, ModuleType

import orca_ray.tasks
from orca_ray.errors import unknown_name
from orca_ray.tasks.task import Task


@functools.cache
def all_tasks() -> Mapping[str, Task]:
    """Return all tasks by full name, in order of names; raises ValueError if two modules declare one name."""
    return MappingProxyType(_collected(_discovered()))


def get_task(name: str) -> Task:
    """Return a task by its full name, e.g. ``pocket/digits``; raises UserError for an unknown one."""
    tasks = all_tasks()
    if name not in tasks:
        raise unknown_name("task", name, tasks)
    return tasks[name]


def all_benchmarks() -> list[str]:
    """Return the names of all benchmarks, sorted."""
    return sorted({task.benchmark for task in all_tasks().values()})


def get_benchmark(name: str) -> list[Task]:
    """Return the tasks of a benchmark in order of names; raises UserError for an unknown benchmark."""
    benchmarks = all_benchmarks()
    if name not in benchmarks:
        raise unknown_name("benchmark", name, benchmarks)
    return [task for task in all_tasks().values() if task.benchmark == name]


def _discovered() -> Iterable[Task]:
    """Import the task modules, which is cheap because heavy libraries are imported inside ``build``."""
    for package in pkgutil.iter_modules(orca_ray.tasks.__path__, "orca_ray.tasks."):
        if package.ispkg:
            path = importlib.import_module(package.name).__path__
            for module in pkgutil.iter_modules(path, f"{package.name}."):
                yield from _declared(importlib.import_module(module.name))


def _declared(module: ModuleType) -> list[Task]:
    """Return a module's ``TASK`` and ``TASKS``; raises ValueError for an entry that is not a task."""
    found = [*([module.TASK] if hasattr(module, "TASK") else []), *getattr(module, "TASKS", ())]
    for entry in found:
        if not isinstance(entry, Task):
            raise ValueError(f"{module.__name__} declares {entry!r}, which is no Task")
    return found


def _collected(tasks: Iterable[Task]) -> dict[str, Task]:
    by_name: dict[str, Task] = {}
    for task in sorted(tasks, key=lambda each: each.name):
        if task.name in by_name:
            raise ValueError(f"two modules declare the task {task.name!r}")
        by_name[task.name] = task
    return by_name
