"""Requests to a running sweep, and the live state that its driver publishes."""

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, replace

from orca_ray.results import live
from orca_ray.results.lease import Lease
from orca_ray.results.live import Limits, LiveState, Request
from orca_ray.sweep.run.events import Listener, Message, TimeLeft

_TICK_SECONDS = 1.0
"""Seconds between two times at which requests are applied and the state published."""
_RATE_SECONDS = 600.0
"""Seconds before now in which ended trials count for the number of trials a minute."""


class Control:
    """Applies requests to a sweep and publishes the live state."""

    def __init__(
        self,
        lease: Lease | None,
        emit: Listener,
        *,
        state: Callable[[], LiveState],
        retry: Callable[[str], int],
        runs: Callable[[str], bool],
        limits: Limits | None = None,
    ) -> None:
        """Store the arguments.

        Args:
            lease: exclusive right to run the sweep, through which requests arrive and
                the state is published, or None.
            emit: called with every event.
            state: returns the live state, without the fields that this class sets.
            retry: runs failed trials again ("": all) and returns how many there are.
            runs: returns whether the trial with a key runs, or waits for its next
                attempt.
            limits: limits of what runs at once; None: there are none.
        """
        self.limits = limits or Limits()
        """Limits of what runs at once, which requests change."""
        self.stopping = False
        """Whether the sweep must end as after Ctrl-C."""
        self.paused = False
        """Whether no more trials may start."""
        self.cancelled: set[str] = set()
        """Keys of trials that must end at their next report."""
        self.deadline = math.inf
        """Time of `time.monotonic` at which the sweep must end as after Ctrl-C."""
        self.time_over = False
        """Whether the sweep ends because of its deadline."""
        self.retries = list(lease.open_retries) if lease else []
        """Requests to run failed trials again, which stay in the store.

        Not all trials of these requests have ended.
        """
        self._lease = lease
        self._emit = emit
        self._live_state = state
        self._retry_trials = retry
        self._runs = runs
        self._next_tick = 0.0
        self._ended: deque[float] = deque()
        self._apply: dict[str, Callable[[Request], None]] = {
            live.STOP: lambda _: self._stop("stopped by request"),
            live.PAUSE: lambda _: self._pause(True),
            live.RESUME: lambda _: self._pause(False),
            live.CANCEL: lambda request: self._cancel(request.trial),
            live.LIMIT: lambda request: self._limit(request.limits),
            live.RETRY: lambda request: self._retry(request.trial),
        }

    def tick(self) -> bool:
        """Apply new requests and publish the live state, at most once a second.

        Return whether that was done. Raises UserError if another driver has taken over
        the sweep.
        """
        now = time.monotonic()
        if now < self._next_tick:
            return False
        self._next_tick = now + _TICK_SECONDS
        self.stop_if_time_is_over()
        if self._lease is not None:
            self._lease.check()
            for request in self._lease.requests():
                if request.kind == live.RETRY:
                    self.retries.append(request)
                self._apply[request.kind](request)
        state = self._state(now)
        if state.seconds_left is not None:
            self._emit(TimeLeft(state.seconds_left))
        if self._lease is not None:
            self._lease.publish(state)
        return True

    def stop_if_time_is_over(self) -> None:
        """Make the sweep end as after Ctrl-C if its deadline has passed."""
        if time.monotonic() > self.deadline and not self.stopping:
            self.time_over = True
            self._stop("the time is over")

    def forget_retries(self) -> None:
        """Delete the requests in `retries` from the store.

        Call it when the trials of these requests have ended.
        """
        if self._lease is not None:
            self._lease.mark_carried_out(self.retries)
        self.retries.clear()

    def trial_ended(self) -> None:
        """Count an ended trial, for the number of trials a minute in the live state."""
        self._ended.append(time.monotonic())

    def _say(self, text: str) -> None:
        self._emit(Message(text))

    def _stop(self, reason: str) -> None:
        self.stopping = True
        self._say(
            f"{reason}: running trials save a checkpoint; the same command continues"
        )

    def _pause(self, paused: bool) -> None:
        self.paused = paused
        self._say(
            "paused by request: no trial starts" if paused else "resumed by request"
        )

    def _limit(self, limits: Limits) -> None:
        """Change the limits that ``limits`` has."""
        self.limits = self.limits.changed_by(limits)
        changes = [
            f"{name.replace('_', '-')} {value:g}"
            for name, value in asdict(limits).items()
            if value is not None
        ]
        self._say(f"limits changed by request: {', '.join(changes)}")

    def _cancel(self, trial: str) -> None:
        """Cancel the trial with the key ``trial``, if it runs."""
        if self._runs(trial):
            self.cancelled.add(trial)
            self._say(f"trial {trial} will be cancelled after its epoch")
        else:
            self._say(f"trial {trial} does not run and cannot be cancelled")

    def _retry(self, trial: str) -> None:
        """Run the failed trial with the key ``trial`` again; "": all failed trials."""
        num_retried = self._retry_trials(trial)
        trials = "trial" if num_retried == 1 else "trials"
        self._say(f"{num_retried} failed {trials} will run again by request")

    def _state(self, now: float) -> LiveState:
        """Return the live state, with the rate of the last `_RATE_SECONDS`."""
        while self._ended and self._ended[0] < now - _RATE_SECONDS:
            self._ended.popleft()
        rate = None
        if len(self._ended) > 1 and now > self._ended[0]:
            rate = 60 * (len(self._ended) - 1) / (now - self._ended[0])
        return replace(
            self._live_state(),
            trials_per_minute=rate,
            paused=self.paused,
            stopping=self.stopping,
            limits=self.limits,
        )
