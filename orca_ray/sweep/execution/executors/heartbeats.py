"""Heartbeats of workers in the cluster's key-value store: on which node a trial runs, and whether it makes progress.

A worker that computes writes its count of `orca_ray.heartbeat.beats`, at most every few seconds, under the trial's key.
One that hangs or is stopped writes nothing new. An epoch may take hours, so reports alone do not show a hang.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from orca_ray.heartbeat import beats

_NAMESPACE = b"orca-ray-heartbeats"


def _store() -> tuple[Callable[..., bool], Callable[..., bytes | None], Callable[..., int]]:
    from ray.experimental import internal_kv

    return internal_kv._internal_kv_put, internal_kv._internal_kv_get, internal_kv._internal_kv_del


class Heart:
    """Thread of a worker that writes the heartbeats of its current trial."""

    def __init__(self, seconds: float, node: str) -> None:
        """Start the thread; it writes every ``seconds`` seconds, on the node with the id ``node``."""
        self._seconds, self._node = seconds, node
        self._name, self._written = "", -1
        threading.Thread(target=self._run, name="heartbeat", daemon=True).start()

    def follow(self, name: str) -> None:
        """Write heartbeats under ``name`` from now on, the first at once."""
        self._name = name
        self._write()

    def _run(self) -> None:
        while True:
            time.sleep(self._seconds)
            if self._name and beats() != self._written:
                self._write()

    def _write(self) -> None:
        put, _, _ = _store()
        self._written = beats()
        with contextlib.suppress(Exception):  # Ray raises several types when the cluster is lost
            put(self._name.encode(), f"{self._node} {self._written}".encode(), namespace=_NAMESPACE)


def read_heartbeat(name: str) -> tuple[str, int]:
    """Return the node's id and the last count under ``name``; ("", -1) if there is none."""
    _, get, _ = _store()
    with contextlib.suppress(Exception):
        node, _, count = (get(name.encode(), namespace=_NAMESPACE) or b"").decode().partition(" ")
        return node, int(count)
    return "", -1


def delete_heartbeat(name: str) -> None:
    """Delete what is stored under ``name``."""
    _, _, delete = _store()
    with contextlib.suppress(Exception):
        delete(name.encode(), namespace=_NAMESPACE)


@dataclass(frozen=True)
class TimeLimits:
    """How long a trial may take, in seconds."""

    trial: float | None = None
    """Limit of one attempt at a trial, from its worker's first report on (see `TrialRunner.stage`); None: no limit."""
    heartbeat: float = 1800.0
    """Limit of the time without an epoch or any other progress, after which a trial counts as hung."""

    @property
    def heartbeat_interval(self) -> float:
        """Minimum time between two heartbeats of a worker."""
        return min(self.heartbeat / 8, 30.0)


@dataclass
class _Watch:
    alive: float
    read_at: float
    count: int = -1
    began: float | None = None
    """Time of the first report; before it, the worker may stage data."""


class Deadlines:
    """Finds running trials that exceed their `TimeLimits`."""

    def __init__(
        self,
        limits: TimeLimits,
        *,
        read: Callable[[str], tuple[str, int]] = read_heartbeat,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits, self._read, self._clock = limits, read, clock
        self._watches: dict[str, _Watch] = {}

    def started(self, name: str) -> None:
        """Watch the trial ``name``, which has just started."""
        now = self._clock()
        self._watches[name] = _Watch(now, now)

    def watch(self, name: str) -> None:
        """Watch the trial ``name``, which is about to start, unless it is watched."""
        if name not in self._watches:
            self.started(name)

    def reported(self, name: str) -> None:
        """Note that the trial ``name`` has reported that its data are staged, or an epoch."""
        if (watch := self._watches.get(name)) is not None:
            watch.alive = self._clock()
            watch.began = watch.alive if watch.began is None else watch.began

    def ended(self, name: str) -> None:
        """Watch the trial ``name`` no longer."""
        self._watches.pop(name, None)

    def exceeded(self) -> Mapping[str, str]:
        """Return the reason for each trial that has exceeded a limit, by name."""
        now, found = self._clock(), {}
        for name, watch in self._watches.items():
            if self._limits.trial is not None and watch.began is not None and now - watch.began > self._limits.trial:
                found[name] = f"the trial took longer than its limit of {self._limits.trial / 60:g} minutes"
            elif self._is_silent(name, watch, now):
                found[name] = f"no progress for {self._limits.heartbeat / 60:g} minutes: the worker hangs"
        return found

    def _is_silent(self, name: str, watch: _Watch, now: float) -> bool:
        quarter = self._limits.heartbeat / 4
        if now - watch.alive > quarter and now - watch.read_at > quarter:
            watch.read_at = now
            _, count = self._read(name)
            if count != watch.count:
                watch.count, watch.alive = count, now
        return now - watch.alive > self._limits.heartbeat
