"""The lease of a sweep: at most one driver runs a sweep of a store.

A second driver gets an error that names the first. Each driver takes the next lease
number, by creating the live state of the sweep with this number (`Folder.write_new`
lets only one driver create it). docs/decisions/0028-fencing.md describes the
consequences.
"""

import contextlib
import getpass
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

from orca_ray.errors import LostLeaseError, NewerStoreError, UserError
from orca_ray.process import seconds_since_boot
from orca_ray.results import live
from orca_ray.results.folder import Folder
from orca_ray.results.live import Holder, LiveState, Request
from orca_ray.results.store import ResultsStore

logger = logging.getLogger(__name__)

RENEW_SECONDS = 3.0
"""Seconds between two rewrites of the live state; requests are read as often."""
EXPIRY_SECONDS = 30.0
"""Seconds without a new sequence number after which a driver counts as dead."""
_MAX_FAILURE_CHARACTERS = 500
"""Number of characters of an error message that a live state has.

On a full disk, the live state must not outgrow the blocks of the previous one.
"""


class Lease:
    """Context manager that holds the lease of a sweep: the exclusive right to run it.

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
        self.open_retries: tuple[Request, ...] = ()
        """Requests of kind ``retry`` that earlier drivers have not carried out."""
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
        """Message for the user, once the lease is lost.

        Another driver has taken it, or a newer orca-ray has marked the store.
        """
        self._requests: deque[Request] = deque()
        self._retries: set[str] = set()
        """Paths of requests of kind ``retry`` that were read but not yet deleted."""
        self._carried_out: deque[str] = deque()
        """Paths of requests of kind ``retry`` that are to be deleted."""
        self._ended = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name="orca-ray lease", daemon=True
        )

    def __enter__(self) -> Self:
        while not self._take_lease():
            # Another driver took this number at the same time; the next call waits.
            pass
        self._store.append_as(self._sweep, self.number)
        # Requests other than "retry" were meant for an earlier driver, which ended
        # before it read them.
        self.open_retries = tuple(
            request for request in self._take_requests() if request.kind == live.RETRY
        )
        self._thread.start()
        return self

    def __exit__(
        self, kind: object, error: BaseException | None, traceback: object
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._store.append_as(self._sweep, 0)
        # If the store is gone, the lease expires by itself.
        with contextlib.suppress(UserError, FileNotFoundError):
            if not self._is_lost():
                self._delete_carried_out()
                failure = ""
                if isinstance(error, UserError):
                    failure = str(error)[:_MAX_FAILURE_CHARACTERS]
                self._state = replace(
                    self._state,
                    running=(),
                    num_running=0,
                    seconds_left=None,
                    failure=failure,
                )
                self._write_end()

    def _write_end(self) -> None:
        """Write the live state of a driver that has ended, even if the disk is full."""
        try:
            self._rewrite(None)
        except UserError:
            path = live.path_of(self._sweep, self.number)
            self._folder.overwrite(path, self._next_content(None))

    def publish(self, state: LiveState) -> None:
        """Set the live state to be stored next.

        The lease fills in holder, sequence number and time.
        """
        self._state = state

    def requests(self) -> list[Request]:
        """Return the requests that arrived since the last call."""
        return [self._requests.popleft() for _ in range(len(self._requests))]

    def mark_carried_out(self, retries: Iterable[Request]) -> None:
        """Mark requests of kind ``retry`` as done; the thread deletes their files."""
        self._carried_out.extend(request.path for request in retries)

    def check(self) -> None:
        """Raise LostLeaseError if this driver may not run the sweep any more.

        Call it before records are written. If the lease was not renewed for a while,
        e.g. because the process was suspended, the store is read to find out.
        """
        seconds_since_renewal = seconds_since_boot() - self._renewed
        if seconds_since_renewal > self._expiry_seconds / 2:
            self._is_lost()
        if self._lost:
            raise LostLeaseError(self._lost)

    def _take_lease(self) -> bool:
        """Take the next lease number, and return whether this driver has got it.

        Raises UserError if the last driver lives.
        """
        last_number, last_state = self._wait_for_last_driver()
        # This process becomes the holder; what was known about the sweep stays.
        self._state = replace(
            last_state or self._state,
            running=(),
            num_running=0,
            paused=False,
            stopping=False,
            failure="",
        )
        self.number = last_number + 1
        self._sequence = self._state.sequence
        return self._folder.write_new(
            live.path_of(self._sweep, self.number), self._next_content(self._holder)
        )

    def _wait_for_last_driver(self) -> tuple[int, LiveState | None]:
        """Wait until the last driver has ended; return its lease number and live state.

        The number is 0 if there was no driver. Raises UserError if the driver lives.
        """
        number, content = self._read()
        deadline = seconds_since_boot() + self._expiry_seconds
        while not self._has_ended(content):
            if seconds_since_boot() >= deadline:
                logger.info(
                    "%s: no sign of life of %s", self._sweep, _holder_in(content)
                )
                break
            time.sleep(min(0.5, self._renew_seconds))
            earlier_content = content
            number, content = self._read()
            holder = _holder_in(content)
            if content != earlier_content and holder is not None:
                raise UserError(
                    f"another driver runs {self._sweep} in this store ({holder})."
                    f" Watch it with 'orca-sweep status {self._sweep}', end it with"
                    f" 'orca-sweep stop {self._sweep}' before starting this one, or"
                    " give another store with --results."
                )
        return number, live.decode(content) if content is not None else None

    def _has_ended(self, content: Any | None) -> bool:
        """Return whether the driver that wrote a live state is known to have ended.

        ``content`` is the content of the live state's file, None if there is no file.
        If it is damaged, nothing is known about the driver, and this returns False.
        """
        if content is None:
            return True
        state = live.decode(content)
        if state is None:
            return False
        if state.holder is None:
            return True
        if ended_here(state.holder):
            logger.info(
                "%s: the driver before this one has ended (%s)",
                self._sweep,
                state.holder,
            )
            return True
        return False

    def _read(self) -> tuple[int, Any | None]:
        """Return the highest lease number, and the content of the live state's file.

        The content is None if there is no such file.
        """
        numbers = live.highest_numbers(self._folder.names(live.DIRECTORY))
        number = numbers.get(live.file_name(self._sweep), 0)
        try:
            return number, self._folder.read(live.path_of(self._sweep, number))
        except FileNotFoundError:
            return number, None

    def _rewrite(self, holder: Holder | None) -> None:
        self._folder.write(
            live.path_of(self._sweep, self.number), self._next_content(holder)
        )

    def _next_content(self, holder: Holder | None) -> Any:
        """Return the content of the live state's file with the next sequence number."""
        self._sequence += 1
        state = replace(
            self._state, holder=holder, sequence=self._sequence, renewed_at=_now()
        )
        return state.encode()

    def _run(self) -> None:
        """Renew the lease until the block ends or another driver has the lease."""
        while not self._ended.wait(self._renew_seconds) and not self._lost:
            try:
                self._renew()
            except Exception as error:
                # The thread must not die: the lease would expire while the sweep runs.
                logger.warning(
                    "%s: the live state cannot be renewed: %s", self._sweep, error
                )

    def _renew(self) -> None:
        """Rewrite the live state and read requests, unless the lease is lost."""
        if self._is_lost() or self._is_newer():
            return
        self._rewrite(self._holder)
        self._renewed = seconds_since_boot()
        self._delete_carried_out()
        self._requests.extend(self._take_requests())

    def _take_requests(self) -> list[Request]:
        """Return new requests; remember the paths of those of kind ``retry``."""
        requests = live.take_requests(self._folder, self._sweep, self._retries)
        self._retries |= {
            request.path for request in requests if request.kind == live.RETRY
        }
        return requests

    def _delete_carried_out(self) -> None:
        while self._carried_out:
            path = self._carried_out.popleft()
            self._folder.delete(path)
            self._retries.discard(path)

    def _is_lost(self) -> bool:
        """Return whether another driver has taken the next lease number."""
        if self._lost:
            return True
        path = live.path_of(self._sweep, self.number + 1)
        try:
            content = self._folder.read(path)
        except FileNotFoundError:
            return False
        holder = _holder_in(content)
        other_driver = "another driver" if holder is None else str(holder)
        self._lost = (
            f"this driver of {self._sweep} gave no sign of life for"
            f" {self._expiry_seconds:g} s (was the machine suspended, or the store"
            f" unreachable?), and {other_driver} has taken over: this one ends."
            " Finished trials are stored. Watch the other one with 'orca-sweep status"
            f" {self._sweep}'."
        )
        return True

    def _is_newer(self) -> bool:
        """Return whether a newer orca-ray has marked the store as its own.

        Then this driver must not write any more. A marker that cannot be read now says
        nothing.
        """
        try:
            self._store.check_version()
        except NewerStoreError as error:
            self._lost = (
                f"{error} This driver of {self._sweep} ends. Finished trials are"
                " stored: the same command continues after the upgrade."
            )
            return True
        except UserError as error:
            logger.warning("the version of the store cannot be checked: %s", error)
        return False


