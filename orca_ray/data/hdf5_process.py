"""Reading of a user's HDF5 files in a process of its own.

The HDF5 library (2.0) trusts what a file says about itself. A tree of groups or chunks
that contains itself ends the process that reads it, a list of tree nodes that leads
back to its start is followed forever, and damaged texts take gigabytes of memory.
"""

import functools
import importlib.util
import json
import logging
import os
import signal
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from orca_ray.data import cache, hdf5
from orca_ray.data.archives import archive_errors, max_bytes
from orca_ray.data.child_process import ChildProcess, accept, limit_cpu, limit_memory
from orca_ray.data.hdf5_chunks import map_chunks
from orca_ray.data.npy import map_array
from orca_ray.data.rows import Array
from orca_ray.errors import UserError, shorten
from orca_ray.process import free_memory

logger = logging.getLogger(__name__)

START_SECONDS = 120
"""Seconds within which the process imports what it needs."""
BASE_SECONDS = 5
"""Seconds of CPU time that one request may take, plus one for each MiB of the file.
"""
BASE_BYTES = 2**29
"""Bytes of memory that the process may take, plus those that the file's size allows."""
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
"""First bytes of an HDF5 file, or of what follows its user block."""
_LEAST_USER_BLOCK = 512
"""Smallest size of a user block in bytes; the other sizes are this one doubled."""


def is_hdf5(path: Path) -> bool:
    """Return whether a file contains the signature of HDF5 where it may be.

    Raises UserError for a file that cannot be read.
    """
    size = cache.check_special(path)
    position = 0
    with cache.open_file(path) as file:
        while position < size:
            file.seek(position)
            if file.read(len(_SIGNATURE)) == _SIGNATURE:
                return True
            position = max(_LEAST_USER_BLOCK, 2 * position)
    return False


class StoredArray(NamedTuple):
    """Shape and type of one data set in an HDF5 file."""

    shape: tuple[int, ...] | None
    """None: it has no values, not even one, or is no data set but a group."""
    dtype: np.dtype[Any]
    """Type of the values; void for a type of several fields."""
    is_text: bool
    description: str
    """What h5py prints for it."""


class Hdf5Process:
    """An HDF5 file that another process reads, with limits of time and memory.

    The process is started at the first request, and again after a request that ended
    it. It is killed when this object is deleted. Threads may share an object.

    Every method raises the UserErrors of `open_hdf5`, and a UserError if the process
    ends, or takes more than `BASE_SECONDS` and a second of CPU time for each MiB.
    """

    def __init__(self, path: Path) -> None:
        if importlib.util.find_spec("h5py") is None:
            raise ModuleNotFoundError("No module named 'h5py'", name="h5py")
        size = cache.check_special(path)
        self.path = path
        self._seconds = BASE_SECONDS + size // 2**20
        self._allowed_bytes = max_bytes(size)
        self._lock = threading.Lock()
        self._child: ChildProcess | None = None
        self._results = _anonymous_file()

    def arrays(self) -> dict[str, StoredArray]:
        """Return all data sets by name."""
        answer = self._ask("list")
        return {name: _stored_array(each) for name, *each in answer["arrays"]}

    def describe(self, name: str) -> StoredArray:
        """Return what the file says about a data set or a group."""
        return _stored_array(self._ask("describe", name)["array"])

    def open_rows(self, name: str) -> Callable[[Any], Array]:
        """Return a function that reads a selection of a data set.

        The selection is a slice or ascending indices of the first axis, or a tuple with
        one of them. Numbers that the file has in one piece or in uncompressed chunks
        are memory-mapped, so that the process only says where they are. Raises
        UserError for a chunk that has another size than the file declares (see
        `check_chunks`).
        """
        stored = self.describe(name)
        with self._lock:
            places = self._answer("check", name)
            starts = self._result(places) if places["chunk_shape"] else None
        if stored.shape is None:
            return functools.partial(self._read, name)
        with archive_errors(self.path, "HDF5 file"):
            if starts is not None:
                chunk_shape = tuple(places["chunk_shape"])
                return map_chunks(
                    self.path, stored.shape, stored.dtype, chunk_shape, starts
                ).read
            if places["start"] is not None:
                with cache.open_file(self.path) as file:
                    mapped = map_array(
                        file, stored.dtype, stored.shape, "C", places["start"]
                    )
                return lambda selection: np.array(mapped[selection])
        return functools.partial(self._read, name)

    def _read(self, name: str, selection: Any) -> Array:
        with self._lock:
            return self._result(self._answer("read", name, selection))

    def read_texts(self, name: str) -> Array:
        """Return a data set of texts as an array of NumPy's text type, in its shape.

        Raises UserError for damaged texts, and for texts that take more than 200 times
        the size of the file.
        """
        with self._lock:
            return self._result(self._answer("texts", name, self._allowed_bytes))

    def _ask(self, request: str, *arguments: Any) -> dict[str, Any]:
        with self._lock:
            return self._answer(request, *arguments)

    def _answer(self, request: str, *arguments: Any) -> dict[str, Any]:
        """Return the answer to a request; the caller holds the lock."""
        child = self._child or self._started()
        # By the clock, the process may wait for a disk or for another process.
        seconds = 60 + 10 * self._seconds
        try:
            child.send_object((request, arguments), seconds)
            answer: dict[str, Any] = json.loads(child.receive(seconds))
        except (OSError, EOFError) as error:
            self._child = None
            child.close()
            problem = _end_reason(error, child.process.returncode, self._seconds)
            raise self._damaged(request, arguments, problem) from error
        if "refusal" in answer:
            raise UserError(answer["refusal"])
        if "failure" in answer:
            raise RuntimeError(answer["failure"])
        if "memory" in answer:
            problem = "its reader ran out of memory"
            raise self._damaged(request, arguments, problem)
        return answer

    def _damaged(
        self, request: str, arguments: tuple[Any, ...], problem: str
    ) -> UserError:
        where = f"{self.path}"
        if arguments:
            where += f", {shorten(arguments[0])}"
        logger.debug("%s: %s", where, problem)
        if request == "texts":
            return UserError(
                f"{where}: expected texts, found damaged or too long ones; fetch the"
                " file again"
            )
        return UserError(
            f"{where}: expected a whole HDF5 file, found it damaged ({problem}); fetch"
            " the file again"
        )

    def _started(self) -> ChildProcess:
        child = ChildProcess(
            f"{__name__}:_work",
            [self._results.fileno()],
            {"HDF5_PLUGIN_PRELOAD": "::"},  # no filter is loaded from a file
        )
        try:
            child.receive(START_SECONDS)
            num_bytes = BASE_BYTES + min(2 * self._allowed_bytes, free_memory())
            settings = (self.path, self._seconds, int(num_bytes))
            child.send_object(settings, START_SECONDS)
        except (OSError, EOFError) as error:
            child.close()
            raise RuntimeError(
                "the process that reads HDF5 files did not start: it ended with"
                f" {child.process.returncode}"
            ) from error
        self._child = child
        return child

    def _result(self, answer: dict[str, Any]) -> Array:
        """Return the array that the process has written to the file of results."""
        descriptor = self._results.fileno()
        array = np.empty(answer["shape"], np.dtype(answer["dtype"]))
        content = array.reshape(-1).view(np.uint8).data
        done = 0
        while done < len(content):
            num_bytes = os.preadv(descriptor, [content[done:]], done)
            if not num_bytes:
                raise RuntimeError(f"{done} bytes of {len(content)} were written")
            done += num_bytes
        os.ftruncate(descriptor, 0)
        return array


