"""Ends the processes that a killed driver left behind.

After SIGKILL of a driver its local cluster ends within seconds, but helper processes of Ray can remain. A driver that
starts a cluster writes the ids of its processes to a file; the next driver ends those whose driver is gone. A process
is identified by id and creation time, because ids are reused, and a file by machine, because the cache may be shared.
"""

import json
import logging
import os
import platform
from pathlib import Path

from orca_ray.data.cache import home

logger = logging.getLogger(__name__)


def _directory() -> Path:
    return home() / "drivers"


def note_processes() -> Path:
    """Write the ids of this driver and its descendants to a file; return its path, to delete after a clean end."""
    import psutil

    driver = psutil.Process()
    note = _directory() / f"{platform.node()}-{driver.pid}.json"
    note.parent.mkdir(parents=True, exist_ok=True)
    started = [[child.pid, child.create_time()] for child in driver.children(recursive=True)]
    note.write_text(json.dumps({"driver": [driver.pid, driver.create_time()], "started": started}))
    return note


def reap_orphans() -> list[int]:
    """End the processes of drivers that are gone; return the ids of the ended processes."""
    ended: list[int] = []
    for note in _directory().glob(f"{platform.node()}-*.json"):
        try:
            content = json.loads(note.read_text())
            driver, started = content["driver"], content["started"]
        except (OSError, ValueError, KeyError):
            note.unlink(missing_ok=True)
            continue
        if _alive(*driver):
            continue
        ended += [pid for pid, created in started if _end(pid, created)]
        note.unlink(missing_ok=True)
    if ended:
        logger.info("ended %d processes of an earlier driver: %s", len(ended), ended)
    return ended


def _alive(pid: int, created: float) -> bool:
    import psutil

    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - created) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _end(pid: int, created: float) -> bool:
    import psutil

    if pid == os.getpid() or not _alive(pid, created):
        return False
    try:
        psutil.Process(pid).kill()
    except psutil.Error:
        return False
    return True
