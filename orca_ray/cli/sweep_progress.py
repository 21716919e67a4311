"""Shows the progress of a sweep: a live table if the output is a terminal, else one
line per finished trial.
"""

import logging
import math
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from orca_ray.cli.output import console, duration, note, say, score, table
from orca_ray.errors import printable
from orca_ray.leaderboard.formats.table import brief
from orca_ray.results.record import lower
from orca_ray.sweep.run import events

if TYPE_CHECKING:
    from orca_ray.leaderboard import BoardReport

logger = logging.getLogger(__name__)

_OTHER_LINES = 7
"""Terminal lines reserved for other things than table rows: heading, rule, totals and
message, if they are wrapped.
"""

STORED_SECONDS = 2.5
SECONDS_BETWEEN_BOARDS = 15.0
_SHARE_OF_BOARDS = 20
"""Seconds until the record of an ended trial is in the store, and between two boards in
a log; between two boards, at least so many times what the last one took.
"""


@dataclass
class RowState:
    """Progress of one (task, method): one row of the table."""

    task: str
    method: str
    planned: int
    done: int
    failed: int = 0
    best: float | None = None
    """Lowest validation score so far; None before the first."""
    running: dict[str, str] = field(default_factory=dict)
    """Stage and epoch of each running trial, by trial key; the trial with the latest
    report is last.
    """

    @property
    def stage(self) -> str:
        """Stage and epoch of the running trial that reported last; ``waiting`` or
        ``done`` if no trial runs.
        """
        if self.running:
            return next(reversed(self.running.values()))
        return "waiting" if self.done < self.planned else "done"


