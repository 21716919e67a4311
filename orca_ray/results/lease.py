"""The lease of a sweep: at most one driver runs a sweep of a store, and a second driver
learns which one does.

The lease has a number, which grows with each driver. It belongs to the driver that
created the sweep's live state of this number (`Folder.write_new`);
docs/decisions/0028-fencing.md says what follows from that.
"""

import contextlib
import logging
import os
import platform
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from orca_ray.errors import UserError
from orca_ray.process import seconds_since_boot
from orca_ray.results import live
from orca_ray.results.folder import Folder
from orca_ray.results.live import Holder, LiveState, Request
from orca_ray.results.store import ResultsStore

logger = logging.getLogger(__name__)

RENEW_SECONDS = 3.0
"""Seconds between two times at which the live state is rewritten and requests are read.
"""
EXPIRY_SECONDS = 30.0
"""Seconds without a new sequence number after which a driver counts as dead."""


class Lease:
    """Context manager that holds the lease of a sweep in its block, i.e. the exclusive
    right to run the sweep.

    A thread rewrites the live state and reads requests. The driver's thread calls
    `publish`, `requests` and `check`.

    Entering the block raises UserError if another driver runs the sweep. After the
    death of the previous holder, entering waits up to ``expiry_seconds``, but not at
    all if the dead process ran on this machine. In the block, ``store`` appends rows
    under the lease number.
    """

    def __init__(
        self,
        store: ResultsStore,
        sweep: str,
        *,
        renew_seconds: float = RENEW_SECONDS,
        expiry_seconds: float = EXPIRY_SECONDS,
    ) -> None:
        self.retried: tuple[Request, ...] = ()
        """Requests of kind ``retry`` that earlier drivers left; set when the block is
        entered.
        """
        self._store = store
        self._folder = store.folder
        self._sweep = sweep
        self._renew_seconds = renew_seconds
        self._expiry_seconds = expiry_seconds
        self._holder = this_process()
        self._state = LiveState(sweep=sweep)
        self.number = 0
        """The lease number; 0 before the block is entered."""
        self._sequence = 0
        self._renewed = seconds_since_boot()
        self._lost = ""
        self._requests: deque[Request] = deque()
        self._retries: set[str] = (
            set()
        )  # paths of retries that were read, and not carried out
        self._carried_out: deque[str] = deque()
        self._ended = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name="orca-ray lease", daemon=True
        )

    def __enter__(self) -> Self:
        taken = False
        while (
            not taken
        ):  # False: another driver took it at the same time, and is found alive next
            number, before = self._last()
            # This process becomes the holder; what was known about the sweep stays.
            self._state = replace(
                before or self._state,
                running=(),
                num_running=0,
                paused=False,
                stopping=False,
            )
            self.number = number + 1
            self._sequence = self._state.sequence
            taken = self._folder.write_new(
                live.path_of(self._sweep, self.number), self._next()
            )
        self._store.append_as(self._sweep, self.number)
        # Requests other than "retry" were meant for an earlier driver, which ended
        # before it read them.
        self.retried = tuple(
            request for request in self._take() if request.kind == live.RETRY
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._store.append_as(self._sweep, 0)
        if not self._lost:
            with contextlib.suppress(
                UserError
            ):  # the store is gone or full: the lease expires by itself
                self._other_holder()
                if not self._lost:
                    self._delete_carried_out()
                    self._state = replace(
                        self._state, running=(), num_running=0, seconds_left=None
                    )
                    self._rewrite(left=True)

    def publish(self, state: LiveState) -> None:
        """Set the live state to be stored next; the lease fills in holder, sequence
        number and time.
        """
        self._state = state

    def requests(self) -> list[Request]:
        """Return the requests that arrived since the last call."""
        return [self._requests.popleft() for _ in range(len(self._requests))]

    def carried_out(self, retries: Iterable[Request]) -> None:
        """Mark requests of kind ``retry`` as done; the thread then deletes their files
        from the store.
        """
        self._carried_out.extend(request.path for request in retries)

    def check(self) -> None:
        """Raise UserError if another driver has taken over the sweep.

        Call it before records are written. If the process was suspended, it first reads
        the holder from the store.
        """
        if (
            not self._lost
            and seconds_since_boot() - self._renewed > self._expiry_seconds / 2
        ):
            self._other_holder()
        if self._lost:
            raise UserError(self._lost)

    def _last(self) -> tuple[int, LiveState | None]:
        """Return the lease number and live state of the last driver, when it lives no
        more; 0 if there was none.

        Raises UserError if the driver lives.
        """
        number, content = self._read()
        deadline = seconds_since_boot() + self._expiry_seconds
        while content is not None and (
            (state := live.decode(content)) is None or state.holder is not None
        ):
            if (
                state is not None
                and state.holder is not None
                and ended_here(state.holder)
            ):
                logger.info(
                    "%s: the driver before this one has ended (%s)",
                    self._sweep,
                    state.holder,
                )
                break
            if seconds_since_boot() >= deadline:
                logger.info(
                    "%s: no sign of life of %s", self._sweep, state and state.holder
                )
                break
            time.sleep(min(0.5, self._renew_seconds))
            last = content
            number, content = self._read()
            found = live.decode(content) if content is not None else None
            if content != last and found is not None and found.holder is not None:
                raise UserError(
                    f"another driver runs {self._sweep} in this store ({found.holder})."
                    f" Watch it with 'orca-sweep status {self._sweep}', end it with"
                    f" 'orca-sweep stop {self._sweep}' before starting this one, or"
                    " give another store with --results."
                )
        return number, live.decode(content) if content is not None else None

    def _read(self) -> tuple[int, Any | None]:
        """Return the highest lease number, and the content of the live state with it;
        None if there is no such file.
        """
        number = live.highest_numbers(self._folder.names(live.DIRECTORY)).get(
            live.file_name(self._sweep), 0
        )
        try:
            return number, self._folder.read(live.path_of(self._sweep, number))
        except FileNotFoundError:
            return number, None

    def _rewrite(self, *, left: bool = False) -> None:
        self._folder.write(
            live.path_of(self._sweep, self.number), self._next(left=left)
        )

    def _next(self, *, left: bool = False) -> Any:
        self._sequence += 1
        holder = None if left else self._holder
        return replace(
            self._state, holder=holder, sequence=self._sequence, renewed_at=_now()
        ).encode()

    def _run(self) -> None:
        """Rewrite the live state until the block ends or another driver has the lease;
        errors are only logged.
        """
        while not self._ended.wait(self._renew_seconds) and not self._lost:
            try:
                self._other_holder()
                if not self._lost:
                    self._rewrite()
                    self._renewed = seconds_since_boot()
                    self._delete_carried_out()
                    self._requests.extend(self._take())
            except Exception as error:  # the thread must not die: the lease would expire while the sweep runs
                logger.warning(
                    "%s: the live state cannot be renewed: %s", self._sweep, error
                )

    def _take(self) -> list[Request]:
        taken = live.take_requests(self._folder, self._sweep, self._retries)
        self._retries |= {
            request.path for request in taken if request.kind == live.RETRY
        }
        return taken

    def _delete_carried_out(self) -> None:
        while self._carried_out:
            path = self._carried_out.popleft()
            self._folder.delete(path)
            self._retries.discard(path)

    def _other_holder(self) -> None:
        """If another driver has taken the next lease number, set the message about it."""
        try:
            state = live.decode(
                self._folder.read(live.path_of(self._sweep, self.number + 1))
            )
        except FileNotFoundError:
            return
        other = (
            str(state.holder)
            if state is not None and state.holder is not None
            else "another driver"
        )
        self._lost = (
            f"this driver of {self._sweep} gave no sign of life for"
            f" {self._expiry_seconds:g} s (was the machine suspended, or the store"
            f" unreachable?), and {other} has taken over: this one ends. Finished"
            " trials are stored. Watch the other one with 'orca-sweep status"
            f" {self._sweep}'."
        )


def driver_lives(
    folder: Folder,
    state: LiveState,
    emit: Callable[[str], None] = logger.info,
    *,
    expiry_seconds: float = EXPIRY_SECONDS,
) -> bool:
    """Return whether the driver that ``state`` names as the holder of the lease is
    alive; False if it names none.

    If the driver ran on another machine, this takes up to ``expiry_seconds``; ``emit``
    is called if the wait is long.
    """
    if state.holder is None:
        return False
    if state.holder.machine and state.holder.machine == machine():
        return not ended_here(state.holder)
    begin = seconds_since_boot()
    announced = False
    while (waited := seconds_since_boot() - begin) < expiry_seconds:
        if waited > expiry_seconds / 4 and not announced:
            announced = True
            emit(
                f"no sign of life of {state.holder} for {waited:.0f} s; after"
                f" {expiry_seconds:g} s it counts as dead"
            )
        time.sleep(min(0.5, expiry_seconds / 20))
        later = live.read(folder, state.sweep)
        if later is None or later.sequence != state.sequence:
            return later is not None and later.holder is not None
    return False


def this_process() -> Holder:
    """Return a `Holder` for this process, with a new random id."""
    return Holder(
        id=uuid.uuid4().hex,
        host=platform.node(),
        pid=os.getpid(),
        created=_created(os.getpid()) or 0.0,
        machine=machine(),
        started_at=_now(),
    )


def ended_here(holder: Holder) -> bool:
    """Return whether the holder ran on this machine and has ended; False if it may be
    alive, here or elsewhere.
    """
    if not holder.machine or holder.machine != machine():
        return False
    created = _created(holder.pid)
    if created is not None:
        return abs(created - holder.created) > 1
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # another user's process, which this system may hide
        return False
    return True  # a process that has ended, and whose parent has not taken note of it


def machine() -> str:
    """Return an identifier of this boot of the machine and of the process namespace; ""
    if the system has none.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _created(pid: int) -> float | None:
    """Return the creation time of a process, in seconds after the boot; None if there
    is none, or a dead one.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _now() -> str:
    return datetime.now(UTC).isoformat()
