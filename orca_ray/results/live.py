"""Small files beside the tables of a store: live states, requests, and fences.

Each driver of a sweep has a file ``live/SWEEP.NUMBER.json``, where NUMBER is its lease
number. The file with the highest number is the live state of the sweep. Any process
that reaches the store may write a request to a driver; the path of the request names
the sweep. A request to run a trial again may take days to carry out, so its file is
deleted only when the trial has run again. See docs/decisions/0016-live-state.md.

Fencing: a file that a driver appended after it had lost the lease of its sweep does not
count, which means that its rows are not read. The name of each file that a driver
appends ends with the sweep and the driver's lease number. A driver that takes the lease
first stores the list of the existing files with lower numbers. From then on, of the
files with lower numbers, only those in the list count. If there are several lists, the
one with the highest number decides. No clock is involved
(docs/decisions/0028-fencing.md).
"""

import hashlib
import json
import logging
import re
import time
import uuid
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import pyarrow as pa
from pydantic import TypeAdapter

from orca_ray.errors import UserError
from orca_ray.results.folder import Folder

logger = logging.getLogger(__name__)

DIRECTORY = "live"
"""Directory of a store that holds live states and fences."""
MAX_RUNNING = 2000
"""Largest number of running and waiting trials that are listed.

It keeps the file below `folder.MAX_JSON_BYTES`.
"""
REQUESTS = "requests"
"""Directory of a store that holds requests."""
MAX_TAKEN = 50
"""Largest number of requests that `take_requests` reads at a time.

The thread that reads them must soon renew the lease.
"""

_NUMBERED = re.compile(r"(.+-[0-9a-f]{8})\.(\d+)\.(?:json|sealed)")
"""Matches the name of a live state or of a list of `Fences`."""
_SEALED = re.compile(r"(.+)\.(\d+)\.sealed")
"""Matches the name of a list of `Fences`."""
_APPENDED = re.compile(
    r"\d{20}-[0-9a-f]{32}\.(.+-[0-9a-f]{8})\.(\d+)\.(?:.+\.)?parquet"
)
"""Matches the name of a file that a driver appended.

Files of compactions and of writers without a lease have other names.
"""

STOP = "stop"
"""Kind of the request to end as after Ctrl-C."""
PAUSE = "pause"
"""Kind of the request to start no more trials."""
RESUME = "resume"
"""Kind of the request to start trials again."""
CANCEL = "cancel"
"""Kind of the request to end a trial."""
LIMIT = "limit"
"""Kind of the request to change the limits of what runs at once."""
RETRY = "retry"
"""Kind of the request to run a failed trial, or all failed trials, again."""
KINDS = (STOP, PAUSE, RESUME, CANCEL, LIMIT, RETRY)
"""All kinds of requests."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The driver that runs a sweep: the process that holds its lease."""

    id: str
    """Random identifier of this driver."""
    host: str
    pid: int
    created: float
    """Creation time of the process, in seconds after the boot of its machine.

    Process ids are reused.
    """
    machine: str
    """Identifies the boot of the machine and the process namespace of ``pid``."""
    started_at: str
    """Time in ISO format, UTC."""
    user: str = ""
    """Name of the user on that machine; "" if it is not known."""

    def __str__(self) -> str:
        start = self.started_at[:19].replace("T", " ")
        return f"process {self.pid} on {self.host}, since {start} UTC"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of what a sweep runs at once; None: there is no such limit."""

    max_trials: int | None = None
    max_gpus: float | None = None
    priority: int | None = None
    """Priority among the sweeps of a cluster, a larger number first; None is 0."""

    def changed_by(self, other: "Limits") -> "Limits":
        """Return these limits with those that ``other`` has in their place."""
        given = {
            name: value for name, value in asdict(other).items() if value is not None
        }
        return replace(self, **given)


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
    """Numbers of planned and of ended trials of one (task, method).

    Trials of earlier runs count too.
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
    """Grows with every rewrite, by which readers see that the driver lives."""
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
    limits: Limits = field(default_factory=Limits)
    """Limits of what runs at once."""
    share: float | None = None
    """Share of the cluster that the sweep may use beside others.

    None: no other sweep runs there.
    """
    failure: str = ""
    """Error message with which the last driver ended; "" if it ended without one."""

    def encode(self) -> Any:
        """Return the state as a buffer of JSON text, with a checksum."""
        values = asdict(self)
        values[_CHECKSUM] = checksum(json.dumps(values).encode())
        return pa.py_buffer(json.dumps(values, indent=1).encode())


