"""Requests to the driver of a sweep, as small JSON files in its store; any process that sees the store may write one.

The driver reads them every few seconds, deletes them and carries them out. They name the sweep, so that sweeps that
share a store get only their own.
"""

import functools
import itertools
import json
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import pyarrow as pa
from pydantic import TypeAdapter

from orca_ray.errors import UserError
from orca_ray.results.folder import Folder
from orca_ray.results.live import file_name

_DIRECTORY = "requests"
MAX_TAKEN = 50
"""Number of requests that are read at a time: the lease must be renewed meanwhile."""

STOP, PAUSE, RESUME, CANCEL, RETRY = KINDS = ("stop", "pause", "resume", "cancel", "retry")


@dataclass(frozen=True)
class Request:
    """Request to the driver of a sweep, about the sweep or one of its trials.

    ``stop``: end as after Ctrl-C. ``pause``: start no more trials until ``resume``. ``cancel``: end ``trial``.
    ``retry``: run failed trials again: ``trial``, or all if it is empty.
    """

    kind: str
    trial: str = ""
    """Key of a trial; empty for all."""


@functools.cache
def _adapter() -> TypeAdapter[Request]:
    return TypeAdapter(Request)


def write(folder: Folder, sweep: str, request: Request) -> None:
    """Add a request for the driver of ``sweep``."""
    path = f"{_place(sweep)}/{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.json"
    folder.write(path, pa.py_buffer(json.dumps(asdict(request)).encode()))


def take(folder: Folder, sweep: str) -> list[Request]:
    """Return the requests for a sweep, oldest first, and delete them; damaged files and unknown kinds are skipped."""
    found = list(itertools.islice(_read(folder, sweep), MAX_TAKEN))
    for path, _ in found:
        folder.delete(path)
    return [request for _, request in found if request.kind in KINDS]


def _place(sweep: str) -> str:
    return f"{_DIRECTORY}/{file_name(sweep)}"


def _read(folder: Folder, sweep: str) -> Iterator[tuple[str, Request]]:
    for name in folder.names(_place(sweep)):
        path = f"{_place(sweep)}/{name}"
        try:
            yield path, _adapter().validate_json(folder.read(path).to_pybytes())
        except (FileNotFoundError, UserError):  # UserError: not a file, or one that is too large
            continue
        except ValueError:
            yield path, Request("")
