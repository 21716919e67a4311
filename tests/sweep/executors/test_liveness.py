"""Deadlines, heartbeats, the watchdog, causes from Ray's exceptions, and limits of containers."""

import os
import socket
import threading
import time
from pathlib import Path

import pytest

from orca_ray.errors import ClusterLostError
from orca_ray.limits import allowed_cpus, allowed_memory
from orca_ray.sweep.executors.liveness import Deadlines, TimeLimits, Watchdog, lost_service
from orca_ray.sweep.executors.processes import Background
from orca_ray.sweep.run.retries import Cause


class Watched:
    """Deadlines with a clock and a heartbeat that a test sets."""

    def __init__(self, limits: TimeLimits) -> None:
        self.now, self.beat = 0.0, ("node", 0)
        self.deadlines = Deadlines(limits, read=lambda name: self.beat, clock=lambda: self.now)
        self.deadlines.watch("t")

    def advance(self, seconds: float, *, beats: bool = False) -> list[str]:
        """Let seconds pass, with or without beats, until a trial exceeds a limit; return the reasons."""
        for _ in range(int(seconds)):
            self.now += 1
            self.beat = ("node", self.beat[1] + beats)
            if found := self.deadlines.exceeded():
                return list(found.values())
        return []


def test_a_worker_without_progress_hangs() -> None:
    watched = Watched(TimeLimits(heartbeat=60.0))
    assert watched.advance(600, beats=True) == [], "an epoch may take long"
    (reason,) = watched.advance(100)
    assert "the worker hangs" in reason
    watched.deadlines.reported("t")
    assert watched.advance(50) == []
    watched.deadlines.ended("t")
    assert watched.advance(600) == []


def test_a_trial_has_a_deadline() -> None:
    watched = Watched(TimeLimits(trial=120.0))
    assert watched.advance(3600, beats=True) == [], "its node stages the data"
    watched.deadlines.reported("t")
    assert watched.advance(60, beats=True) == []
    watched.deadlines.reported("t")
    assert watched.advance(60, beats=True) == []
    assert "limit of 2 minutes" in watched.advance(1, beats=True)[0]


def test_the_watchdog_notices_a_service_that_is_gone() -> None:
    server = socket.create_server(("127.0.0.1", 0))
    address = ("127.0.0.1", server.getsockname()[1])
    lost, told = list[ClusterLostError](), threading.Event()

    def on_lost(error: ClusterLostError) -> None:
        lost.append(error)
        told.set()

    with Watchdog({"head": address}, on_lost, seconds=0.02):
        assert not told.wait(0.3)
        server.close()
        assert told.wait(5)
    assert f"the head at 127.0.0.1:{address[1]} does not answer" in str(lost[0])
    assert isinstance(lost_service({"head": address}, OSError("x")), ClusterLostError)


def test_work_in_the_background() -> None:
    done: list[int] = []
    Background(lambda: done.append(1)).wait(lambda: None)
    assert done == [1]

    def fails() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        Background(fails).wait(lambda: None)
    stuck = Background(lambda: time.sleep(60))
    threading.Timer(0.1, lambda: stuck.abandon(ClusterLostError("gone"))).start()
    with pytest.raises(ClusterLostError):
        stuck.wait(lambda: None)


def test_the_first_ctrl_c_is_passed_on() -> None:
    asked = threading.Event()

    def ends_when_asked() -> None:
        asked.wait(10)

    work = Background(ends_when_asked)
    threading.Timer(0.1, lambda: os.kill(os.getpid(), 2)).start()
    work.wait(asked.set)
    assert asked.is_set()


def test_causes_of_what_ray_reports() -> None:
    from ray.exceptions import ActorDiedError, OutOfMemoryError, RayActorError, RayTaskError

    from orca_ray.sweep.executors.tune_adapter import failure_of

    task = RayTaskError("step", "Traceback ...\nKeyError: 'x'", KeyError("x"))
    memory = RayTaskError("step", "Traceback ...\nMemoryError", MemoryError())
    assert failure_of(RayActorError(preempted=True), "").cause is Cause.PREEMPTED
    assert failure_of(OutOfMemoryError("killed"), "").cause is Cause.MEMORY
    assert failure_of(None, "Task was killed due to the node running low on memory.").cause is Cause.MEMORY
    assert failure_of(task, "").cause is Cause.CODE
    assert failure_of(memory, "").cause is Cause.MEMORY
    assert failure_of(ActorDiedError(task), "").cause is Cause.CODE, "the worker cannot be built"
    text = "Worker exit type: SYSTEM_ERROR. Possible reasons: (1) killed by the OOM killer due to high memory usage"
    lost = failure_of(ActorDiedError(), text, "node")
    assert (lost.cause, lost.reason, lost.node) == (Cause.LOST, text, "node")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_limits_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    own, root = tmp_path / "own", tmp_path / "groups"
    assert allowed_cpus(root, own) == 16
    assert allowed_memory(root, own) is None
    write(own, "0::/pod/box\n")
    write(root / "pod/cpu.max", "350000 100000\n")
    write(root / "pod/box/cpu.max", "max 100000\n")
    write(root / "pod/box/memory.max", f"{2**31}\n")
    write(root / "memory.max", "max\n")
    assert allowed_cpus(root, own) == 3
    assert allowed_memory(root, own) == 2**31


def test_limits_of_version_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    own, root = tmp_path / "own", tmp_path / "groups"
    write(own, "4:memory:/docker/1\n3:cpu,cpuacct:/docker/1\n")
    write(root / "cpu/docker/1/cpu.cfs_quota_us", "50000")
    write(root / "cpu/docker/1/cpu.cfs_period_us", "100000")
    write(root / "memory/memory.limit_in_bytes", str(2**63 - 4096))
    assert allowed_cpus(root, own) == 1, "half a core is one worker"
    assert allowed_memory(root, own) is None
    write(root / "memory/docker/1/memory.limit_in_bytes", str(2**30))
    assert allowed_memory(root, own) == 2**30
