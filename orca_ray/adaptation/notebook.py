"""Progress in a notebook: one output below the running cell, whose text is replaced as
the work goes on.
"""

import sys
import time
from pkgutil import resolve_name

from orca_ray.results.record import lower
from orca_ray.sweep.run import events

SECONDS = 0.5
"""Least time between two replacements of a text."""


class CellOutput:
    """An output of the notebook's running cell."""

    def __init__(self) -> None:
        display = resolve_name(
            "IPython.display:display"
        )  # a notebook has IPython; an installation need not
        self._handle = display({"text/plain": ""}, raw=True, display_id=True)
        self._replaced = -SECONDS

    def show(self, text: str, *, last: bool = False) -> None:
        """Replace the text, unless that was done just now; the ``last`` text is always
        shown.
        """
        if last or time.monotonic() - self._replaced >= SECONDS:
            self._replaced = time.monotonic()
            self._handle.update({"text/plain": text}, raw=True)


def cell_output() -> CellOutput | None:
    """Return a new output of the running cell; None if this process is not the kernel
    of a notebook.
    """
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return CellOutput() if hasattr(shell, "kernel") else None


def notebook_progress(minutes: float) -> events.Listener | None:
    """Return a listener that shows the progress of an adaptation of ``minutes``; None
    outside of notebooks.
    """
    if (output := cell_output()) is None:
        return None
    started = time.monotonic()
    running = dict[str, str]()
    ended = dict[str, int]()
    best: dict[str, float | None] = {}
    output.show("adapt: reading and preparing data")

    def listen(event: events.Event) -> None:
        match event:
            case events.SweepStarted():
                ended.update({row.method: row.done for row in event.rows})
            case events.TrialProgress(key, _, method, at):
                running[key] = f"{method} {at.stage} {at.epoch}/{at.epochs}"
            case events.TrialFinished(record):
                running.pop(record.trial_key, None)
                ended[record.method] = ended.get(record.method, 0) + 1
                best[record.method] = lower(
                    best.get(record.method), record.validation_score
                )
            case events.SweepFinished():
                running.clear()
        scores = {
            name: (
                ""
                if (score := best.get(name)) is None
                else f", best validation {score:.4g}"
            )
            for name in ended
        }
        lines = [
            f"adapt: {time.monotonic() - started:.0f} s of {60 * minutes:.0f} s",
            *running.values(),
        ]
        lines = [
            ", ".join(lines),
            *(f"{name}: {count} trials{scores[name]}" for name, count in ended.items()),
        ]
        output.show("\n".join(lines), last=isinstance(event, events.SweepFinished))

    return listen
