"""Thread pool that reports progress in the calling thread, and does not delay the end of the process.

``concurrent.futures`` joins its threads when the interpreter exits. After Ctrl-C, the process would wait until the
connection to a silent server times out (a minute). The threads of this pool are daemons, which are not joined.
"""

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

from orca_ray.data.packages import SayText

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

GRACE_SECONDS = 2.0
"""Seconds that worker threads get to clean up after an interruption."""


class Stopped(Exception):
    """Raised in a worker thread that ends early because `ThreadPool.stop` is set."""


class ThreadPool:
    """Runs a function on each item of a list in threads; it may call `report`, and must end soon if `stop` is set."""

    def __init__(self, progress: SayText | None) -> None:
        """Store ``progress``, which receives the progress lines; it is only called in the thread that calls `map`."""
        self.stop = threading.Event()
        self._progress = progress
        self._messages: queue.SimpleQueue[str | tuple[int, BaseException | None]] = queue.SimpleQueue()

    def report(self, line: str) -> None:
        """Pass a line of progress from any thread to the thread that calls `map`."""
        logger.debug("%s", line)
        self._messages.put(line)

    def map(self, items: Sequence[Item], work: Callable[[Item], None], workers: int) -> list[BaseException]:
        """Call ``work`` on every item in ``workers`` threads; return its exceptions in the order of the items.

        After an exception in the calling thread (e.g. Ctrl-C), `stop` is set, and the exception is raised once all
        threads have ended or `GRACE_SECONDS` have passed.
        """
        waiting = deque(enumerate(items))

        def run() -> None:
            while not self.stop.is_set():
                try:
                    index, item = waiting.popleft()
                except IndexError:
                    return
                error: BaseException | None = None
                try:
                    work(item)
                except BaseException as caught:
                    error = caught
                self._messages.put((index, error))

        threads = [threading.Thread(target=run, daemon=True) for _ in range(max(1, min(workers, len(items))))]
        try:
            for thread in threads:
                thread.start()
            failures: dict[int, BaseException] = {}
            num_running = len(items)
            while num_running:
                message = self._messages.get()
                if not isinstance(message, str):
                    num_running -= 1
                    failures |= {} if message[1] is None else {message[0]: message[1]}
                elif self._progress:
                    self._progress(message)
            return [failures[index] for index in sorted(failures)]
        finally:
            self.stop.set()
            end = time.monotonic() + GRACE_SECONDS
            for thread in filter(threading.Thread.is_alive, threads):
                thread.join(max(0.0, end - time.monotonic()))
