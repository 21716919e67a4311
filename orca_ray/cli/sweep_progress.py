"""Progress of a sweep: a live table on a terminal, else a line per finished trial."""

import json
import logging
import math
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from orca_ray.cli.output import console, duration, note, say, score, table
from orca_ray.errors import printable
from orca_ray.leaderboard.formats.table import brief_board
from orca_ray.results.record import lower
from orca_ray.sweep.run import events
from orca_ray.tasks.registry import BENCHMARK as OWN_DATA

if TYPE_CHECKING:
    from orca_ray.leaderboard import BoardReport
    from orca_ray.results.record import Record

logger = logging.getLogger(__name__)

_TRIAL_EVENTS = (events.TrialStarted, events.TrialProgress, events.TrialFinished)
"""Events after which a passing message is no longer shown."""

_OTHER_LINES = 7
"""Terminal lines reserved for heading, rule, totals and message, which may wrap."""

STORED_SECONDS = 2.5
"""Seconds from the end of a trial until its record is in the store."""
SECONDS_BETWEEN_BOARDS = 15.0
"""Seconds between two boards in a log."""
_BOARD_PERIODS = 20
"""Least time between two boards, in multiples of what the last board took to build."""


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
    """Stage and epoch of each running trial, by key; the latest report is last."""

    @property
    def stage(self) -> str:
        """Stage and epoch of the running trial that reported last.

        ``waiting`` or ``done`` if no trial runs.
        """
        if self.running:
            return next(reversed(self.running.values()))
        return "waiting" if self.done < self.planned else "done"


class Totals(NamedTuple):
    """Numbers of trials of a sweep."""

    ended: int
    planned: int
    running: int


