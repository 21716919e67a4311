"""Ways to damage the raw files of a task, for `TwinSuite.damages`."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Writer = Callable[[Path], None]
"""Writes the raw files of one task below a directory, or damages those that are there."""
Damage = tuple[str, Writer, str]
"""Name of the damage, function that damages good files, and regular expression that the error must match."""


class Hostile:
    """Runs a command when an ordinary unpickler reads it."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        import os

        return os.system, ("true",)


def deleted(name: str) -> Writer:
    """Return a damage that removes a file, or a folder and all in it."""

    def damage(raw: Path) -> None:
        path = raw / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


def cut(name: str) -> Writer:
    """Return a damage that leaves the first half of a file."""
    return lambda raw: rewritten(raw / name, lambda content: content[: len(content) // 2])


def garbage(name: str) -> Writer:
    """Return a damage that overwrites a file with random bytes."""
    return lambda raw: rewritten(raw / name, lambda content: np.random.RandomState(0).bytes(len(content)))


def appended(name: str, line: str) -> Writer:
    """Return a damage that adds a line to a text file."""
    return lambda raw: rewritten(raw / name, lambda content: content + f"{line}\n".encode())


def replaced(name: str, old: str, new: str) -> Writer:
    """Return a damage that replaces the first occurrence of a text, which must be there."""

    def change(content: bytes) -> bytes:
        assert old.encode() in content
        return content.replace(old.encode(), new.encode(), 1)

    return lambda raw: rewritten(raw / name, change)


def changed(name: str, change: Callable[[Array], Any]) -> Writer:
    """Return a damage that changes the array of an ``.npy`` file, which may become one of objects."""
    return lambda raw: np.save(raw / name, change(np.load(raw / name)), allow_pickle=True)


def rewritten(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Change the bytes of a file."""
    path.write_bytes(change(path.read_bytes()))


def with_item(array: Array, index: int | tuple[int, ...], value: float) -> Array:
    """Return a copy in which one item, or all below one index, has that value."""
    copy = array.copy()
    copy[index] = value
    return copy
