"""Virtual time: clocks that jump from one event to the next, for the driver and for the
thread of its lease.
"""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, tzinfo
from types import SimpleNamespace
from unittest import mock

from orca_ray.results import lease as lease_module
from orca_ray.sweep.run import recorder, trial_state

EPOCH = 1e9
"""Date of the virtual time 0, in seconds since 1970."""


class VirtualTime:
    """A clock, and the threads that sleep by it; `advance` wakes them one after another
    at their times.
    """

    def __init__(self) -> None:
        self.now = 0.0
        """Virtual time in seconds."""
        self.sleepers: list[VirtualEvent] = []

    def __call__(self) -> float:
        return self.now

    def advance(self, to: float) -> None:
        """Set the clock, after all threads have done what they do until then."""
        while due := [each for each in self.sleepers if each.wakes_at() <= to]:
            first = min(due, key=lambda each: each.wakes_at())
            self.now = max(self.now, first.wakes_at())
            first.wake()
        self.now = max(self.now, to)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Context manager: controller, records, writer and lease use this clock; the
        disk takes no time.
        """
        clock = self

        class VirtualDate(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = UTC) -> datetime:  # type: ignore[override]
                return datetime.fromtimestamp(EPOCH + clock.now, tz)

        threads = SimpleNamespace(
            Thread=threading.Thread,
            Event=lambda: VirtualEvent(clock),
            Lock=threading.Lock,
        )
        with ExitStack() as stack:
            for patch in (
                mock.patch("time.monotonic", clock),
                # Real time of a disk would only slow the simulation down.
                mock.patch("os.fsync"),
                mock.patch.object(lease_module, "threading", threads),
                mock.patch.object(lease_module, "seconds_since_boot", clock),
                mock.patch.object(trial_state, "datetime", VirtualDate),
                mock.patch.object(recorder, "datetime", VirtualDate),
            ):
                stack.enter_context(patch)
            yield


class VirtualEvent:
    """Stands in for `threading.Event` in a thread that works every few seconds: its
    waits end in virtual time.
    """

    def __init__(self, clock: VirtualTime) -> None:
        self._clock = clock
        self._set = False
        self._changed = threading.Condition()
        self._wakes_at: float | None = None
        clock.sleepers.append(self)

    def wait(self, seconds: float) -> bool:
        """Sleep for ``seconds`` of virtual time or until `set`; return whether it was
        set.
        """
        with self._changed:
            self._wakes_at = self._clock.now + seconds
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._set or self._wakes_at is None)
            return self._set

    def set(self) -> None:
        """End the waits for good."""
        with self._changed:
            self._set = True
            self._clock.sleepers.remove(self)
            self._changed.notify_all()

    def is_set(self) -> bool:
        """Return whether `set` was called."""
        return self._set

    def wakes_at(self) -> float:
        """Return when the thread wakes; first wait until it sleeps."""
        with self._changed:
            if not self._changed.wait_for(
                lambda: self._wakes_at is not None, timeout=60.0
            ):
                raise RuntimeError(
                    "a thread of the driver has not come back to its sleep for a minute"
                    " of real time"
                )
            assert self._wakes_at is not None
            return self._wakes_at

    def wake(self) -> None:
        """Let the thread do its work once, until it sleeps again."""
        with self._changed:
            self._wakes_at = None
            self._changed.notify_all()
        self.wakes_at()
