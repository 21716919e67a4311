"""Facts about this process and its machine: resources, descendants, and progress.

Own code stands here because psutil reports the CPUs and memory of the machine, not the
limits of the container; those are read from cgroups, versions 1 and 2. The count of
steps of progress distinguishes a slow trial from one that hangs.
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
"""Root of the file systems of cgroups, versions 1 and 2."""
OWN_GROUPS = Path("/proc/self/cgroup")
"""File that lists the groups of this process, a line for each hierarchy."""
NO_LIMIT = 2**60
"""Smallest memory limit in bytes that means "no limit" in cgroups of version 1."""


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

    # `allowed_memory` returns None if there is no limit.
    memory = min(psutil.virtual_memory().total, allowed_memory() or math.inf)
    return NodeResources(
        name=platform.node(),
        cpus=float(allowed_cpus()),
        gpus=float(torch.cuda.device_count()),
        memory_gib=memory / 2**30,
    )


def allowed_cpus(root: Path = CGROUPS, own: Path = OWN_GROUPS) -> int:
    """Return the number of CPU cores that affinity and quota allow to this process."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quotas_and_periods = [
        _read_words(folder / "cpu.max") for folder in _group_folders(root, own, "")
    ]
    for folder in _group_folders(root, own, "cpu"):
        quota = _read_words(folder / "cpu.cfs_quota_us")
        period = _read_words(folder / "cpu.cfs_period_us")
        quotas_and_periods.append([*quota, *period])
    # The process may use CPUs for ``quota`` of each ``period`` microseconds. A group
    # without a limit has the quota "max" or -1.
    quotas = [
        int(words[0]) // int(words[1])
        for words in quotas_and_periods
        if len(words) == 2 and words[0].isdecimal()
    ]
    return max(1, min([cores, *quotas]))


def allowed_memory(root: Path = CGROUPS, own: Path = OWN_GROUPS) -> int | None:
    """Return the lowest memory limit of this process's groups in bytes; None: none."""
    files = [folder / "memory.max" for folder in _group_folders(root, own, "")]
    files += [
        folder / "memory.limit_in_bytes"
        for folder in _group_folders(root, own, "memory")
    ]
    values = [_read_words(file) for file in files]
    limits = [int(words[0]) for words in values if words and words[0].isdecimal()]
    return min((limit for limit in limits if limit < NO_LIMIT), default=None)


def free_memory() -> int:
    """Return the bytes of memory that this process may still take.

    That is the memory available on the machine, within `allowed_memory`.
    """
    import psutil

    available = psutil.virtual_memory().available
    limit = allowed_memory()
    if limit is None:
        return available
    return max(0, min(available, limit - psutil.Process().memory_info().rss))


def seconds_since_boot() -> float:
    """Return the seconds on a clock that never steps.

    On Linux, the clock goes on while the machine sleeps.
    """
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


def _group_folders(root: Path, own: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's group and of the groups around it.

    ``controller`` is "" for cgroups of version 2. ``own`` is the file that lists the
    groups, with lines such as ``4:cpu,cpuacct:/docker/1f``.
    """
    base = root / controller if controller else root
    yield base
    if not own.exists():
        return
    for line in own.read_text().splitlines():
        _, controllers, path = line.split(":", maxsplit=2)
        parts = Path(path.lstrip("/")).parts
        if controller not in controllers.split(",") or ".." in parts:
            continue
        for depth in range(1, len(parts) + 1):
            yield base.joinpath(*parts[:depth])


def _read_words(path: Path) -> list[str]:
    """Return the words in a file; none if it cannot be read."""
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
        # Within a second: another process may have got the id of an ended one.
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
    """End this process as soon as the process that started it ends, even if killed.

    This process is one of `multiprocessing`.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()


_count = 0
"""Number of steps of progress in this process."""
_deadline = math.inf
"""Time of `time.monotonic` from which `note_progress` raises KeyboardInterrupt."""


def note_progress() -> None:
    """Count one step of progress, e.g. a batch; costs well under a microsecond.

    Raises KeyboardInterrupt after the deadline of `interrupted_at`.
    """
    global _count
    _count += 1
    if time.monotonic() > _deadline:
        raise KeyboardInterrupt


@contextmanager
def interrupted_at(deadline: float) -> Iterator[None]:
    """Context manager: work that goes on after ``deadline`` ends as after Ctrl-C.

    It ends at its next step of progress. ``deadline`` is a time of `time.monotonic`.
    """
    global _deadline
    _deadline = deadline
    try:
        yield
    finally:
        _deadline = math.inf


@contextmanager
def noting_progress(seconds: float = 5.0) -> Iterator[None]:
    """Context manager that calls `note_progress` every ``seconds`` s.

    It is for work that surely ends, e.g. a download.
    """
    ended = threading.Event()

    def run() -> None:
        global _count
        while not ended.wait(seconds):
            _count += 1

    threading.Thread(target=run, name="noting progress", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def progress_count() -> int:
    """Return the number of calls of `note_progress` in this process."""
    return _count
