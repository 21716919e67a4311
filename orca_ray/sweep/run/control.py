"""Requests to a running sweep, and the live state that its driver publishes."""

import math
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from orca_ray.results import live as requests
from orca_ray.results.lease import Lease
from orca_ray.results.live import MAX_RUNNING, LiveState
from orca_ray.sweep.run.events import Listener, Message, TimeLeft

if TYPE_CHECKING:
    from orca_ray.sweep.run.controller import SweepController

_TICK_SECONDS = 1.0
_RATE_SECONDS = 600.0
"""Trials that ended within this time count for the rate."""


class Control:
    """Applies requests to a sweep and publishes its live state, in the driver's thread.

    Without a lease there are no requests, and no state is published.
    """

    def __init__(self, controller: "SweepController", lease: Lease | None, emit: Listener) -> None:
        self.stopping = False
        """Whether the sweep must end as after Ctrl-C."""
        self.paused = False
        """Whether no more trials may start."""
        self.cancelled: set[str] = set()
        """Keys of trials that must end at their next report."""
        self.deadline = math.inf
        """Time of `time.monotonic` at which the sweep must end as after Ctrl-C."""
        self.retries = list(lease.retried) if lease else []
        """Requests to run failed trials again that stay in the store, because some of these trials have not ended."""
        self._conductor, self._lease, self._emit = controller, lease, emit
        self._next_tick = 0.0
        self._ended: deque[float] = deque()
        self._apply: dict[str, Callable[[str], None]] = {
            requests.STOP: lambda _: self._stop("stopped by request"),
            requests.PAUSE: lambda _: self._pause(True),
            requests.RESUME: lambda _: self._pause(False),
            requests.CANCEL: self._cancel,
            requests.RETRY: self._retry,
        }

    def tick(self) -> bool:
        """Apply new requests and publish the state; does so once a second at most, and returns whether it did.

        Raises UserError if another driver has taken over the sweep.
        """
        now = time.monotonic()
        if now < self._next_tick:
            return False
        self._next_tick = now + _TICK_SECONDS
        if now > self.deadline and not self.stopping:
            self._stop("the time is over")
        if (seconds := self._conductor.seconds_left()) is not None:
            self._emit(TimeLeft(seconds))
        if self._lease is not None:
            self._lease.check()
            for request in self._lease.requests():
                self.retries += [request] if request.kind == requests.RETRY else []
                self._apply[request.kind](request.trial)
            self._lease.publish(self._state(now))
        return True

    def forget_retries(self) -> None:
        """Delete the `retries` from the store: their trials have ended."""
        if self._lease is not None:
            self._lease.carried_out(self.retries)
        self.retries.clear()

    def trial_ended(self) -> None:
        """Count a trial for the rate."""
        self._ended.append(time.monotonic())

    def _say(self, text: str) -> None:
        self._emit(Message(text))

    def _stop(self, reason: str) -> None:
        self.stopping = True
        self._say(f"{reason}: running trials save a checkpoint; the same command continues")

    def _pause(self, paused: bool) -> None:
        self.paused = paused
        self._say("paused by request: no trial starts" if paused else "resumed by request")

    def _cancel(self, trial: str) -> None:
        if self._conductor.in_progress(trial):
            self.cancelled.add(trial)
            self._say(f"trial {trial} will be cancelled after its epoch")
        else:
            self._say(f"trial {trial} does not run and cannot be cancelled")

    def _retry(self, trial: str) -> None:
        number = self._conductor.retry(trial)
        self._say(f"{number} failed trial{'s' * (number != 1)} will run again by request")

    def _state(self, now: float) -> LiveState:
        while self._ended and self._ended[0] < now - _RATE_SECONDS:
            self._ended.popleft()
        window = now - self._ended[0] if len(self._ended) > 1 else 0.0
        trials = self._conductor.live_trials()
        return LiveState(
            sweep=self._conductor.sweep,
            executor=self._conductor.executor,
            rows=self._conductor.searches.rows(),
            running=tuple(trials[:MAX_RUNNING]),
            num_running=sum(not trial.waiting for trial in trials),
            trials_per_minute=60 * (len(self._ended) - 1) / window if window else None,
            seconds_left=self._conductor.seconds_left(),
            quarantined=self._conductor.quarantined,
            paused=self.paused,
            stopping=self.stopping,
        )  # fmt: skip
