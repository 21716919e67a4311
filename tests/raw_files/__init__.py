"""Small files of the exact layout of every benchmark's raw files, and ways to corrupt them."""

import importlib
import pkgutil
import re
from functools import cache
from typing import Any

from orca_ray.testing.tasks import Corruption, Writer, cut, deleted, garbage


def writers() -> dict[str, Writer]:
    """Return the writer of every task's raw files by the task's name."""
    return _declared("WRITERS")


def corruptions() -> dict[str, list[Corruption]]:
    """Return the corruptions of every task's raw files by the task's name."""
    return _declared("CORRUPTIONS")


@cache
def _declared(table: str) -> dict[str, Any]:
    modules = [importlib.import_module(f"tests.raw_files.{info.name}") for info in pkgutil.iter_modules(__path__)]
    return {name: found for module in modules for name, found in getattr(module, table).items()}


def broken(path: str, files: int) -> list[Corruption]:
    """Return corruptions of one of the ``files`` raw files of a task: missing, cut in half and overwritten."""
    name = re.escape(path.split("/")[-1])
    missing = rf"1 of {files} raw files are not in .*{name}"
    return [("missing", deleted(path), missing), ("truncated", cut(path), name), ("garbage", garbage(path), name)]
