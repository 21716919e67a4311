"""Decoding of requests in a process of its own, with limits of memory and time.

A parser in C keeps the interpreter's lock until it is done, so a request that takes it
long would stop every thread of the server. Here it stops only the next requests. What a
request may unfold to is bounded by `orca_ray.serving.reading`; the limits of this
process hold for what those bounds miss.
"""

import json
import logging
import os
import traceback
from typing import Any, NamedTuple

import numpy as np

from orca_ray.data.child_process import ChildProcess, accept, limit_memory
from orca_ray.data.rows import Array
from orca_ray.errors import UserError
from orca_ray.methods.model_config import TaskSummary
from orca_ray.own_data.infer_task import Preprocessing

START_SECONDS = 120.0
"""Seconds within which the process imports what it needs."""
DECODE_SECONDS = 10.0
"""Largest number of seconds for a request; 16 MiB of JSON take one or two."""
LEAST_MEMORY = 2**30
"""Bytes of memory that the process may take in addition to `BODY_FACTOR` bodies."""
BODY_FACTOR = 16
"""Bytes of memory for each byte of the largest body."""

logger = logging.getLogger(__name__)


class ModelForm(NamedTuple):
    """The facts about a model with which requests for it are decoded."""

    task: TaskSummary
    preprocessing: Preprocessing | None
    most_samples: int


class DecodingProcess:
    """Process that decodes one request after the other. It is not thread-safe.

    It is started anew after a request that ended it, or took too long.
    """

    def __init__(self, form: ModelForm, body_bytes: int, seconds: float) -> None:
        """Start the process, without waiting for it.

        Bodies have at most ``body_bytes``. Decoding takes at most ``seconds``, or
        `DECODE_SECONDS` if that is less.
        """
        self._form = form
        self._num_bytes = LEAST_MEMORY + BODY_FACTOR * body_bytes
        self._seconds = min(seconds, DECODE_SECONDS)
        self._started = False
        """Whether the process has said that it is ready."""
        self._start()

    def read(self, media: str, body: bytes) -> tuple[Array, list[str]]:
        """Return the samples in a request and warnings; see `RequestReader.read`.

        Raises UserError for invalid samples, and if the process ends or takes too long.
        """
        try:
            self.wait()
            self._child.send(media.encode(), self._seconds)
            self._child.send(body, self._seconds)
            answer = json.loads(self._child.receive(self._seconds))
            content = self._child.receive(self._seconds)
        except (OSError, EOFError) as error:
            self.close()
            logger.warning(
                "decoding a request ended with %s (%s); the process is started anew",
                self._child.process.returncode,
                type(error).__name__,
            )
            self._start()
            raise UserError(
                "the request takes too much memory or time to decode; send fewer"
                " samples in one request"
            ) from error
        if "failure" in answer:
            raise RuntimeError(answer["failure"])
        if "refusal" in answer:
            raise UserError(answer["refusal"])
        samples = np.frombuffer(content, np.float32)
        return samples.reshape(-1, *self._form.task.input_shape), answer["warnings"]

    def wait(self) -> None:
        """Wait until the process can decode; EOFError or OSError if it has ended."""
        if not self._started:
            self._child.receive(START_SECONDS)
            self._started = True

    def close(self) -> None:
        """End the process."""
        self._child.close()

    def _start(self) -> None:
        self._child = ChildProcess(
            f"{__name__}:_work",
            # other allocators reserve more address space than the limit leaves
            environment={"ARROW_DEFAULT_MEMORY_POOL": "system"},
        )
        self._started = False
        # The process receives it only after its imports.
        self._child.send_object((self._form, self._num_bytes), START_SECONDS)


def _work(file_descriptor: int) -> None:
    """Answer requests until the connection ends. The process runs this function."""
    connection = accept(file_descriptor)
    from orca_ray.serving.reading import RequestReader

    form, num_bytes = connection.recv()
    reader = RequestReader(*form)
    limit_memory(num_bytes)
    connection.send_bytes(b"started")
    while True:
        try:
            media = connection.recv_bytes().decode()
            body = connection.recv_bytes()
        except (EOFError, OSError):
            return
        answer: dict[str, Any]
        samples = np.empty(0, np.float32)
        try:
            samples, warnings = reader.read(media, body)
            answer = {"warnings": warnings}
        except UserError as error:
            answer = {"refusal": str(error)}
        except MemoryError:
            os._exit(1)  # the server starts another process
        except Exception:
            answer = {"failure": traceback.format_exc()}
        connection.send_bytes(json.dumps(answer).encode())
        connection.send_bytes(np.ascontiguousarray(samples).data.cast("B"))
