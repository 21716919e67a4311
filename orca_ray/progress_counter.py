"""Counts steps of progress in this process, so that a watcher can distinguish a slow trial from one that hangs."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_count = 0


def note_progress() -> None:
    """Count one step of progress, e.g. a batch; costs well under a microsecond."""
    global _count
    _count += 1


@contextmanager
def noting_progress(seconds: float = 5.0) -> Iterator[None]:
    """Context manager for work that cannot call `note_progress`, but ends by itself, such as a download."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(seconds):
            note_progress()

    threading.Thread(target=run, name="noting progress", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def progress_count() -> int:
    """Return the number of calls of `note_progress` in this process."""
    return _count
