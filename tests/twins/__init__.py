"""Format twins: small files of the exact layout of every benchmark's raw files, and damaged ones."""

import importlib
import pkgutil
from functools import cache
from typing import Any

from orca_ray.testing.tasks import Damage, Writer


@cache
def twins() -> dict[str, Writer]:
    """Return the writer of every task's twin by the task's name."""
    return {name: writer for module in _modules() for name, writer in module.TWINS.items()}


@cache
def damages() -> dict[str, list[Damage]]:
    """Return the damages to every task's twin by the task's name."""
    return {name: list(found) for module in _modules() for name, found in module.BAD.items()}


def _modules() -> list[Any]:
    found = [importlib.import_module(f"tests.twins.{info.name}") for info in pkgutil.iter_modules(__path__)]
    return [module for module in found if hasattr(module, "TWINS")]
