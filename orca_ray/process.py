"""Facts about this process and its machine: resources, descendants, and progress.

Limits of CPUs and memory are read from cgroups, versions 1 and 2. The count of steps of
progress distinguishes a slow trial from one that hangs.
"""

import contextlib
import math
import multiprocessing
import os
import platform
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


@dataclass(frozen=True)
class NodeResources:
    """Resources of one node (machine) of a cluster."""

    name: str
    cpus: float
    gpus: float
    memory_gib: float
    id: str = ""
    """Ray's id of the node."""


def this_node() -> NodeResources:
    """Return the resources of this machine.

    These are the CPU cores and memory that the process may use, and the visible GPUs.
    """
    import psutil
    import torch

    memory = min(psutil.virtual_memory().total, allowed_memory() or math.inf)
    return NodeResources(
        name=platform.node(),
        cpus=float(allowed_cpus()),
        gpus=float(torch.cuda.device_count()),
        memory_gib=memory / 2**30,
    )


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


def process_identity() -> str:
    """Return the id and the start time of this process, which no other process has."""
    import psutil

    process = psutil.Process()
    return f"{process.pid}-{process.create_time():.2f}"


def process_lives(pid: int, created: float) -> bool:
    """Return whether the process with this id and start time lives."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return (
            abs(process.create_time() - created) < 1
            and process.status() != psutil.STATUS_ZOMBIE
        )
    return False


def descendants() -> "frozenset[psutil.Process]":
    """Return the living processes that this process or its descendants have started."""
    import psutil

    return frozenset(psutil.Process().children(recursive=True))


def kill_with_descendants(processes: "Iterable[psutil.Process]") -> None:
    """Kill processes and all their descendants.

    An example are the remaining services of a local cluster that was lost.
    """
    import psutil

    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            # `children` raises if another process has the id now
            for member in (*process.children(recursive=True), process):
                member.kill()


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
