"""Ends the processes that a killed driver left behind.

After SIGKILL of a driver its local cluster ends within seconds, but helper processes of Ray can remain. A driver that
starts a cluster writes the ids of its processes to a file; the next driver ends those whose driver is gone. A process
is identified by id and creation time, because ids are reused, and a file by machine, because the cache may be shared.
"""

import json
import logging
import platform
from pathlib import Path

import psutil

from orca_ray.data.cache import home

logger = logging.getLogger(__name__)


def note_processes() -> Path:
    """Write the ids of this driver and its descendants to a file; return its path, to delete after a clean end."""
    driver = psutil.Process()
    note = home() / "drivers" / f"{platform.node()}-{driver.pid}.json"
    note.parent.mkdir(parents=True, exist_ok=True)
    started = [[child.pid, child.create_time()] for child in driver.children(recursive=True)]
    note.write_text(json.dumps({"driver": [driver.pid, driver.create_time()], "started": started}))
    return note


def reap_orphans() -> list[int]:
    """End the processes of drivers that are gone; return the ids of the ended processes."""
    ended: list[int] = []
    for note in (home() / "drivers").glob(f"{platform.node()}-*.json"):
        try:
            content = json.loads(note.read_text())
            if _living(*content["driver"]):
                continue
            for process in filter(None, (_living(*each) for each in content["started"])):
                process.kill()
                ended.append(process.pid)
        except (OSError, ValueError, KeyError, psutil.Error) as error:
            logger.debug("%s: %s", note, error)
        note.unlink(missing_ok=True)
    if ended:
        logger.info("ended %d processes of an earlier driver: %s", len(ended), ended)
    return ended


def _living(pid: int, created: float) -> psutil.Process | None:
    """Return the process with this id and creation time, or None if it has ended."""
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - created) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return process if same else None
