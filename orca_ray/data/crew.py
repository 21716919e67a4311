"""Threads that work through a list, while the thread that called them tells what they have to say."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

logger = logging.getLogger(__name__)

Progress = Callable[[str], None]
Item = TypeVar("Item")

GRACE_SECONDS = 2.0


class Stopped(Exception):
    """The work was called off."""


class Crew:
    """Workers on one list of items, and their way to the caller: `tell` from any thread, `stop` to be heeded by all."""

    def __init__(self, progress: Progress | None) -> None:
        """Take what is told the lines of progress, always in the thread that calls `each`."""
        self.stop = threading.Event()
        self._progress = progress
        self._told: queue.SimpleQueue[str | tuple[int, BaseException | None]] = queue.SimpleQueue()

    def tell(self, line: str) -> None:
        """Tell a line of progress."""
        logger.debug("%s", line)
        self._told.put(line)

    def each(
        self, items: Sequence[Item], work: Callable[[Item], None], workers: int
    ) -> list[tuple[Item, BaseException]]:
        """Do ``work`` on every item, whatever becomes of the others; return those that failed, in their order.

        An exception in the calling thread, as Ctrl-C is, sets `stop` and waits for the workers no longer than
        `GRACE_SECONDS`, in which they may put away what is unfinished.
        """
        waiting: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        num_threads = max(1, min(workers, len(items)))
        for job in (*range(len(items)), *[None] * num_threads):
            waiting.put(job)

        def do() -> None:
            while (index := waiting.get()) is not None and not self.stop.is_set():
                error: BaseException | None = None
                try:
                    work(items[index])
                except BaseException as caught:
                    error = caught
                self._told.put((index, error))

        # Daemons: Ctrl-C need not wait for a silent server, and whatever they do may stop at any time.
        threads = [threading.Thread(target=do, daemon=True) for _ in range(num_threads)]
        try:
            for thread in threads:
                thread.start()
            return [(items[index], error) for index, error in sorted(self._listen(len(items)).items())]
        finally:
            self.stop.set()
            end = time.monotonic() + GRACE_SECONDS
            for thread in filter(threading.Thread.is_alive, threads):
                thread.join(max(0.0, end - time.monotonic()))

    def _listen(self, num_items: int) -> dict[int, BaseException]:
        errors = {}
        while num_items:
            told = self._told.get()
            if isinstance(told, str):
                if self._progress:
                    self._progress(told)
                continue
            index, error = told
            num_items -= 1
            if error is not None:
                errors[index] = error
        return errors