_ADAPTER = TypeAdapter(LiveState)
_CHECKSUM = "sha256"
"""Name of the checksum in the JSON object of a live state."""


def checksum(content: bytes) -> str:
    """Return the SHA-256 of a file's content in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def decode(content: Any) -> LiveState | None:
    """Return the state in the content of a file; None if the content is damaged."""
    try:
        state = _ADAPTER.validate_json(content.to_pybytes())
    except ValueError:
        return None
    values = json.loads(content.to_pybytes())
    stored_checksum = values.pop(_CHECKSUM, None)
    is_intact = stored_checksum == checksum(json.dumps(values).encode())
    return state if is_intact else None


def file_name(sweep: str) -> str:
    """Return a unique file name for a sweep.

    It consists of the id without "/" and special characters, and a hash of the id.
    """
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "_", sweep)[:80].lstrip(".")
    return f"{readable}-{hashlib.sha256(sweep.encode()).hexdigest()[:8]}"


def path_of(sweep: str, number: int) -> str:
    """Return the path of the live state of the driver with a lease number."""
    return f"{DIRECTORY}/{file_name(sweep)}.{number}.json"


def highest_numbers(names: Iterable[str]) -> dict[str, int]:
    """Return the highest lease number of each sweep, by the sweep's `file_name`.

    ``names`` are those of the files in `DIRECTORY`. Lists of `Fences` count too: a
    number whose live state a user has deleted is not given again.
    """
    return _highest(_NUMBERED, names)


def _highest(pattern: re.Pattern[str], names: Iterable[str]) -> dict[str, int]:
    """Return the highest number (group 2) by sweep (group 1) of names that match."""
    highest: dict[str, int] = {}
    for name in names:
        if match := pattern.fullmatch(name):
            sweep = match[1]
            highest[sweep] = max(int(match[2]), highest.get(sweep, 0))
    return highest


def read(folder: Folder, sweep: str) -> LiveState | None:
    """Return the live state of a sweep; None if its file is damaged or missing."""
    return next(read_all(folder, sweep), None)


def read_all(folder: Folder, sweep: str = "") -> Iterator[LiveState]:
    """Yield the live states of one sweep, or of all sweeps of a store ("").

    Missing and damaged files are left out.
    """
    for name, number in sorted(highest_numbers(folder.names(DIRECTORY)).items()):
        path = f"{DIRECTORY}/{name}.{number}.json"
        if sweep and name != file_name(sweep):
            continue
        try:
            content = folder.read(path)
        except FileNotFoundError:
            continue
        state = decode(content)
        if state is None:
            logger.warning(
                "%s/%s is damaged: the state of its sweep is not known",
                folder.name,
                path,
            )
        else:
            yield state


def suffix(sweep: str, number: int) -> str:
    """Return what the names of files that a driver appends have before ``.parquet``."""
    return f".{file_name(sweep)}.{number}"


class _Owner(NamedTuple):
    """Driver that appended a file."""

    sweep: str
    """`file_name` of its sweep."""
    number: int
    """Its lease number."""


def _owner(path: str) -> _Owner | None:
    """Return the driver that appended a file; None for a file of another writer."""
    match = _APPENDED.fullmatch(path.rpartition("/")[2])
    if match is None:
        return None
    return _Owner(match[1], int(match[2]))


def _sealed_path(name: str, number: int) -> str:
    return f"{DIRECTORY}/{name}.{number}.sealed"


@dataclass(frozen=True)
class FencedFiles:
    """Files of a store whose rows are not read, or may not be read later."""

    excluded: set[str]
    """Paths of the files that do not count: their drivers had lost the lease."""
    pending: set[str]
    """Paths of the files that a newer driver has yet to list or to exclude.

    That driver has taken its lease, but not stored its list. Readers go by the list
    before until then. A compaction must neither merge nor delete these files.
    """


class Fences:
    """Decides which of the files that drivers appended to a store count.

    Threads may share an instance.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._sealed: dict[tuple[str, int], frozenset[str]] = {}
        """Paths in each list that was read, by sweep and lease number."""

    def seal(self, sweep: str, number: int, directories: Iterable[str]) -> None:
        """Store the list of the files with lease numbers below ``number`` that count.

        The directories are listed in the order of ``directories``. A file that an
        earlier list excludes, because it was written after that list, stays excluded.
        """
        name_of_sweep = file_name(sweep)
        paths = []
        for directory in directories:
            for name in self._folder.names(directory):
                owner = _owner(name)
                if owner is None or owner.sweep != name_of_sweep:
                    continue
                if owner.number < number:
                    paths.append(f"{directory}/{name}")
        excluded = self.find_fenced(paths).excluded
        content = "\n".join(path for path in paths if path not in excluded).encode()
        self._folder.write(
            _sealed_path(name_of_sweep, number),
            pa.py_buffer(checksum(content).encode() + b"\n" + content),
        )

    def find_fenced(self, paths: Iterable[str]) -> FencedFiles:
        """Return which of the files at ``paths`` do not count, and which are pending.

        ``paths`` must have been listed before this call.
        """
        fenced = FencedFiles(excluded=set(), pending=set())
        owners: dict[str, _Owner] = {}
        for path in paths:
            owner = _owner(path)
            if owner is not None:
                owners[path] = owner
        if not owners:
            return fenced
        names = self._folder.names(DIRECTORY)
        last_sealed = _highest(_SEALED, names)
        highest = highest_numbers(names)
        for path, (sweep, number) in owners.items():
            sealed = last_sealed.get(sweep, 0)
            if number < sealed and path not in self._read_sealed(sweep, sealed):
                fenced.excluded.add(path)
            if max(number, sealed) < highest.get(sweep, 0):
                fenced.pending.add(path)
        return fenced

    def _read_sealed(self, sweep: str, number: int) -> frozenset[str]:
        """Return the paths in the list of the driver with the lease ``number``."""
        if (sweep, number) not in self._sealed:  # such a file never changes
            path = _sealed_path(sweep, number)
            digest, _, content = bytes(self._folder.read(path)).partition(b"\n")
            if digest != checksum(content).encode():
                raise UserError(
                    f"{self._folder.name}/{path}, the list of files of earlier drivers"
                    " that count, is damaged. Restore it from a copy, or delete it:"
                    " then all of them count."
                )
            self._sealed[sweep, number] = frozenset(
                content.decode("utf-8", "replace").splitlines()
            )
        return self._sealed[sweep, number]


