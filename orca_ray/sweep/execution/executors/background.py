"""Work in a thread that the main thread waits for, and can abandon."""

import threading
from collections.abc import Callable


class Background:
    """Runs a function in a daemon thread, and raises its exception in the thread that waits for it."""

    def __init__(self, work: Callable[[], None]) -> None:
        """Store the function; :meth:`wait` starts it."""
        self._work = work
        self._ended = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="work", daemon=True)

    def wait(self, interrupt: Callable[[], None]) -> None:
        """Run the function and wait for its end; its exception, or that given to :meth:`abandon`, is raised here.

        The first Ctrl-C calls ``interrupt``, which should make the function end; the second one raises
        KeyboardInterrupt.
        """
        self._thread.start()
        interrupted = False
        while not self._ended.is_set():
            try:
                self._ended.wait(0.5)  # with a timeout, so that Python handles signals
            except KeyboardInterrupt:
                if interrupted:
                    raise
                interrupted = True
                interrupt()
        if self._error is not None:
            raise self._error

    def abandon(self, error: Exception) -> None:
        """Make :meth:`wait` raise ``error`` now, although the function may never return."""
        self._error = error
        self._ended.set()

    def ends(self, seconds: float) -> bool:
        """Wait at most ``seconds`` seconds for the function's end, and return whether it has ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self._error = self._error or error
        self._ended.set()
