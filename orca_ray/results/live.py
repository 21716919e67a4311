"""Small files beside the tables of a store: live states of sweeps, requests to their
drivers, and which files count.

Each driver of a sweep has a file ``live/SWEEP.NUMBER.json``, where NUMBER is its lease
number; the live state is the one with the highest number. Any process that sees the
store may write a request; its path names the sweep. A retry may take days: its file is
deleted only when the trial has run again. See docs/decisions/0016-live-state.md.

Fencing: a file that a driver appended after it had lost the lease of its sweep does not
    count. The name of each file
that a driver appends ends with the sweep and its lease number. A driver that takes the
lease stores, before it reads anything else, the list of the files of lower numbers:
from then on, only these count. Of several lists, the one with the highest number
decides. No clock is involved (docs/decisions/0028-fencing.md).
"""

import contextlib
import hashlib
import json
import logging
import re
import time
import uuid
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyarrow as pa
from pydantic import TypeAdapter

from orca_ray.errors import UserError
from orca_ray.results.folder import Folder

logger = logging.getLogger(__name__)

DIRECTORY = "live"
MAX_RUNNING = 2000
"""Largest number of running and waiting trials that are listed, which keeps the file
under `folder.MAX_JSON_BYTES`.
"""
REQUESTS = "requests"
MAX_TAKEN = 50
"""Largest number of requests that `take_requests` reads, because the same thread must
soon renew the lease.
"""

_LIVE_STATE = re.compile(r"(.+-[0-9a-f]{8})\.(\d+)\.(?:json|sealed)")
_SEALED = re.compile(r"(.+)\.(\d+)\.sealed")
_APPENDED = re.compile(
    r"\d{20}-[0-9a-f]{32}\.(.+-[0-9a-f]{8})\.(\d+)\.(?:.+\.)?parquet"
)
"""Matches the name of a file that a driver appended; files of compactions and of other
writers have other names.
"""

