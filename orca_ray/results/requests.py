"""Requests to the driver of a sweep, as small JSON files in its store; any process that sees the store may write one.

The driver reads requests every few seconds, deletes them and carries them out. A retry may take days: its file is
deleted only when the trial has run again, so that it survives the driver. The path of a request names the sweep, so
that each driver of a store reads only requests for its sweep.
"""

import json
import time
import uuid
from collections.abc import Collection
from dataclasses import dataclass, field, replace

import pyarrow as pa
from pydantic import TypeAdapter

from orca_ray.errors import UserError
from orca_ray.results.folder import Folder
from orca_ray.results.live import file_name

DIRECTORY = "requests"
MAX_TAKEN = 50
"""Largest number of requests that `take` reads, because the same thread must soon renew the lease."""

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
    path: str = field(default="", compare=False)
    """Path of the request's file in the store; empty before the file is written."""


_ADAPTER = TypeAdapter(Request)


def write(folder: Folder, sweep: str, request: Request) -> None:
    """Add a request for the driver of ``sweep``."""
    path = f"{_place(sweep)}/{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.json"
    folder.write(path, pa.py_buffer(json.dumps({"kind": request.kind, "trial": request.trial}).encode()))


def take(folder: Folder, sweep: str, known: Collection[str] = ()) -> list[Request]:
    """Return the requests for a sweep, oldest first, and delete their files, except those of retries.

    Requests with a path in ``known`` are left out. Damaged files and unknown kinds are deleted and left out.
    """
    found: list[Request] = []
    for name in folder.names(_place(sweep)):
        path = f"{_place(sweep)}/{name}"
        if path in known or len(found) == MAX_TAKEN:
            continue
        try:
            found.append(replace(_ADAPTER.validate_json(folder.read(path).to_pybytes()), path=path))
        except (FileNotFoundError, UserError):  # UserError: not a file, or one that is too large
            continue
        except ValueError:
            found.append(Request("", path=path))
    for request in found:
        if request.kind != RETRY:
            folder.delete(request.path)
    return [request for request in found if request.kind in KINDS]


def _place(sweep: str) -> str:
    return f"{DIRECTORY}/{file_name(sweep)}"