def _holder_in(content: Any | None) -> Holder | None:
    """Return the holder that the content of a live state names, if it names one."""
    if content is None:
        return None
    state = live.decode(content)
    if state is None:
        return None
    return state.holder


def driver_lives(
    folder: Folder,
    state: LiveState,
    emit: Callable[[str], None] = logger.info,
    *,
    expiry_seconds: float = EXPIRY_SECONDS,
) -> bool:
    """Return whether the driver that ``state`` names as the holder is alive.

    Returns False if ``state`` names no holder. If the driver ran on another machine,
    this waits up to ``expiry_seconds`` for a new live state, and calls ``emit`` with a
    sentence if the wait is long.
    """
    if state.holder is None:
        return False
    if state.holder.machine and state.holder.machine == machine():
        return not ended_here(state.holder)
    begin = seconds_since_boot()
    is_announced = False
    while (seconds_waited := seconds_since_boot() - begin) < expiry_seconds:
        if seconds_waited > expiry_seconds / 4 and not is_announced:
            is_announced = True
            emit(
                f"no sign of life of {state.holder} for {seconds_waited:.0f} s; after"
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
        user=_user(),
    )


def _user() -> str:
    """Return the name of the user who runs this process; "" if it has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # e.g. a container with a user id without a name
        return ""


def ended_here(holder: Holder) -> bool:
    """Return whether the holder ran on this machine and has ended.

    Returns False if the holder may be alive, here or elsewhere.
    """
    if not holder.machine or holder.machine != machine():
        return False
    created = _created(holder.pid)
    if created is not None:
        # A living process that was created at another time has got the same pid.
        return abs(created - holder.created) > 1
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # another user's process, which this system may hide
        return False
    return True  # a process that has ended, and whose parent has not taken note of it


def machine() -> str:
    """Return an identifier of this boot of the machine and of the process namespace.

    Returns "" if the system has no such identifier.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _created(pid: int) -> float | None:
    """Return the creation time of a living process, in seconds after the boot.

    Returns None if there is no such process, or if it is dead.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The fields after the command, which is in parentheses: see proc(5).
    fields = stat.rpartition(")")[2].split()
    if fields[0] in "ZX":  # a zombie, or dead
        return None
    # Field 19 after the command is ``starttime``, in clock ticks.
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _now() -> str:
    return datetime.now(UTC).isoformat()
