"""Processes that parse untrusted bytes, so that a parser can end or stop only them.

A parser in C can end the process that it runs in, never return, or keep the
interpreter's lock while it works. The process here has limits of memory and CPU time,
and its requests and answers have limits of time by the clock.
"""

import contextlib
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeAlias

AnyConnection: TypeAlias = "Connection[Any, Any]"


class ChildProcess:
    """A Python process that runs one function, and a connection to it.

    The process is killed when this object is closed or deleted, and ends by itself when
    the process that started it ends.
    """

    def __init__(
        self,
        function: str,
        descriptors: Sequence[int] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start the process, without waiting for it.

        ``function`` is "module:name"; it is called with the file descriptor of its end
        of the connection (see `accept`), and with ``descriptors``. ``environment`` is
        added to the variables of this process.
        """
        self._socket, theirs = socket.socketpair()
        variables = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            **(environment or {}),
        }
        with theirs:
            self.process = start(function, [theirs.fileno(), *descriptors], variables)
        self._connection: AnyConnection = Connection(os.dup(self._socket.fileno()))
        self.close = weakref.finalize(
            self, _end, self._socket, self._connection, self.process
        )
        """Function that ends the process and waits for its end."""

    def send(self, content: bytes, seconds: float) -> None:
        """Send a message; OSError if the process takes no byte for ``seconds``."""
        self._limit_sending(seconds)
        self._connection.send_bytes(content)

    def send_object(self, content: object, seconds: float) -> None:
        """Send an object as a pickle, which `accept`'s connection receives."""
        self._limit_sending(seconds)
        self._connection.send(content)

    def receive(self, seconds: float) -> bytes:
        """Return a message of the process.

        Raises TimeoutError if none comes within ``seconds``, and EOFError or OSError if
        the process has ended. Never unpickle the message: the process may be under the
        control of the bytes that it parses.
        """
        if not self._connection.poll(seconds):
            raise TimeoutError
        return self._connection.recv_bytes()

    def _limit_sending(self, seconds: float) -> None:
        # A process that is stopped takes no bytes, and the write would wait forever.
        micros = max(1, round(seconds * 1e6))  # 0 would be no limit
        limit = struct.pack("@ll", *divmod(micros, 10**6))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)


def start(
    function: str, descriptors: Sequence[int], environment: Mapping[str, str]
) -> "subprocess.Popen[bytes]":
    """Start a process that calls ``function`` ("module:name") with ``descriptors``."""
    module, _, name = function.partition(":")
    numbers = ", ".join(map(str, descriptors))
    return subprocess.Popen(
        [
            sys.executable,
            "-P",
            "-c",
            f"import {module} as module; module.{name}({numbers})",
        ],
        pass_fds=descriptors,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
    )


def _end(
    ours: socket.socket, connection: AnyConnection, process: "subprocess.Popen[bytes]"
) -> None:
    connection.close()
    ours.close()
    process.kill()
    process.wait()


def accept(file_descriptor: int) -> AnyConnection:
    """Return the connection to the parent process; called once, by the child process.

    Interrupts from the terminal are ignored, because the parent ends this process.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return Connection(file_descriptor)


def limit_memory(num_bytes: int) -> None:
    """Limit the memory that this process may take further, on Linux."""
    with contextlib.suppress(OSError, ValueError):  # a lower limit holds already
        num_pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = num_pages * resource.getpagesize() + num_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def limit_cpu(seconds: int) -> None:
    """End this process by SIGXCPU when it has taken ``seconds`` of further CPU time."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime) + 1 + seconds
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    with contextlib.suppress(OSError, ValueError):  # a lower limit holds already
        resource.setrlimit(resource.RLIMIT_CPU, (limit, hard))