STOP, PAUSE, RESUME, CANCEL, RETRY = KINDS = (
    "stop",
    "pause",
    "resume",
    "cancel",
    "retry",
)


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The driver that runs a sweep: the process that holds its lease."""

    id: str
    """Random identifier of this driver."""
    host: str
    pid: int
    created: float
    """Creation time of the process, in seconds after the boot of its machine; process
    ids are reused.
    """
    machine: str
    """Identifies the boot of the machine and the process namespace, in which ``pid``
    has a meaning.
    """
    started_at: str
    """Time in ISO format, UTC."""

    def __str__(self) -> str:
        return (
            f"process {self.pid} on {self.host}, since"
            f" {self.started_at[:19].replace('T', ' ')} UTC"
        )


@dataclass(frozen=True, kw_only=True)
class RunningTrial:
    """A trial that a worker runs, or that waits for a worker."""

    key: str
    task: str
    method: str
    phase: str
    seed: int
    attempt: int
    started_at: str
    waiting: bool = False
    """Whether no worker runs the trial: it waits for resources or for its next attempt.
    """
    node: str = ""
    """Name of the node; empty before the first report."""
    stage: str = ""
    epoch: int = 0
    epochs: int = 0
    score: float | None = None
    """Last validation score, lower is better; None before the first."""
    best: float | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """Numbers of planned trials and of ended trials of one (task, method), trials of
    earlier runs included.
    """

    task: str
    method: str
    planned: int
    done: int


@dataclass(frozen=True, kw_only=True)
class LiveState:
    """State of a sweep, as the driver of the sweep last wrote it."""

    sweep: str
    holder: Holder | None = None
    """The driver that runs the sweep; None after the driver has ended."""
    sequence: int = 0
    """Grows with every rewrite: a reader who sees it change knows that the driver
    lives, without comparing clocks.
    """
    renewed_at: str = ""
    executor: str = ""
    rows: tuple[Row, ...] = ()
    running: tuple[RunningTrial, ...] = ()
    """At most `MAX_RUNNING` trials; those that wait are last."""
    num_running: int = 0
    """Number of trials that a worker runs."""
    trials_per_minute: float | None = None
    seconds_left: float | None = None
    paused: bool = False
    stopping: bool = False
    quarantined: tuple[str, ...] = ()
    """Lines "node: reason" for each node that gets no more trials."""

    def encode(self) -> Any:
        """Return the state as a buffer of JSON text, with a checksum."""
        values = asdict(self)
        return pa.py_buffer(
            json.dumps(
                values | {_CHECKSUM: checksum(json.dumps(values).encode())}, indent=1
            ).encode()
        )


_ADAPTER = TypeAdapter(LiveState)
_CHECKSUM = "sha256"


def checksum(content: bytes) -> str:
    """Return the SHA-256 of a file's content in hexadecimal, by which a reader sees
    that the file is intact.
    """
    return hashlib.sha256(content).hexdigest()


def decode(content: Any) -> LiveState | None:
    """Return the state in the ``content`` of a file, a `pyarrow.Buffer`; None if the
    content is damaged.
    """
    try:
        state = _ADAPTER.validate_json(content.to_pybytes())
    except ValueError:
        return None
    values = json.loads(content.to_pybytes())
    return (
        state
        if values.pop(_CHECKSUM, None) == checksum(json.dumps(values).encode())
        else None
    )


def file_name(sweep: str) -> str:
    """Return a unique file name for a sweep: its id without "/" and special characters,
    and a hash of the id.
    """
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "_", sweep)[:80].lstrip(".")
    return f"{readable}-{hashlib.sha256(sweep.encode()).hexdigest()[:8]}"


def path_of(sweep: str, number: int) -> str:
    """Return the path of the live state of the driver with a lease number."""
    return f"{DIRECTORY}/{file_name(sweep)}.{number}.json"


def highest_numbers(names: Iterable[str]) -> dict[str, int]:
    """Return the highest lease number of each sweep by its `file_name`, from the
    ``names`` of files in `DIRECTORY`.

    Lists of `Fences` count too: a number whose live state a user has deleted is not
    given again.
    """
    found: dict[str, int] = {}
    for name in names:
        if match := _LIVE_STATE.fullmatch(name):
            found[match[1]] = max(int(match[2]), found.get(match[1], 0))
    return found


def read(folder: Folder, sweep: str) -> LiveState | None:
    """Return the live state of a sweep; None if the file is damaged or missing (e.g.
    the sweep never ran).
    """
    return next(read_all(folder, sweep), None)


def read_all(folder: Folder, sweep: str = "") -> Iterator[LiveState]:
    """Yield the live states of all sweeps of a store ("") or of one, without those that
    are missing or damaged.
    """
    for name, number in sorted(highest_numbers(folder.names(DIRECTORY)).items()):
        path = f"{DIRECTORY}/{name}.{number}.json"
        if sweep and name != file_name(sweep):
            continue
        with contextlib.suppress(FileNotFoundError):
            if state := decode(folder.read(path)):
                yield state
            else:
                logger.warning(
                    "%s/%s is damaged: the state of its sweep is not known",
                    folder.name,
                    path,
                )


def suffix(sweep: str, number: int) -> str:
    """Return what the names of files that a driver appends have before ``.parquet``."""
    return f".{file_name(sweep)}.{number}"


def _owner(path: str) -> tuple[str, int] | None:
    match = _APPENDED.fullmatch(path.rpartition("/")[2])
    return (match[1], int(match[2])) if match else None


def _sealed_path(name: str, number: int) -> str:
    return f"{DIRECTORY}/{name}.{number}.sealed"


class Fences:
    """Which appended files of a store count; threads may share it."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._sealed: dict[tuple[str, int], frozenset[str]] = {}

    def seal(self, sweep: str, number: int, directories: Iterable[str]) -> None:
        """Store which files in ``directories``, listed in this order, count of drivers
        with numbers below ``number``.

        What the list before decided stays: a file that has arrived since then does not
            count.
        """
        own = file_name(sweep)
        paths = list[str]()
        for directory in directories:
            for name in self._folder.names(directory):
                if (owner := _owner(name)) and owner[0] == own and owner[1] < number:
                    paths.append(f"{directory}/{name}")
        lost, _ = self.judge(paths)
        content = "\n".join(path for path in paths if path not in lost).encode()
        self._folder.write(
            _sealed_path(own, number),
            pa.py_buffer(checksum(content).encode() + b"\n" + content),
        )

    def judge(self, paths: Iterable[str]) -> tuple[set[str], set[str]]:
        """Return which of the files ``paths``, listed before this call, do not count,
        and which are undecided.

        A file is undecided as long as the driver with the highest number has not stored
        its list. That list may differ from the one before, by which readers go until
        then: a compaction must neither merge nor delete the file.
        """
        owners = {path: owner for path in paths if (owner := _owner(path))}
        lost = set[str]()
        undecided = set[str]()
        present = self._folder.names(DIRECTORY) if owners else []
        sealed = dict(
            sorted(
                (match[1], int(match[2]))
                for name in present
                if (match := _SEALED.fullmatch(name))
            )
        )
        highest = highest_numbers(present)
        for path, (sweep, number) in owners.items():
            last = sealed.get(sweep, 0)
            if number < last and path not in self._counted(sweep, last):
                lost.add(path)
            if max(number, last) < highest.get(sweep, 0):
                undecided.add(path)
        return lost, undecided

    def _counted(self, sweep: str, number: int) -> frozenset[str]:
        if (sweep, number) not in self._sealed:  # such a file never changes
            path = _sealed_path(sweep, number)
            given, _, content = bytes(self._folder.read(path)).partition(b"\n")
            if given != checksum(content).encode():
                where = (
                    f"{self._folder.name}/{path}, the list of files of earlier drivers"
                    " that count,"
                )
                raise UserError(
                    f"{where} is damaged. Restore it from a copy, or delete it: then"
                    " all of them count."
                )
            self._sealed[sweep, number] = frozenset(content.decode().splitlines())
        return self._sealed[sweep, number]