@dataclass(frozen=True)
class Request:
    """Request to the driver of a sweep, about the sweep or one of its trials.

    ``stop``: end as after Ctrl-C. ``pause``: start no more trials until ``resume``.
    ``cancel``: end ``trial``. ``limit``: change limits of what runs at once. ``retry``:
    run the failed ``trial`` again or, if ``trial`` is empty, all failed trials.
    """

    kind: str
    trial: str = ""
    """Key of a trial; empty for all."""
    limits: Limits = field(default_factory=Limits)
    """Limits to change, for the kind ``limit``."""
    path: str = field(default="", compare=False)
    """Path of the request's file in the store; empty before the file is written."""


_REQUEST = TypeAdapter(Request)


def write_request(folder: Folder, sweep: str, request: Request) -> None:
    """Add a request for the driver of ``sweep``."""
    name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.json"
    values: dict[str, Any] = {"kind": request.kind, "trial": request.trial}
    if request.kind == LIMIT:
        values["limits"] = asdict(request.limits)
    content = json.dumps(values)
    folder.write(
        f"{REQUESTS}/{file_name(sweep)}/{name}", pa.py_buffer(content.encode())
    )


def take_requests(
    folder: Folder, sweep: str, known: Collection[str] = ()
) -> list[Request]:
    """Return at most `MAX_TAKEN` requests for a sweep, oldest first.

    Files of returned requests are deleted, except those of retries, which stay until
    the trials have ended. ``known`` has the paths of requests that the caller has taken
    before; they are left out. Damaged requests and those of unknown kinds are deleted
    and left out. Files that are too large or cannot be read stay, and are left out.
    """
    directory = f"{REQUESTS}/{file_name(sweep)}"
    requests: list[Request] = []
    for name in folder.names(directory):
        path = f"{directory}/{name}"
        if path in known or len(requests) == MAX_TAKEN:
            continue
        request = _read_request(folder, path)
        if request is not None:
            requests.append(request)
    for request in requests:
        if request.kind != RETRY:
            folder.delete(request.path)
    # A damaged request has the kind "", which is not in `KINDS`.
    return [request for request in requests if request.kind in KINDS]


def _read_request(folder: Folder, path: str) -> Request | None:
    """Return the request in a file; None if it cannot be read.

    The kind of a damaged request is "".
    """
    try:
        content = folder.read(path).to_pybytes()
    except (FileNotFoundError, UserError):  # UserError: no regular file, or too large
        return None
    try:
        return replace(_REQUEST.validate_json(content), path=path)
    except ValueError:
        return Request("", path=path)
