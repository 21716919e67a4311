"""The live state of a sweep, and requests to its driver: small JSON files in the store.

Each driver of a sweep has a file ``live/SWEEP.NUMBER.json``, where NUMBER is its lease number; the live state is the
one with the highest number. Any process that sees the store may write a request; its path names the sweep. A retry may
take days: its file is deleted only when the trial has run again. See docs/decisions/0016-live-state.md.
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
"""Largest number of running and waiting trials that are listed, which keeps the file under `folder.MAX_JSON_BYTES`."""
REQUESTS = "requests"
MAX_TAKEN = 50
"""Largest number of requests that `take_requests` reads, because the same thread must soon renew the lease."""

_LIVE_STATE = re.compile(r"(.+-[0-9a-f]{8})(?:\.(\d+))?\.(?:json|sealed)")

STOP, PAUSE, RESUME, CANCEL, RETRY = KINDS = ("stop", "pause", "resume", "cancel", "retry")


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The driver that runs a sweep: the process that holds its lease."""

    id: str
    """Random identifier of this driver."""
    host: str
    pid: int
    created: float
    """Creation time of the process, in seconds after the boot of its machine; process ids are reused."""
    machine: str
    """Identifies the boot of the machine and the process namespace, in which ``pid`` has a meaning."""
    started_at: str
    """Time in ISO format, UTC."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.started_at[:19].replace('T', ' ')} UTC"


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
    """Whether no worker runs the trial: it waits for resources or for its next attempt."""
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
    """Numbers of planned trials and of ended trials of one (task, method), trials of earlier runs included."""

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
    """Grows with every rewrite: a reader who sees it change knows that the driver lives, without comparing clocks."""
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
        return pa.py_buffer(json.dumps(values | {_CHECKSUM: checksum(json.dumps(values).encode())}, indent=1).encode())


_ADAPTER = TypeAdapter(LiveState)
_CHECKSUM = "sha256"


def checksum(content: bytes) -> str:
    """Return the SHA-256 of a file's content in hexadecimal, by which a reader sees that the file is intact."""
    return hashlib.sha256(content).hexdigest()


def decode(content: Any) -> LiveState | None:
    """Return the state in the ``content`` of a file, a `pyarrow.Buffer`; None if the content is damaged."""
    try:
        state = _ADAPTER.validate_json(content.to_pybytes())
    except ValueError:
        return None
    values = json.loads(content.to_pybytes())
    intact = values.pop(_CHECKSUM, None) in (None, checksum(json.dumps(values).encode()))  # None: of an older version
    return state if intact else None


def file_name(sweep: str) -> str:
    """Return a unique file name for a sweep: its id without "/" and special characters, and a hash of the id."""
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "_", sweep)[:80].lstrip(".")
    return f"{readable}-{hashlib.sha256(sweep.encode()).hexdigest()[:8]}"


def path_of(sweep: str, number: int) -> str:
    """Return the path of the live state of the driver with a lease number; 0: of a driver before there were numbers."""
    return f"{DIRECTORY}/{file_name(sweep)}.{number}.json" if number else f"{DIRECTORY}/{file_name(sweep)}.json"


def highest_numbers(names: Iterable[str]) -> dict[str, int]:
    """Return the highest lease number of each sweep by its `file_name`, from the ``names`` of files in `DIRECTORY`.

    Lists of `fencing` count too: a number whose live state a user has deleted is not given again.
    """
    found: dict[str, int] = {}
    for name in names:
        if match := _LIVE_STATE.fullmatch(name):
            found[match[1]] = max(int(match[2] or 0), found.get(match[1], 0))
    return found


def read(folder: Folder, sweep: str) -> LiveState | None:
    """Return the live state of a sweep; None if the file is damaged or missing (e.g. the sweep never ran)."""
    return next(read_all(folder, sweep), None)


def read_all(folder: Folder, sweep: str = "") -> Iterator[LiveState]:
    """Yield the live states of all sweeps of a store ("") or of one, without those that are missing or damaged."""
    for name, number in sorted(highest_numbers(folder.names(DIRECTORY)).items()):
        path = f"{DIRECTORY}/{name}.{number}.json" if number else f"{DIRECTORY}/{name}.json"
        if sweep and name != file_name(sweep):
            continue
        with contextlib.suppress(FileNotFoundError):
            if state := decode(folder.read(path)):
                yield state
            else:
                logger.warning("%s/%s is damaged: the state of its sweep is not known", folder.name, path)


@dataclass(frozen=True)
class Request:
    """Request to the driver of a sweep, about the sweep or one of its trials.

    ``stop``: end as after Ctrl-C. ``pause``: start no more trials until ``resume``. ``cancel``: end ``trial``.
    ``retry``: run the failed ``trial`` again or, if ``trial`` is empty, all failed trials.
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
    folder.write(path, pa.py_buffer(json.dumps({"kind": request.kind, "trial": request.trial}).encode()))


def take_requests(folder: Folder, sweep: str, known: Collection[str] = ()) -> list[Request]:
    """Return the requests for a sweep, oldest first, and delete their files, except those of retries.

    Requests with a path in ``known`` are left out. Damaged files and unknown kinds are deleted and left out.
    """
    found: list[Request] = []
    for name in folder.names(directory := f"{REQUESTS}/{file_name(sweep)}"):
        path = f"{directory}/{name}"
        if path in known or len(found) == MAX_TAKEN:
            continue
        try:
            found.append(replace(_REQUEST.validate_json(folder.read(path).to_pybytes()), path=path))
        except (FileNotFoundError, UserError):  # UserError: not a file, or one that is too large
            continue
        except ValueError:
            found.append(Request("", path=path))
    for request in found:
        if request.kind != RETRY:
            folder.delete(request.path)
    return [request for request in found if request.kind in KINDS]