class SweepState:
    """Progress of the whole sweep.

    One thread updates it by events and another thread draws it, both under ``lock``.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.lock = threading.RLock()
        self.rows: dict[tuple[str, str], RowState] = {}
        self.title = "starting Ray, preparing data and models"
        self.last_message = ""
        self._passing = False
        self.seconds_left: float | None = None
        """Remaining time that the driver estimates; None before a trial has completed.
        """
        self.clock = clock
        self.started = clock()

    def apply(self, event: events.Event) -> None:
        """Update the state by one event."""
        with self.lock:
            if self._passing and isinstance(
                event, events.TrialStarted | events.TrialProgress | events.TrialFinished
            ):
                self.last_message = ""
                self._passing = False
            match event:
                case events.SweepStarted():
                    self.title = f"{event.sweep} · {event.where}"
                    self.started = self.clock()
                    for row in event.rows:
                        self.rows[row.task, row.method] = RowState(
                            row.task, row.method, row.planned, row.done
                        )
                case events.TaskStaged():
                    for row in event.rows:
                        self._row(row.task, row.method).done = row.done
                case events.TrialStarted():
                    self._row(event.task, event.method).running[event.trial_key] = (
                        event.phase
                    )
                case events.TrialProgress():
                    state = self._row(event.task, event.method)
                    state.running.pop(
                        event.trial_key, None
                    )  # to insert it again at the end
                    progress = event.progress
                    state.running[event.trial_key] = (
                        f"{progress.stage} {progress.epoch}/{progress.epochs}"
                    )
                    state.best = lower(state.best, progress.validation_score)
                case events.TrialWaits():
                    self._row(event.task, event.method).running.pop(
                        event.trial_key, None
                    )
                case events.TrialFinished(record, remaining):
                    state = self._row(record.task, record.method)
                    state.running.pop(record.trial_key, None)
                    state.planned = max(
                        state.planned, state.done + 1 + remaining
                    )  # a race plans as it goes
                    state.done = (
                        state.planned - remaining
                    )  # suggestions that repeat this trial have ended, too
                    state.failed += record.status.failed
                    state.best = lower(state.best, record.validation_score)
                case events.TimeLeft():
                    self.seconds_left = event.seconds
                case events.SweepFinished() if not event.summary.interrupted:
                    self.seconds_left = 0.0
                case events.Message():
                    self.last_message = printable(event.text)
                    self._passing = event.passing

    def totals(self) -> tuple[int, int, int]:
        """Return the numbers of ended, planned and running trials of the sweep."""
        rows = self.rows.values()
        return (
            sum(row.done for row in rows),
            sum(row.planned for row in rows),
            sum(len(row.running) for row in rows),
        )

    def _row(self, task: str, method: str) -> RowState:
        return self.rows.setdefault(
            (task, method), RowState(task, method, planned=0, done=0)
        )


def render(
    state: SweepState, height: int | None = None, *, count: bool = True
) -> RenderableType:
    """Return rows of (task, method), totals and the last message, in ``height`` lines;
    ``count`` rows not shown.
    """
    with state.lock:
        shown = _fitting(
            list(state.rows.values()), None if height is None else height - _OTHER_LINES
        )
        rows = []
        for row in shown:
            done = f"{row.done}/{row.planned}" + (
                f" ({row.failed} failed)" if row.failed else ""
            )
            task = row.task.partition("/")[2] or row.task
            rows.append(
                (
                    task,
                    row.method,
                    done,
                    len(row.running) or "",
                    score(row.best),
                    row.stage,
                )
            )
        hidden = len(state.rows) - len(shown)
        ended, planned, running = state.totals()
        left = "?" if state.seconds_left is None else duration(state.seconds_left)
        footer = (
            f"{state.title} · {ended}/{planned} trials, {running} running · "
            f"{duration(state.clock() - state.started)}, left {left}"
            + (f" · {hidden} rows not shown" if hidden and count else "")
        )
        message = state.last_message
    headers = ("task", "method", "done", "run", "best val.", "stage")  # fits 80 columns
    body = table(headers, rows, right=("done", "run", "best val."))
    return Group(body, Text(footer), *([Text(message, style="dim")] if message else []))


def _fitting(rows: list[RowState], room: int | None) -> list[RowState]:
    """Return at most ``room`` rows: those with running trials, then those with waiting
    ones, in their usual order.
    """
    if room is None or len(rows) <= room:
        return rows
    urgent = sorted(
        range(len(rows)),
        key=lambda index: (
            not rows[index].running,
            rows[index].done >= rows[index].planned,
        ),
    )
    return [rows[index] for index in sorted(urgent[: max(1, room)])]


def trial_line(event: events.TrialFinished, state: SweepState) -> str:
    """Return one line about a finished trial, with the number of ended trials in
    ``state``.
    """
    record = event.record
    done, planned, _ = state.totals()
    facts = [f"validation {score(record.validation_score)}"]
    if record.test_score is not None:
        facts.append(f"test {score(record.test_score)}")
    facts.append(duration(record.wall_seconds))
    if (speed := record.samples_per_second) is not None:
        facts.append(
            f"{speed:.4g} samples/s" if speed < 1000 else f"{speed:.0f} samples/s"
        )
    if record.align_reused:
        facts.append("alignment reused")
    ending = "".join(f": {line}" for line in (record.error or "").splitlines()[:1])
    notes = f" ({record.notes})" if record.notes else ""
    return printable(
        f"[{done}/{planned}] {record.task} {record.method} {record.phase} seed"
        f" {record.seed}: {record.status.value}, {', '.join(facts)}{notes}{ending}"
    )


class SweepProgress:
    """Listener that prints progress, unless ``quiet``, below ``read_board()``; its
    block ends the live table.
    """

    def __init__(
        self, *, quiet: bool, read_board: "Callable[[], BoardReport] | None" = None
    ) -> None:
        self.state = SweepState()
        self._quiet = quiet
        self._read_board = read_board
        self._due = math.inf
        self._between = STORED_SECONDS
        self.board: BoardReport | None = None
        """The last board that was read; None: none yet."""
        self._live: Live | None = None

    def __enter__(self) -> Self:
        screen = console()
        if (
            not self._quiet
            and screen.is_terminal
            and not screen.is_dumb_terminal
            and sys.stdout.isatty()
        ):
            self._live = Live(
                console=screen,
                get_renderable=lambda: self._drawn(screen),
                refresh_per_second=2,
            )
            self._live.start()
        elif self._read_board is not None:
            note(f"{self.state.title}: some ten seconds until the first trial")
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, event: events.Event) -> None:
        """Update the state by one event; print a line about it, unless the live table
        shows it.
        """
        self.state.apply(event)
        if self._quiet:
            return
        drawn = self._read_board is not None and self._new_board(
            event, self._read_board
        )
        if self._live is not None:
            if isinstance(event, events.TrialFinished) and event.record.status.failed:
                self._live.console.print(trial_line(event, self.state), markup=False)
        elif isinstance(event, events.SweepStarted):
            done, planned, _ = self.state.totals()
            say(
                f"{event.sweep}: {planned} trials, {done} already done; running on"
                f" {event.where}"
            )
        elif isinstance(event, events.TrialFinished):
            say(trial_line(event, self.state))
        elif isinstance(event, events.Message):
            note(event.text)
            self.state.last_message = ""  # a board below it does not say it again
        if drawn and self._live is None:
            console().print(self._drawn(console()))

    def _new_board(
        self, event: events.Event, read_board: "Callable[[], BoardReport]"
    ) -> bool:
        """Build the board again if a trial has ended and it is time; return whether
        there is a new one.
        """
        now = time.monotonic()
        if isinstance(event, events.TrialFinished) and math.isinf(self._due):
            self._due = now + (
                SECONDS_BETWEEN_BOARDS
                if self.board and not self._live
                else self._between
            )
        if now < self._due and not isinstance(event, events.SweepFinished):
            return False
        self._due = math.inf
        try:
            self.board = read_board()
        except Exception:  # no record is stored yet, or the store cannot be read now: the sweep goes on
            logger.debug("no board", exc_info=True)
        self._between = max(STORED_SECONDS, _SHARE_OF_BOARDS * (time.monotonic() - now))
        return self.board is not None

    def _drawn(self, screen: Console) -> RenderableType:
        if self.board is None:
            return render(self.state, screen.height)
        lines = _OTHER_LINES + max(1, self.state.totals()[2])
        most = (
            max(1, screen.height - lines - _OTHER_LINES) if self._live else sys.maxsize
        )
        return Group(
            "",
            *brief(self.board, screen.width, most),
            "",
            render(self.state, lines, count=False),
        )
