"""Deadlines, heartbeats, work in a thread that ends when a service is lost.

What killed workers leave.
"""

import os
import platform
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pytest

from orca_ray.data.cache import remove_abandoned, scratch_directory
from orca_ray.errors import ClusterLostError
from orca_ray.process import descendants, kill_with_descendants
from orca_ray.sweep.executors.liveness import Background, Deadlines, lost_service
from orca_ray.sweep.messages.settings import TimeLimits


class Watched:
    """Deadlines with a clock and a heartbeat that a test sets."""

    def __init__(self, limits: TimeLimits) -> None:
        self.now = 0.0
        self.beat = ("node", 0)
        self.deadlines = Deadlines(
            limits, read=lambda name: self.beat, clock=lambda: self.now
        )
        self.deadlines.watch("t")

    def advance(self, seconds: float, *, beats: bool = False) -> list[str]:
        """Let seconds pass, with or without beats, until a trial exceeds a limit.

        Return the reasons.
        """
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


def test_work_in_the_background_is_abandoned_when_a_service_is_gone() -> None:
    done: list[int] = []
    Background(lambda: done.append(1)).wait(pytest.fail, {})
    assert done == [1]

    def fails() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        Background(fails).wait(pytest.fail, {})
    server = socket.create_server(("127.0.0.1", 0))
    services = {"head": server.getsockname()}
    closing = threading.Timer(0.5, server.close)
    stuck = Background(lambda: time.sleep(60))
    started = time.monotonic()
    closing.start()
    lost = f"^the head at 127.0.0.1:{services['head'][1]} does not answer any more$"
    with pytest.raises(ClusterLostError, match=lost):
        stuck.wait(pytest.fail, services, seconds=0.02)
    assert time.monotonic() - started > 0.5
    assert not stuck.ends(0.0)
    with pytest.raises(ClusterLostError, match=lost):
        raise lost_service(services, OSError("x"))


def test_the_first_ctrl_c_is_passed_on() -> None:
    asked = threading.Event()

    def ends_when_asked() -> None:
        asked.wait(10)

    work = Background(ends_when_asked)
    threading.Timer(0.1, lambda: os.kill(os.getpid(), 2)).start()
    work.wait(asked.set, {})
    assert asked.is_set()


def test_what_was_there_before_is_not_killed() -> None:
    """E.g. the process of a tracker, or one of a program that calls `run_sweep`."""
    code = (
        "import subprocess; print(subprocess.Popen(['sleep', '60']).pid, flush=True);"
        " input()"
    )
    with subprocess.Popen(["sleep", "60"]) as earlier:
        before = descendants()
        service = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            assert service.stdout is not None
            worker = psutil.Process(int(service.stdout.readline()))
            started = descendants() - before
            assert {each.pid for each in started} == {service.pid, worker.pid}
            kill_with_descendants([each for each in started if each.pid == service.pid])
            assert service.wait(10) == -9
            assert psutil.wait_procs([worker], timeout=10)[1] == []
            kill_with_descendants(started)
            assert earlier.poll() is None
        finally:
            earlier.kill()
            service.kill()
            service.communicate()


CHILD = """\
import os, signal
from orca_ray.data.cache import scratch_directory
with scratch_directory() as path:
    print(path, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_only_directories_of_dead_processes_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    done = subprocess.run(
        [sys.executable, "-c", CHILD], capture_output=True, text=True, check=False
    )
    left = Path(done.stdout.strip())
    assert left.parent == tmp_path
    assert left.is_dir()
    others = [
        f"orca-ray-{platform.node()}-a-1-2.00-x",
        "orca-ray-other",
    ]  # a machine whose name begins as ours does
    for name in others:
        (tmp_path / name).mkdir()
    with scratch_directory() as own:
        remove_abandoned()
        assert not left.exists()
        assert own.is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)
