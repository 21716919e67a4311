"""Heartbeats, time limits of trials, and checks of Ray's services."""

import contextlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any

from orca_ray.errors import ClusterLostError
from orca_ray.process import progress_count
from orca_ray.sweep.executors import ray_private
from orca_ray.sweep.messages.settings import TimeLimits


class HeartbeatThread:
    """Thread that writes heartbeats of a worker's current trial.

    A heartbeat is the id of the node and the progress count.
    """

    def __init__(self, seconds: float, node: str) -> None:
        """Start the thread.

        It writes at most every ``seconds`` seconds. ``node`` is the id of this node.
        """
        self._seconds = seconds
        self._node = node
        self._name = ""
        self._written = -1
        threading.Thread(target=self._run, name="heartbeat", daemon=True).start()

    def follow(self, name: str) -> None:
        """Write heartbeats of the trial ``name`` from now on, the first at once."""
        self._name = name
        self._write()

    def _run(self) -> None:
        while True:
            time.sleep(self._seconds)
            if self._name and progress_count() != self._written:
                self._write()

    def _write(self) -> None:
        """Store the heartbeat: the id of this node, and the progress count."""
        self._written = progress_count()
        with contextlib.suppress(
            Exception
        ):  # Ray raises several types when the cluster is lost
            ray_private.key_value_store(
                "put", self._name, f"{self._node} {self._written}".encode()
            )


def read_heartbeat(name: str) -> tuple[str, int]:
    """Return the node id and the progress count in the heartbeat of the trial ``name``.

    Returns ("", -1) if the heartbeat is missing or cannot be read.
    """
    with contextlib.suppress(Exception):
        heartbeat = ray_private.key_value_store("get", name) or b""
        node, _, count = heartbeat.decode().partition(" ")
        return node, int(count)
    return "", -1


@dataclass
class _Watch:
    """State of a watched trial."""

    alive: float
    """Time at which the last sign of life was seen."""
    read_at: float
    """Time at which the heartbeat was last read."""
    count: int = -1
    """Progress count in the last heartbeat that was read."""
    began: float | None = None
    """Time of the first report; None: no report yet, the worker may stage data."""


class Deadlines:
    """Watcher of running trials, which finds the trials that exceed `TimeLimits`."""

    def __init__(
        self,
        limits: TimeLimits,
        *,
        read: Callable[[str], tuple[str, int]] = read_heartbeat,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits
        self._read = read
        self._clock = clock
        self._watches: dict[str, _Watch] = {}

    def watch(self, name: str) -> None:
        """Watch the trial ``name``, unless it is watched already.

        The trial starts or is about to start.
        """
        now = self._clock()
        self._watches.setdefault(name, _Watch(now, now))

    def reported(self, name: str) -> None:
        """Restart the heartbeat limit of the trial ``name``, which has sent a report.

        The first report starts the trial's time limit.
        """
        watch = self._watches.get(name)
        if watch is not None:
            watch.alive = self._clock()
            watch.began = watch.alive if watch.began is None else watch.began

    def ended(self, name: str) -> None:
        """Stop watching the trial ``name``."""
        self._watches.pop(name, None)

    def exceeded(self) -> Mapping[str, str]:
        """Return a sentence for each trial that has exceeded a limit, by its name."""
        now = self._clock()
        reasons = {}
        for name, watch in self._watches.items():
            if (
                self._limits.trial is not None
                and watch.began is not None
                and now - watch.began > self._limits.trial
            ):
                reasons[name] = (
                    "the trial took longer than its limit of"
                    f" {self._limits.trial / 60:g} min"
                )
            elif self._is_silent(name, watch, now):
                reasons[name] = (
                    f"no progress for {self._limits.heartbeat / 60:g} min: the"
                    " worker hangs"
                )
        return reasons

    def _is_silent(self, name: str, watch: _Watch, now: float) -> bool:
        """Return whether a trial has made no progress for the limit of heartbeats.

        Its heartbeat is read at most four times in this period, and not while reports
        show that the worker lives.
        """
        quarter = self._limits.heartbeat / 4
        if now - watch.alive > quarter and now - watch.read_at > quarter:
            watch.read_at = now
            _, count = self._read(name)
            if count != watch.count:
                watch.count = count
                watch.alive = now
        return now - watch.alive > self._limits.heartbeat


CHECK_SECONDS = 2.0
MISSES = 3
"""Number of failed checks in a row after which a service counts as lost.

Thus, a service may fail to answer for a short time.
"""


def _answers(address: tuple[str, int], seconds: float) -> bool:
    """Return whether a service accepts a connection within ``seconds``, at least 1."""
    try:
        socket.create_connection(address, timeout=max(seconds, 1.0)).close()
    except OSError:
        return False
    return True


def lost_service(
    services: Mapping[str, tuple[str, int]], error: Exception
) -> Exception:
    """Return ClusterLostError if a service does not answer now, else ``error``.

    ``services`` has the host and the port of each service, by name.
    """
    if isinstance(error, ClusterLostError):
        return error
    return next(
        (
            _lost(name, address)
            for name, address in services.items()
            if not _answers(address, 1.0)
        ),
        error,
    )


def _lost(name: str, address: tuple[str, int]) -> ClusterLostError:
    return ClusterLostError(
        f"the {name} at {address[0]}:{address[1]} does not answer any more"
    )


def services() -> dict[str, tuple[str, int]]:
    """Return the host and the port of the Ray services that this process needs.

    They are given by the name of the service. The process must be connected to a
    cluster.
    """
    import ray

    context: Any = ray.get_runtime_context()
    host, _, port = context.gcs_address.rpartition(":")
    here = next(node for node in ray.nodes() if node["NodeID"] == context.get_node_id())
    return {
        "head of the Ray cluster (GCS)": (host.strip("[]"), int(port)),
        "local Ray node (raylet)": (
            here["NodeManagerAddress"],
            int(here["NodeManagerPort"]),
        ),
    }


class Background:
    """Daemon thread that runs a function.

    The function's exception is raised in the thread that waits for its end.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        """Store the function; :meth:`wait` starts it."""
        self._work = work
        self._result = Future[None]()

    def wait(
        self,
        interrupt: Callable[[], None],
        services: Mapping[str, tuple[str, int]],
        seconds: float = CHECK_SECONDS,
    ) -> None:
        """Run the function in a thread, and wait for its end.

        An exception of the function is raised here.

        The first Ctrl-C calls ``interrupt``, which should make the function end. The
        second one raises KeyboardInterrupt. Every ``seconds`` seconds, all ``services``
        must accept a connection. If one fails `MISSES` times in a row,
        ClusterLostError is raised, although the function may never return.
        """
        threading.Thread(target=self._run, name="work", daemon=True).start()
        interrupted = False
        misses = Counter[str]()
        while not self._result.done():
            try:
                if not wait(
                    [self._result], seconds
                ).done:  # with a timeout, so that Python handles signals
                    for name, address in services.items():
                        misses[name] = (
                            0 if _answers(address, seconds) else misses[name] + 1
                        )
                        if misses[name] >= MISSES:
                            raise _lost(name, address)
            except KeyboardInterrupt:
                if interrupted:
                    raise
                interrupted = True
                interrupt()
        self._result.result()

    def ends(self, seconds: float) -> bool:
        """Wait at most ``seconds`` for the function's end; return whether it ended."""
        return bool(wait([self._result], seconds).done)

    def _run(self) -> None:
        """Call the function, and store its end or its exception for `wait`."""
        try:
            self._work()
            self._result.set_result(None)
        except BaseException as error:
            self._result.set_exception(error)
