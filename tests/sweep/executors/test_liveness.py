"""Deadlines, heartbeats, the watchdog, work in a thread, and causes from Ray's exceptions."""

import os
import socket
import threading
import time

import pytest

from orca_ray.errors import ClusterLostError
from orca_ray.sweep.executors.liveness import Background, Deadlines, TimeLimits, Watchdog, lost_service


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
    lost, noticed = list[ClusterLostError](), threading.Event()

    def on_lost(error: ClusterLostError) -> None:
        lost.append(error)
        noticed.set()

    with Watchdog({"head": address}, on_lost, seconds=0.02):
        assert not noticed.wait(0.3)
        server.close()
        assert noticed.wait(5)
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
