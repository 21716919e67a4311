"""Directories that are made once per test session and read by all workers."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def shared_directory(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a directory that ``make`` has filled, called once per session whatever the number of workers.

    Tests must not write to the directory. Its path is the same in all workers.
    """
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # a worker's own directory is inside that of the session
    path = root / "shared" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    with FileLock(path.with_name(f"{path.name}.lock")):
        if not path.exists():
            partial.mkdir()
            make(partial)
            partial.rename(path)
    return path
