"""Format twins: small files of the exact layout of every benchmark's raw files, and damaged ones."""

import importlib
import pkgutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

Writer = Callable[[Path], None]
"""Writes all raw files of one task below a directory, or damages those that are there."""
Damage = tuple[str, Writer, str]
"""What it is called, what it does to a good twin, and what the error must say (a regular expression)."""


@cache
def twins() -> dict[str, Writer]:
    """Return the writer of every task's twin by the task's name."""
    return {name: writer for module in _modules() for name, writer in module.TWINS.items()}


@cache
def damages() -> list[tuple[str, Damage]]:
    """Return every damage to a twin, with the task's name."""
    return [(name, damage) for module in _modules() for name, found in module.BAD.items() for damage in found]


def _modules() -> list[Any]:
    found = [importlib.import_module(f"tests.twins.{info.name}") for info in pkgutil.iter_modules(__path__)]
    return [module for module in found if hasattr(module, "TWINS")]
