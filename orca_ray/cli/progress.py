"""Progress of a sweep: a live table on a terminal, a line a finished trial elsewhere."""

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Self

from orca_ray.cli.output import console, duration, note, score, table
from orca_ray.sweep.execution import events

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live


_OTHER_LINES = 7
"""Lines of a terminal that the table's rows leave free: heading and rule, totals and message, each perhaps folded."""


@dataclass
class StudyState:
    """What is known of one (task, method)."""

    task: str
    method: str
    body: str
    planned: int
    done: int
    failed: int = 0
    best: float | None = None
    running: dict[str, str] = field(default_factory=dict)
    """Trial key to a few words about where the trial is."""
    seconds: list[float] = field(default_factory=list)
    """Wall seconds of the trials that ended while we watched."""

    @property
    def remaining(self) -> int:
        """Trials still to end."""
        return max(0, self.planned - self.done)

    @property
    def stage(self) -> str:
        """Where the row is: a running trial's stage, or waiting, or done."""
        if self.running:
            return next(reversed(self.running.values()))
        return "waiting" if self.remaining else "done"


class SweepState:
    """The sweep as its events tell it; thread-safe, for the terminal redraws from a thread of its own."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.lock = threading.RLock()
        self.studies: dict[tuple[str, str], StudyState] = {}
        self.sweep = ""
        self.executor = ""
        self.where = ""
        self.last_message = ""
        self._clock = clock
        self._started = clock()

    def apply(self, event: events.Event) -> None:
        """Take in one event."""
        with self.lock:
            match event:
                case events.SweepStarted():
                    self._start(event)
                case events.TrialStarted():
                    self._row(event.task, event.method).running[event.trial_key] = event.phase
                case events.TrialProgress():
                    self._progress(event)
                case events.TrialFinished():
                    self._finish(event)
                case events.Message():
                    self.last_message = event.text
                case _:
                    pass

    def elapsed(self) -> float:
        """Return seconds since the sweep started."""
        return self._clock() - self._started

    def totals(self) -> tuple[int, int, int, int]:
        """Return (done, planned, running, failed) over all rows."""
        rows = self.studies.values()
        return (
            sum(row.done for row in rows),
            sum(row.planned for row in rows),
            sum(len(row.running) for row in rows),
            sum(row.failed for row in rows),
        )

    def seconds_left(self, row: StudyState | None = None) -> float | None:
        """Estimate the seconds until ``row`` (or everything) is done; None until a trial has ended.

        A row's trials cost the mean of its finished ones, or of all finished ones before its first. All running
        trials are taken to share the machine as they do now.
        """
        everything = [value for study in self.studies.values() for value in study.seconds]
        if not everything:
            return None
        mean = sum(everything) / len(everything)
        rows = [row] if row is not None else list(self.studies.values())
        work = sum(s.remaining * (sum(s.seconds) / len(s.seconds) if s.seconds else mean) for s in rows)
        return work / max(1, sum(len(s.running) for s in rows))

    def _start(self, event: events.SweepStarted) -> None:
        self.sweep, self.executor, self.where = event.sweep, event.executor, event.where
        self._started = self._clock()
        for row in event.rows:
            self.studies[row.task, row.method] = StudyState(
                row.task, row.method, row.body, planned=row.planned, done=row.finished
            )

    def _row(self, task: str, method: str) -> StudyState:
        return self.studies.setdefault((task, method), StudyState(task, method, "", planned=0, done=0))

    def _progress(self, event: events.TrialProgress) -> None:
        row = self._row(event.task, event.method)
        row.running.pop(event.trial_key, None)  # the latest to speak goes last, and is the one shown
        row.running[event.trial_key] = f"{event.stage} {event.epoch}/{event.epochs}"
        _keep_best(row, event.validation_score)

    def _finish(self, event: events.TrialFinished) -> None:
        record = event.record
        row = self._row(record.task, record.method)
        row.running.pop(record.trial_key, None)
        row.done += 1
        row.planned = row.done + event.remaining
        row.failed += record.status.failed
        row.seconds.append(record.wall_seconds)
        _keep_best(row, record.validation_score)


def _keep_best(row: StudyState, value: float | None) -> None:
    if value is not None and value == value and (row.best is None or value < row.best):
        row.best = value


def render(state: SweepState, height: int | None = None) -> "RenderableType":
    """Draw the state as a table with a line of totals, on ``height`` lines at most (None: as many as it takes)."""
    from rich.console import Group
    from rich.text import Text

    with state.lock:
        shown = _fitting(list(state.studies.values()), None if height is None else height - _OTHER_LINES)
        rows = [
            (
                row.task.partition("/")[2] or row.task,
                row.method,
                f"{row.done}/{row.planned}" + (f" ({row.failed} failed)" if row.failed else ""),
                len(row.running) or "",
                score(row.best),
                row.stage,
                "" if not row.remaining else _left(state.seconds_left(row)),
            )
            for row in shown
        ]
        hidden = len(state.studies) - len(shown)
        done, planned, running, _ = state.totals()
        footer = (
            f"{state.sweep} · {state.executor} on {state.where} · {done}/{planned} trials, {running} running · "
            f"{duration(state.elapsed())}, left {_left(state.seconds_left())}"
            + (f" · {hidden} rows not shown" if hidden else "")
        )
        message = state.last_message
    headers = ("task", "method", "done", "run", "best val.", "stage", "left")  # fits 80 columns
    body = table(headers, rows, right=("done", "run", "best val.", "left"))
    return Group(body, Text(footer), *([Text(message, style="dim")] if message else []))


def _fitting(rows: list[StudyState], room: int | None) -> list[StudyState]:
    """Return the rows to show, in their order; where not all fit, those that run before those that wait or are done."""
    if room is None or len(rows) <= room:
        return rows
    urgent = sorted(range(len(rows)), key=lambda index: (not rows[index].running, not rows[index].remaining))
    return [rows[index] for index in sorted(urgent[: max(1, room)])]


def _left(seconds: float | None) -> str:
    return "?" if seconds is None else duration(seconds)


def trial_line(event: events.TrialFinished, state: SweepState) -> str:
    """Word one finished trial for a log."""
    record = event.record
    done, planned, _, _ = state.totals()
    scores = f"validation {score(record.validation_score)}"
    if record.test_score is not None:
        scores += f", test {score(record.test_score)}"
    facts = [scores, duration(record.wall_seconds)]
    if record.samples_per_second is not None:
        facts.append(f"{record.samples_per_second:.4g} samples/s")
    if record.align_reused:
        facts.append("alignment reused")
    ending = "".join(f": {line}" for line in (record.error or "").splitlines()[:1])
    notes = f" ({record.notes})" if record.notes else ""
    return (
        f"[{done}/{planned}] {record.task} {record.method} {record.phase} seed {record.seed}: {record.status.value}, "
        f"{', '.join(facts)}{notes}{ending}"
    )


class Progress:
    """Listener of a sweep that prints; use as a context manager so that the terminal is left clean."""

    def __init__(self, *, quiet: bool) -> None:
        self.state = SweepState()
        self._quiet = quiet
        self._live: Live | None = None

    def __enter__(self) -> Self:
        screen = console()
        if not self._quiet and screen.is_terminal and sys.stdout.isatty():
            from rich.live import Live

            self._live = Live(
                console=screen, get_renderable=lambda: render(self.state, screen.height), refresh_per_second=2
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, event: events.Event) -> None:
        """Take in one event, and print a line for it where no live table stands."""
        self.state.apply(event)
        if self._quiet:
            return
        if isinstance(event, events.TrialFinished) and event.record.status.failed and self._live is not None:
            self._live.console.print(trial_line(event, self.state), markup=False)
        if self._live is not None:
            return
        if isinstance(event, events.SweepStarted):
            done, planned, _, _ = self.state.totals()
            print(
                f"{event.sweep}: {planned} trials, {done} already done; {event.executor} on {event.where}", flush=True
            )
        elif isinstance(event, events.TrialFinished):
            print(trial_line(event, self.state), flush=True)
        elif isinstance(event, events.Message):
            note(event.text)
