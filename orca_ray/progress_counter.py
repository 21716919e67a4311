"""Counts what the process has computed so far, so that a watcher can distinguish a slow trial from one that hangs."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_beats = 0


def beat() -> None:
    """Note that the process has made progress, e.g. by a batch; costs well under a microsecond."""
    global _beats
    _beats += 1


@contextmanager
def beating(seconds: float = 5.0) -> Iterator[None]:
    """Context manager for work that cannot call :func:`beat`, but ends by itself: downloads, which have time-outs."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(seconds):
            beat()

    threading.Thread(target=run, name="beating", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def beats() -> int:
    """Return the number of calls of :func:`beat` in this process."""
    return _beats
