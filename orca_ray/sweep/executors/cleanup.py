"""Cleanup after lost clusters and killed processes: processes of a cluster, and scratch
directories.

The services of a local cluster of Ray end with the driver that started the cluster;
Ray's agents end within a minute.
"""

import contextlib
import logging
import platform
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil

logger = logging.getLogger(__name__)

_PREFIX = f"orca-ray-{platform.node()}-"
"""With the machine's name, because containers may share a directory, and each has
process ids of its own.
"""


def descendants() -> frozenset[psutil.Process]:
    """Return the living processes that this process or its descendants have started."""
    return frozenset(psutil.Process().children(recursive=True))


def kill_with_descendants(started: Iterable[psutil.Process]) -> None:
    """Kill processes and all their descendants, e.g. the remaining services of a local
    cluster that was lost.
    """
    for process in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            family = [
                *process.children(recursive=True),
                process,
            ]  # raises if another process has the id now
            for each in family:
                each.kill()


def _lives(pid: int, created: float) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return (
            abs(process.create_time() - created) < 1
            and process.status() != psutil.STATUS_ZOMBIE
        )
    return False


@contextlib.contextmanager
def scratch_directory() -> Iterator[Path]:
    """Context manager: a temporary directory, whose name holds the id and the start
    time of this process.
    """
    process = psutil.Process()
    prefix = f"{_PREFIX}{process.pid}-{process.create_time():.2f}-"
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as path:
        yield Path(path)


def remove_abandoned() -> None:
    """Delete the directories of `scratch_directory` that killed processes of this
    machine have left.
    """
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        found = re.fullmatch(r"(\d+)-([\d.]+)-.*", path.name.removeprefix(_PREFIX))
        if found is None:  # of a machine whose name begins with the name of this one
            continue
        if not _lives(int(found[1]), float(found[2])):
            logger.info("deleting %s, which a killed process has left", path)
            shutil.rmtree(path, ignore_errors=True)