class SweepState:
    """Progress of the whole sweep.

    One thread updates it by events and another thread draws it, both under ``lock``.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.lock = threading.RLock()
        self.rows: dict[tuple[str, str], RowState] = {}
        self.title = "starting Ray, preparing data and models"
        self.last_message = ""
        self._is_passing = False
        """Whether the last message disappears when a trial reports."""
        self.seconds_left: float | None = None
        """Remaining time that the driver estimates; None: no trial has completed."""
        self.clock = clock
        self.started = clock()

    def apply(self, event: events.Event) -> None:
        """Update the state by one event."""
        with self.lock:
            # News of a trial replace a message that is only for the moment.
            if self._is_passing and isinstance(event, _TRIAL_EVENTS):
                self.last_message = ""
                self._is_passing = False
            self._note_sweep(event)
            self._note_trial(event)

    def _note_sweep(self, event: events.Event) -> None:
        """Update the state if the event is about the sweep, not about one trial."""
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
            case events.TimeLeft():
                self.seconds_left = event.seconds
            case events.SweepFinished() if not event.summary.interrupted:
                self.seconds_left = 0.0
            case events.Message():
                self.last_message = printable(event.text)
                self._is_passing = event.passing

    def _note_trial(self, event: events.Event) -> None:
        """Update the state if the event is about one trial."""
        match event:
            case events.TrialStarted():
                running = self._row(event.task, event.method).running
                running[event.trial_key] = event.phase
            case events.TrialProgress():
                self._note_progress(event)
            case events.TrialWaits():
                running = self._row(event.task, event.method).running
                running.pop(event.trial_key, None)
            case events.TrialFinished():
                self._note_end(event.record, event.remaining)

    def _note_progress(self, event: events.TrialProgress) -> None:
        """Store the stage, the epoch and the validation score of a running trial."""
        row = self._row(event.task, event.method)
        progress = event.progress
        row.running.pop(event.trial_key, None)  # to insert it again at the end
        row.running[event.trial_key] = (
            f"{progress.stage} {progress.epoch}/{progress.epochs}"
        )
        row.best = lower(row.best, progress.validation_score)

    def _note_end(self, record: "Record", remaining: int) -> None:
        """Count an ended trial; ``remaining`` trials of its row are still to run."""
        row = self._row(record.task, record.method)
        row.running.pop(record.trial_key, None)
        # an open-ended search plans its trials as it goes
        row.planned = max(row.planned, row.done + 1 + remaining)
        # other suggestions of the same trial have ended with it
        row.done = row.planned - remaining
        if record.status.failed:
            row.failed += 1
        row.best = lower(row.best, record.validation_score)

    def totals(self) -> Totals:
        """Return the numbers of ended, planned and running trials of the sweep."""
        rows = self.rows.values()
        return Totals(
            ended=sum(row.done for row in rows),
            planned=sum(row.planned for row in rows),
            running=sum(len(row.running) for row in rows),
        )

    def _row(self, task: str, method: str) -> RowState:
        return self.rows.setdefault(
            (task, method), RowState(task, method, planned=0, done=0)
        )


def render(
    state: SweepState, height: int | None = None, *, count: bool = True
) -> RenderableType:
    """Return rows of (task, method), totals and the last message, in ``height`` lines.

    ``count`` says whether the number of rows that do not fit is shown.
    """
    with state.lock:
        max_rows = None if height is None else height - _OTHER_LINES
        rows = _fitting(list(state.rows.values()), max_rows)
        cells = [_cells(row) for row in rows]
        footer = _footer(state)
        num_hidden = len(state.rows) - len(rows)
        if num_hidden and count:
            footer += f" · {num_hidden} rows not shown"
        message = state.last_message
    headers = ("task", "method", "done", "run", "best val.", "stage")  # fits 80 columns
    parts = [table(headers, cells, right=("done", "run", "best val.")), Text(footer)]
    if message:
        parts.append(Text(message, style="dim"))
    return Group(*parts)


def _cells(row: RowState) -> tuple[object, ...]:
    """Return the cells of a row of the table."""
    task = row.task.partition("/")[2] or row.task
    done = f"{row.done}/{row.planned}"
    if row.failed:
        done += f" ({row.failed} failed)"
    num_running = len(row.running) or ""
    return task, row.method, done, num_running, score(row.best), row.stage


def _footer(state: SweepState) -> str:
    """Return the line with title, totals and times."""
    totals = state.totals()
    left = "?" if state.seconds_left is None else duration(state.seconds_left)
    return (
        f"{state.title} · {totals.ended}/{totals.planned} trials, {totals.running}"
        f" running · {duration(state.clock() - state.started)}, left {left}"
    )


def _fitting(rows: list[RowState], max_rows: int | None) -> list[RowState]:
    """Return at most ``max_rows`` of the rows, in their usual order.

    Rows with running trials are kept first, then rows with waiting trials.
    """
    if max_rows is None or len(rows) <= max_rows:
        return rows

    def urgency(index: int) -> tuple[bool, bool]:
        row = rows[index]
        return not row.running, row.done >= row.planned

    most_urgent = sorted(range(len(rows)), key=urgency)[: max(1, max_rows)]
    return [rows[index] for index in sorted(most_urgent)]


def _run_name(record: "Record") -> str:
    """Return which run of a configuration a trial is, e.g. ``confirm seed 1``.

    Trials of a user's own data train on the folds of the data, e.g. ``fold 2``.
    """
    if record.benchmark != OWN_DATA:
        return f"{record.phase} seed {record.seed}"
    from orca_ray.adaptation.configuration import FOLD

    fold = json.loads(record.hyperparameters).get(FOLD, 0)
    return f"fold {fold}" if fold else "validation part"


def trial_line(event: events.TrialFinished, state: SweepState) -> str:
    """Return one line about a finished trial, with the number of ended trials."""
    record = event.record
    totals = state.totals()
    facts = [f"validation {score(record.validation_score)}"]
    # The test part of own data is read once, for the report.
    if record.test_score is not None and record.benchmark != OWN_DATA:
        facts.append(f"test {score(record.test_score)}")
    facts.append(duration(record.wall_seconds))
    speed = record.samples_per_second
    if speed is not None:
        # From 1000 on, ".4g" might give an exponent.
        speed_text = f"{speed:.4g}" if speed < 1000 else f"{speed:.0f}"
        facts.append(f"{speed_text} samples/s")
    if record.align_reused:
        facts.append("alignment reused")
    line = (
        f"[{totals.ended}/{totals.planned}] {record.task} {record.method}"
        f" {_run_name(record)}: {record.status.value}, {', '.join(facts)}"
    )
    if record.notes:
        line += f" ({record.notes})"
    error_lines = (record.error or "").splitlines()
    if error_lines:
        line += f": {error_lines[0]}"
    return printable(line)


class SweepProgress:
    """Listener that prints the progress of a sweep, unless ``quiet``.

    With ``read_board``, boards are shown above the progress. Use the listener in a
    ``with`` block, whose end stops the live table.
    """

    def __init__(
        self, *, quiet: bool, read_board: "Callable[[], BoardReport] | None" = None
    ) -> None:
        self.state = SweepState()
        self.board: BoardReport | None = None
        """The last board that was read; None: none yet."""
        self._quiet = quiet
        self._read_board = read_board
        self._next_board_time = math.inf
        self._board_seconds = STORED_SECONDS
        """Seconds to wait after a trial before the board is built again."""
        self._live: Live | None = None

    def __enter__(self) -> Self:
        screen = console()
        can_draw = (
            screen.is_terminal and not screen.is_dumb_terminal and sys.stdout.isatty()
        )
        if can_draw and not self._quiet:
            self._live = Live(
                console=screen,
                get_renderable=lambda: self._picture(screen),
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
        """Update the state by one event, and print what is to be printed about it.

        Without a live table, these are a line about the event and new boards; with it,
        a line about each failed trial.
        """
        self.state.apply(event)
        if self._quiet:
            return
        has_new_board = self._read_board is not None and self._update_board(
            event, self._read_board
        )
        if self._live is None:
            self._print_line(event)
            if has_new_board:
                console().print(self._picture(console()))
        elif isinstance(event, events.TrialFinished) and event.record.status.failed:
            self._live.console.print(trial_line(event, self.state), markup=False)

    def _print_line(self, event: events.Event) -> None:
        """Print a line about an event that a reader of the log needs."""
        match event:
            case events.SweepStarted():
                totals = self.state.totals()
                say(
                    f"{event.sweep}: {totals.planned} trials, {totals.ended} already"
                    f" done; running on {event.where}"
                )
            case events.TrialFinished():
                say(trial_line(event, self.state))
            case events.Message():
                note(event.text)
                self.state.last_message = ""  # so that a board does not repeat it

    def _update_board(
        self, event: events.Event, read_board: "Callable[[], BoardReport]"
    ) -> bool:
        """Build the board again if a trial has ended and enough time has passed.

        Return whether there is a new board.
        """
        now = time.monotonic()
        # The next time is infinite as long as no trial has ended since the last board.
        if isinstance(event, events.TrialFinished) and math.isinf(
            self._next_board_time
        ):
            in_log = self.board is not None and self._live is None
            wait = SECONDS_BETWEEN_BOARDS if in_log else self._board_seconds
            self._next_board_time = now + wait
        if now < self._next_board_time and not isinstance(event, events.SweepFinished):
            return False
        self._next_board_time = math.inf
        try:
            self.board = read_board()
        # no record is stored yet, or the store cannot be read now: the sweep goes on
        except Exception:
            logger.debug("no board", exc_info=True)
        seconds = time.monotonic() - now
        self._board_seconds = max(STORED_SECONDS, _BOARD_PERIODS * seconds)
        return self.board is not None

    def _picture(self, screen: Console) -> RenderableType:
        """Return what is drawn on a screen: the progress, below the board if any."""
        if self.board is None:
            return render(self.state, screen.height)
        # The progress gets a line for each running trial, the board the other lines.
        num_lines = _OTHER_LINES + max(1, self.state.totals().running)
        max_rows = sys.maxsize
        if self._live is not None:
            max_rows = max(1, screen.height - num_lines - _OTHER_LINES)
        return Group(
            "",
            *brief_board(self.board, screen.width, max_rows),
            "",
            render(self.state, num_lines, count=False),
        )
