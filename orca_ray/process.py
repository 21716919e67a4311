"""Facts about this process: the CPUs and memory that its container allows, and a count
of its steps of progress.

The count distinguishes a slow trial from one that hangs. Limits are read from cgroups,
versions 1 and 2.
"""

import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


def allowed_cpus(root: Path = CGROUPS, own: Path = OWN_GROUPS) -> int:
    """Return the number of CPU cores that this process may use by its CPU affinity and
    its cgroup's quota.
    """
    cores = (
        len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1
    )
    pairs = [
        _read(folder / "cpu.max") for folder in _folders(root, own, "")
    ]  # quota and period
    pairs += [
        [*_read(folder / "cpu.cfs_quota_us"), *_read(folder / "cpu.cfs_period_us")]
        for folder in _folders(root, own, "cpu")
    ]
    quotas = (
        int(pair[0]) // int(pair[1])
        for pair in pairs
        if len(pair) == 2 and pair[0].isdecimal()
    )
    return max(1, min([cores, *quotas]))


def allowed_memory(root: Path = CGROUPS, own: Path = OWN_GROUPS) -> int | None:
    """Return the memory limit of this process in bytes, the lowest one of its cgroups;
    None if there is no limit.
    """
    values = [_read(folder / "memory.max") for folder in _folders(root, own, "")]
    values += [
        _read(folder / "memory.limit_in_bytes")
        for folder in _folders(root, own, "memory")
    ]
    limits = [int(value[0]) for value in values if value and value[0].isdecimal()]
    return min(
        (limit for limit in limits if limit < 2**60), default=None
    )  # version 1 has a huge number for no limit


def free_memory() -> int:
    """Return the bytes of memory that this process may still take: what is available,
    within `allowed_memory`.
    """
    import psutil

    available = psutil.virtual_memory().available
    limit = allowed_memory()
    return (
        available
        if limit is None
        else max(0, min(available, limit - psutil.Process().memory_info().rss))
    )


def seconds_since_boot() -> float:
    """Return the time of a clock that never steps and, on Linux, goes on while the
    machine sleeps.
    """
    return (
        time.clock_gettime(time.CLOCK_BOOTTIME)
        if hasattr(time, "CLOCK_BOOTTIME")
        else time.monotonic()
    )


def _folders(root: Path, own: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's group and those around it; ``controller`` is
    "" for version 2.
    """
    base = root / controller if controller else root
    yield base
    for line in own.read_text().splitlines() if own.exists() else ():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            parts = Path(path.lstrip("/")).parts
            yield from (
                base.joinpath(*parts[:depth])
                for depth in range(1, len(parts) + 1)
                if ".." not in parts
            )


def _read(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def end_with_parent() -> None:
    """End this process of `multiprocessing` as soon as the process that started it
    ends, even if that is killed.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()


_count = 0


def note_progress() -> None:
    """Count one step of progress, e.g. a batch; costs well under a microsecond."""
    global _count
    _count += 1


@contextmanager
def noting_progress(seconds: float = 5.0) -> Iterator[None]:
    """Context manager that calls `note_progress` every ``seconds`` s, for work that
    surely ends, e.g. a download.
    """
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(seconds):
            note_progress()

    threading.Thread(target=run, name="noting progress", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def progress_count() -> int:
    """Return the number of calls of `note_progress` in this process."""
    return _count