@dataclass(frozen=True)
class Request:
    """Request to the driver of a sweep, about the sweep or one of its trials.

    ``stop``: end as after Ctrl-C. ``pause``: start no more trials until ``resume``.
    ``cancel``: end ``trial``. ``retry``: run the failed ``trial`` again or, if
    ``trial`` is empty, all failed trials.
    """

    kind: str
    trial: str = ""
    """Key of a trial; empty for all."""
    path: str = field(default="", compare=False)
    """Path of the request's file in the store; empty before the file is written."""


_REQUEST = TypeAdapter(Request)


def write_request(folder: Folder, sweep: str, request: Request) -> None:
    """Add a request for the driver of ``sweep``."""
    path = f"{REQUESTS}/{file_name(sweep)}/{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.json"
    folder.write(
        path,
        pa.py_buffer(
            json.dumps({"kind": request.kind, "trial": request.trial}).encode()
        ),
    )


def take_requests(
    folder: Folder, sweep: str, known: Collection[str] = ()
) -> list[Request]:
    """Return the requests for a sweep, oldest first, and delete their files, except
    those of retries.

    Requests with a path in ``known`` are left out. Damaged files and unknown kinds are
    deleted and left out.
    """
    found: list[Request] = []
    for name in folder.names(directory := f"{REQUESTS}/{file_name(sweep)}"):
        path = f"{directory}/{name}"
        if path in known or len(found) == MAX_TAKEN:
            continue
        try:
            found.append(
                replace(
                    _REQUEST.validate_json(folder.read(path).to_pybytes()), path=path
                )
            )
        except (
            FileNotFoundError,
            UserError,
        ):  # UserError: not a file, or one that is too large
            continue
        except ValueError:
            found.append(Request("", path=path))
    for request in found:
        if request.kind != RETRY:
            folder.delete(request.path)
    return [request for request in found if request.kind in KINDS]
