"""Every task of :mod:`orca_ray.tasks.pdebench` for a generated file in the same layout."""

import importlib
import pkgutil
from collections.abc import Iterator

from orca_ray.tasks import pdebench
from orca_ray.tasks.pdebench._declare import Problem, generated


def _problems() -> Iterator[Problem]:
    for module in pkgutil.iter_modules(pdebench.__path__, f"{pdebench.__name__}."):
        problem = getattr(importlib.import_module(module.name), "PROBLEM", None)
        if isinstance(problem, Problem):
            yield problem


TASKS = tuple(generated(problem) for problem in _problems())
