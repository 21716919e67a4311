"""Cleanup after killed drivers and workers: processes of Ray that they started, and their scratch directories."""

import contextlib
import json
import logging
import platform
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil

from orca_ray.data import cache

logger = logging.getLogger(__name__)

_PREFIX = f"orca-ray-{platform.node()}-"
"""With the machine's name, because containers may share a directory, and each has process ids of its own."""


def descendants() -> frozenset[psutil.Process]:
    """Return the living processes that this process or its descendants have started."""
    return frozenset(psutil.Process().children(recursive=True))


def note_processes(started: Iterable[psutil.Process]) -> Path:
    """Write the ids of this process and of ``started`` to a file; return the file's path. The caller deletes it."""
    driver = psutil.Process()
    note = cache.home() / "drivers" / f"{platform.node()}-{driver.pid}.json"
    note.parent.mkdir(parents=True, exist_ok=True)
    ids = [[each.pid, each.create_time()] for each in started if each.is_running()]
    note.write_text(json.dumps({"driver": [driver.pid, driver.create_time()], "started": ids}))
    return note


def kill_with_descendants(started: Iterable[psutil.Process]) -> None:
    """Kill processes and all their descendants, e.g. the remaining services of a local cluster that was lost."""
    for process in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            family = [*process.children(recursive=True), process]  # raises if another process has the id now
            for each in family:
                each.kill()


def reap_orphans() -> list[int]:
    """Kill the processes that dead drivers left on this machine (`note_processes`); return the ids of these processes.

    If a driver gets SIGKILL, the Ray cluster that it started ends within seconds, but helper processes of Ray can
    remain. A process is identified by id and creation time, because ids are reused. Names of notes begin with the name
    of the machine, because machines may share the cache.
    """
    ended: list[int] = []
    for note in (cache.home() / "drivers").glob(f"{platform.node()}-*.json"):
        if not note.stem.removeprefix(f"{platform.node()}-").isdecimal():
            continue  # of a machine whose name begins with the name of this one
        try:
            content = cache.read_json(note)
            if _living(*content["driver"]):
                continue
            for process in filter(None, (_living(*each) for each in content["started"])):
                with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
                    process.kill()
                    ended.append(process.pid)
        except (OSError, ValueError, TypeError, KeyError, psutil.Error) as error:  # also UserError: a damaged file
            logger.debug("%s: %s", note, error)
        note.unlink(missing_ok=True)
    if ended:
        logger.info("ended %d processes of an earlier driver: %s", len(ended), ended)
    return ended


def _living(pid: int, created: float) -> psutil.Process | None:
    """Return the process with id ``pid`` that was created at time ``created``, or None if it has ended."""
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - created) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return process if same else None


@contextlib.contextmanager
def scratch_directory() -> Iterator[Path]:
    """Context manager: a temporary directory, whose name holds the id and the start time of this process."""
    process = psutil.Process()
    prefix = f"{_PREFIX}{process.pid}-{process.create_time():.2f}-"
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as path:
        yield Path(path)


def remove_abandoned() -> None:
    """Delete the directories of `scratch_directory` that killed processes of this machine have left."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        found = re.fullmatch(r"(\d+)-([\d.]+)-.*", path.name.removeprefix(_PREFIX))
        if found is None:  # of a machine whose name begins with the name of this one
            continue
        if not _living(int(found[1]), float(found[2])):
            logger.info("deleting %s, which a killed process has left", path)
            shutil.rmtree(path, ignore_errors=True)
