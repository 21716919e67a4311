"""Deadlines and heartbeats of workers, and what killed workers leave."""

import os
import platform
import signal
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


class WatchedTrial:
    """A trial under deadlines, with a clock and a heartbeat that a test sets."""

    def __init__(self, limits: TimeLimits) -> None:
        self.now = 0.0
        self.num_beats = 0
        self.deadlines = Deadlines(
            limits,
            read=lambda name: ("node", self.num_beats),
            clock=lambda: self.now,
        )
        self.deadlines.watch("t")

    def advance(self, seconds: int, *, beats: bool = False) -> list[str]:
        """Let seconds pass, with or without beats, until the trial exceeds a limit.

        Return the reasons.
        """
        for _ in range(seconds):
            self.now += 1
            if beats:
                self.num_beats += 1
            reasons = list(self.deadlines.exceeded().values())
            if reasons:
                return reasons
        return []


def test_a_worker_without_progress_hangs() -> None:
    trial = WatchedTrial(TimeLimits(heartbeat=60.0))
    assert trial.advance(600, beats=True) == [], "an epoch may take long"
    [reason] = trial.advance(100)
    assert "the worker hangs" in reason
    trial.deadlines.reported("t")
    assert trial.advance(50) == []
    trial.deadlines.ended("t")
    assert trial.advance(600) == []


def test_a_trial_has_a_deadline_from_its_first_report_on() -> None:
    trial = WatchedTrial(TimeLimits(trial=120.0))
    assert trial.advance(3600, beats=True) == [], "its node stages the data"
    trial.deadlines.reported("t")
    assert trial.advance(60, beats=True) == []
    trial.deadlines.reported("t")
    assert trial.advance(60, beats=True) == []
    [reason] = trial.advance(1, beats=True)
    assert "limit of 2 min" in reason


def test_the_error_of_work_in_the_background_is_raised() -> None:
    results: list[int] = []
    Background(lambda: results.append(1)).wait(pytest.fail, {})
    assert results == [1]

    def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        Background(fail).wait(pytest.fail, {})


def test_work_in_the_background_is_abandoned_when_a_service_is_gone() -> None:
    server = socket.create_server(("127.0.0.1", 0))
    host, port = server.getsockname()
    services = {"head": (host, port)}
    stuck = Background(lambda: time.sleep(60))
    threading.Timer(0.5, server.close).start()
    message = f"^the head at 127.0.0.1:{port} does not answer any more$"
    with pytest.raises(ClusterLostError, match=message):
        stuck.wait(pytest.fail, services, seconds=0.02)
    assert server.fileno() == -1, "while the server answered, the work was waited for"
    assert not stuck.ends(0.0)
    with pytest.raises(ClusterLostError, match=message):
        raise lost_service(services, OSError("x"))


def test_the_first_ctrl_c_is_passed_on() -> None:
    interrupted = threading.Event()

    def wait_for_interruption() -> None:
        interrupted.wait(10)

    work = Background(wait_for_interruption)
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    work.wait(interrupted.set, {})
    assert interrupted.is_set()


START_SLEEP = """\
import subprocess
print(subprocess.Popen(["sleep", "60"]).pid, flush=True)
input()
"""


def test_only_processes_that_were_started_later_are_killed() -> None:
    """A process of before is, for example, that of a tracker."""
    with subprocess.Popen(["sleep", "60"]) as earlier:
        before = descendants()
        service = subprocess.Popen(
            [sys.executable, "-c", START_SLEEP],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            assert service.stdout is not None
            worker = psutil.Process(int(service.stdout.readline()))
            started = descendants() - before
            assert {process.pid for process in started} == {service.pid, worker.pid}
            kill_with_descendants([psutil.Process(service.pid)])
            assert service.wait(10) == -signal.SIGKILL
            _, alive = psutil.wait_procs([worker], timeout=10)
            assert alive == []
            kill_with_descendants(started)
            assert earlier.poll() is None
        finally:
            earlier.kill()
            service.kill()
            service.communicate()


LEAVE_DIRECTORY = """\
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
    killed = subprocess.run(
        [sys.executable, "-c", LEAVE_DIRECTORY],
        capture_output=True,
        text=True,
        check=False,
    )
    abandoned = Path(killed.stdout.strip())
    assert abandoned.parent == tmp_path
    assert abandoned.is_dir()
    of_machine_with_longer_name = tmp_path / f"orca-ray-{platform.node()}-a-1-2.00-x"
    of_another_program = tmp_path / "orca-ray-other"
    of_machine_with_longer_name.mkdir()
    of_another_program.mkdir()
    with scratch_directory() as own:
        remove_abandoned()
        assert not abandoned.exists()
        assert own.is_dir()
    assert set(tmp_path.iterdir()) == {of_machine_with_longer_name, of_another_program}
