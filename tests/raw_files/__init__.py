"""Small raw files in the exact layout of every benchmark's.

There are also ways to corrupt them.
"""

import importlib
import os
import pkgutil
import re
from functools import cache
from typing import Any

from orca_ray.testing.tasks import Corruption, Writer, cut, deleted, garbage, rewritten


def writers() -> dict[str, Writer]:
    """Return the writer of every task's raw files by the task's name."""
    return _declared("WRITERS")


def corruptions() -> dict[str, list[Corruption]]:
    """Return the corruptions of every task's raw files by the task's name."""
    return _declared("CORRUPTIONS")


@cache
def _declared(table: str) -> dict[str, Any]:
    modules = [
        importlib.import_module(f"tests.raw_files.{info.name}")
        for info in pkgutil.iter_modules(__path__)
    ]
    return {
        name: found
        for module in modules
        for name, found in getattr(module, table).items()
    }


def broken(path: str, files: int) -> list[Corruption]:
    """Return corruptions of one of the ``files`` raw files of a task.

    The file is missing, cut in half, or overwritten.
    """
    name = re.escape(path.split("/")[-1])
    missing = rf"1 of {files} raw files are not in .*{name}"
    return [
        ("missing", deleted(path), missing),
        ("truncated", cut(path), name),
        ("garbage", garbage(path), name),
    ]


class Hostile:
    """An object whose pickle runs a command when an ordinary unpickler reads it."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("true",)


def appended(name: str, line: str) -> Writer:
    """Return a `Writer` that appends ``line`` to the text file ``name``."""
    return lambda raw: rewritten(
        raw / name, lambda content: content + f"{line}\n".encode()
    )


def replaced(name: str, old: str, new: str) -> Writer:
    """Return a `Writer` that replaces ``old`` in the file ``name`` by ``new``.

    It replaces the first one; there must be one.
    """

    def change(content: bytes) -> bytes:
        assert old.encode() in content
        return content.replace(old.encode(), new.encode(), 1)

    return lambda raw: rewritten(raw / name, change)
