"""Progress in a notebook: one output below the running cell.

The text of the output is replaced as the work goes on.
"""

import sys
import time
from pkgutil import resolve_name

from orca_ray.results.record import Record, lower
from orca_ray.sweep.run import events

SECONDS = 0.5
"""Least time between two replacements of a text."""


class CellOutput:
    """An output of the notebook's running cell."""

    def __init__(self) -> None:
        # A notebook has IPython; an installation need not.
        display = resolve_name("IPython.display:display")
        self._handle = display({"text/plain": ""}, raw=True, display_id=True)
        self._replaced = -SECONDS

    def show(self, text: str, *, last: bool = False) -> None:
        """Replace the text, unless it was replaced just now.

        The ``last`` text is always shown.
        """
        if last or time.monotonic() - self._replaced >= SECONDS:
            self._replaced = time.monotonic()
            self._handle.update({"text/plain": text}, raw=True)


def cell_output() -> CellOutput | None:
    """Return a new output of the running cell.

    None if this process is not the kernel of a notebook.
    """
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return CellOutput() if hasattr(shell, "kernel") else None


def notebook_progress(minutes: float) -> events.Listener | None:
    """Return a listener that shows the progress of an adaptation of ``minutes``.

    None outside of notebooks.
    """
    output = cell_output()
    if output is None:
        return None
    output.show("adapt: reading and preparing data")
    return NotebookProgress(output, minutes)


class NotebookProgress:
    """Listener that shows the progress of an adaptation in a cell."""

    def __init__(self, output: CellOutput, minutes: float) -> None:
        """Show the progress of an adaptation of ``minutes`` in ``output``."""
        self._output = output
        self._seconds = 60 * minutes
        self._started = time.monotonic()
        self._running = dict[str, str]()
        """Method, stage and epoch of each trial that runs, by trial key."""
        self._num_ended = dict[str, int]()
        """Number of ended trials, by method."""
        self._best: dict[str, float | None] = {}
        """Lowest validation score, by method."""

    def __call__(self, event: events.Event) -> None:
        """Update the progress by an event, and show it."""
        match event:
            case events.SweepStarted():
                self._num_ended.update({row.method: row.done for row in event.rows})
            case events.TrialProgress(key, _, method, point):
                stage = f"{point.stage} {point.epoch}/{point.epochs}"
                self._running[key] = f"{method} {stage}"
            case events.TrialFinished(record):
                self._finish(record)
            case events.SweepFinished():
                self._running.clear()
        is_last = isinstance(event, events.SweepFinished)
        self._output.show(self._text(), last=is_last)

    def _finish(self, record: Record) -> None:
        method = record.method
        self._running.pop(record.trial_key, None)
        self._num_ended[method] = self._num_ended.get(method, 0) + 1
        self._best[method] = lower(self._best.get(method), record.validation_score)

    def _text(self) -> str:
        """Return the progress as text: a line for the time, and one for each method."""
        seconds = time.monotonic() - self._started
        head = f"adapt: {seconds:.0f} s of {self._seconds:.0f} s"
        lines = [", ".join([head, *self._running.values()])]
        for method, count in self._num_ended.items():
            line = f"{method}: {count} trials"
            score = self._best.get(method)
            if score is not None:
                line += f", best validation {score:.4g}"
            lines.append(line)
        return "\n".join(lines)