def _anonymous_file() -> Any:
    """Return a file without a name, in memory on Linux; it goes with its last user."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("orca-ray"), "r+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def _end_reason(error: Exception, returncode: int, seconds: int) -> str:
    """Return in words why the process did not answer."""
    is_late = isinstance(error, TimeoutError | BlockingIOError)
    if is_late or returncode == -signal.SIGXCPU:
        return f"its reader took more than {seconds} s"
    if returncode < 0:
        return f"its reader was ended by {signal.Signals(-returncode).name}"
    return f"its reader ended with {returncode}"


def _stored_array(fields: list[Any]) -> StoredArray:
    shape, dtype, is_text, description = fields
    return StoredArray(
        None if shape is None else tuple(shape), np.dtype(dtype), is_text, description
    )


def _work(connection_descriptor: int, results: int) -> None:
    """Answer requests until the connection ends. The process runs this function."""
    connection = accept(connection_descriptor)
    import h5py  # noqa: F401 - before memory is limited

    connection.send_bytes(b"started")
    path, seconds, num_bytes = connection.recv()
    limit_memory(num_bytes)
    while True:
        try:
            request, arguments = connection.recv()
        except (EOFError, OSError):
            return
        limit_cpu(seconds)
        answer: dict[str, Any]
        try:
            answer = _REQUESTS[request](path, *arguments)
            if "array_result" in answer:
                answer |= _written(answer.pop("array_result"), results)
        except UserError as error:
            answer = {"refusal": str(error)}
        except MemoryError:
            answer = {"memory": True}
        except Exception:
            answer = {"failure": traceback.format_exc()}
        connection.send_bytes(json.dumps(answer).encode())


def _written(array: Array, descriptor: int) -> dict[str, Any]:
    """Write an array to the file of results, and return its shape and type."""
    content = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    done = 0
    while done < len(content):
        done += os.pwrite(descriptor, content[done:], done)
    return {"shape": array.shape, "dtype": array.dtype.str}


def _list(path: Path) -> dict[str, Any]:
    with hdf5.open_hdf5(path, ()) as file:
        return {
            "arrays": [
                (name, *_description(dataset))
                for name, dataset in hdf5.datasets(path, file)
            ]
        }


def _describe(path: Path, name: str) -> dict[str, Any]:
    with hdf5.open_hdf5(path, (name,)) as file:
        return {"array": _description(file[name])}


def _description(item: Any) -> tuple[Any, ...]:
    """Return the fields of the `StoredArray` of a data set or group."""
    import h5py

    if not isinstance(item, h5py.Dataset):
        return None, "V1", False, repr(item)
    is_text = h5py.check_string_dtype(item.dtype) is not None
    return item.shape, item.dtype.str, is_text, repr(item)


def _check(path: Path, name: str) -> dict[str, Any]:
    with hdf5.open_hdf5(path, (name,)) as file:
        dataset = file[name]
        if dataset.dtype.hasobject:  # objects are neither inputs nor targets
            return {"start": None, "chunk_shape": None}
        hdf5.check_chunks(path, name, dataset)
        starts = hdf5.starts_of_chunks(dataset)
        if starts is not None:
            return {"chunk_shape": dataset.chunks, "array_result": starts}
        return {"start": hdf5.start_of_numbers(dataset), "chunk_shape": None}


def _read(path: Path, name: str, selection: Any) -> dict[str, Any]:
    with hdf5.open_hdf5(path, (name,)) as file:
        return {"array_result": np.asarray(file[name][selection])}


def _texts(path: Path, name: str, allowed_bytes: int) -> dict[str, Any]:
    return {"array_result": hdf5.decode_texts(path, name, allowed_bytes)}


_REQUESTS: Mapping[str, Callable[..., dict[str, Any]]] = {
    "list": _list,
    "describe": _describe,
    "check": _check,
    "read": _read,
    "texts": _texts,
}
"""Function of each request; it gets the path and the arguments of the request."""
