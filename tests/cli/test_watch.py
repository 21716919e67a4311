"""A running sweep: commands that watch and steer it, and the live table.

The commands are ``status``, ``logs``, ``stop``, ``pause``, ``limit``, ``retry`` and
``cancel``.
"""

import io
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orca_ray.cli.sweep_progress import (
    RowState,
    SweepProgress,
    SweepState,
    render,
    trial_line,
)
from orca_ray.methods.reports import EpochProgress
from orca_ray.results.live import Row
from orca_ray.results.record import Status
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.run import events
from tests.cli.conftest import Command
from tests.results.factories import Clock, make_record
from tests.sweep.slow_sweep import start_slow_sweep

SWEEP = "fake/full"


class WatchedSweep:
    """Drivers that run a slow sweep of 24 trials in one store, and its commands."""

    def __init__(self, store: Path, command: Command) -> None:
        self.store = store
        self._command = command
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, seconds: float) -> "subprocess.Popen[str]":
        """Start a driver whose epochs take some seconds."""
        self.processes.append(start_slow_sweep(self.store, seconds))
        return self.processes[-1]

    def ask(self, *arguments: str) -> str:
        """Return what a command prints, which must succeed."""
        ending = self._command(*arguments, "--results", str(self.store))
        assert ending.code == 0
        assert ending.err == ""
        return ending.out

    def wait_until(self, condition: Callable[[Any], bool]) -> Any:
        """Return the state of the sweep as soon as it fulfils a condition."""
        while True:
            state = self._read_state()
            if state is not None and condition(state):
                return state
            time.sleep(0.05)

    def wait_for(self, name: str) -> Any:
        """Return the state of the sweep as soon as it has this name."""
        return self.wait_until(lambda state: state["state"] == name)

    def _read_state(self) -> Any:
        """Return the state of the sweep, or None before there is one."""
        ending = self._command("status", "fake", "--json", "--results", str(self.store))
        if ending.code == 0:
            return ending.json
        assert ending.code == 2, ending.err
        return None

    def wait_for_trial(self) -> str:
        """Return the key of the trial that runs, as soon as there is one."""
        state = self.wait_until(lambda state: bool(state["running"]))
        [trial] = state["running"]
        return str(trial["key"])


@pytest.fixture
def sweep(tmp_path: Path, command: Command) -> Iterator[WatchedSweep]:
    started = WatchedSweep(tmp_path / "results", command)
    yield started
    for process in started.processes:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_sweep_is_watched_paused_stopped_killed_and_continued(
    sweep: WatchedSweep,
) -> None:
    (sweep.store.parent / "mended").touch()
    first = sweep.start(0.2)

    def runs_second_epoch(state: Any) -> bool:
        return any(trial["epoch"] >= 2 for trial in state["running"])

    state = sweep.wait_until(runs_second_epoch)
    assert state["state"] == "running"
    assert state["holder"]["pid"] == first.pid
    assert state["planned"] == 24
    assert state["nodes"] == {"here": 1}
    assert state["running"][0]["best"] is not None
    assert f"running: process {first.pid} on " in sweep.ask("status", SWEEP)
    second = sweep.start(0.2)
    _, error = second.communicate(timeout=60)
    message = f"another driver runs fake/full in this store (process {first.pid} on "
    assert message in error
    assert second.returncode == 2
    sweep.ask("pause", "fake")
    sweep.wait_until(lambda state: state["state"] == "paused" and not state["running"])
    sweep.ask("pause", "fake", "--off")
    log = sweep.ask("logs", sweep.wait_for_trial()[:12], "--follow")
    assert log.count("\n") == 6
    assert "epoch 6 of seed" in log
    assert "asked process" in sweep.ask("stop", "fake")
    assert first.wait(timeout=60) == 130
    stopped = sweep.wait_for("stopped")
    assert 0 < stopped["done"] < 24
    third = sweep.start(0.2)
    sweep.wait_until(lambda state: state["state"] == "running" and state["running"])
    third.kill()
    third.wait()
    dead = sweep.wait_for("dead")
    assert dead["holder"]["pid"] == third.pid
    assert "no driver runs: the last one was killed" in sweep.ask("status", "fake")
    assert sweep.start(0.0).wait(timeout=60) == 0
    assert sweep.wait_for("finished")["done"] == 24
    assert "finished; no driver runs" in sweep.ask("status", SWEEP)


def test_limits_of_a_running_sweep_change_and_all_sweeps_are_listed(
    sweep: WatchedSweep, command: Command
) -> None:
    driver = sweep.start(0.2)
    sweep.wait_until(lambda state: bool(state["running"]))
    said = sweep.ask("limit", "fake", "--max-trials", "1", "--priority", "2")
    assert "to change its limits" in said
    state = sweep.wait_until(lambda state: state["limits"]["priority"] == 2)
    assert state["limits"] == {"max_trials": 1, "max_gpus": None, "priority": 2}
    assert "max-trials 1, priority 2" in sweep.ask("status", "fake")
    store = str(sweep.store)
    (line,) = command("status", "--all", "--json", "--results", store).json
    assert line["sweep"] == SWEEP
    assert line["state"] == "running"
    assert line["owner"].endswith(f"@{platform.node()}")
    assert line["planned"] == 24
    assert line["priority"] == 2
    driver.kill()
    driver.wait()
    (line,) = command("status", "-a", "--json", "--results", store).json
    assert line["state"] == "dead"
    assert line["owner"] == ""
    table = sweep.ask("status", "--all")
    assert SWEEP in table
    assert "core h" in table


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("status",), "give a SWEEP, or --all"),
        (("status", "fake", "--all"), "give a SWEEP, or --all"),
        (("limit", "fake"), "give --max-trials, --max-gpus or --priority"),
        (("limit", "fake", "--max-gpus", "inf"), "no number of GPUs"),
        (("limit", "fake", "--max-trials", "0"), "--max-trials"),
        (("limit", "fake", "--max-trials", "2"), "no driver runs"),
    ],
)
def test_commands_about_sweeps_say_what_they_need(
    tmp_path: Path, command: Command, arguments: tuple[str, ...], message: str
) -> None:
    store = ResultsStore(tmp_path / "results", create=True)
    store.append([make_record("a", sweep=SWEEP)])
    ending = command(*arguments, "--results", store.uri)
    assert ending.code == 2
    assert message in " ".join(ending.err.split())


@pytest.mark.slow
def test_a_trial_is_cancelled_and_failed_ones_are_retried(
    sweep: WatchedSweep, command: Command
) -> None:
    process = sweep.start(0.05)
    key = sweep.wait_for_trial()
    cancelled = command("cancel", key[:10], "--results", str(sweep.store))
    if cancelled.code == 0:  # else the trial ended first
        sweep.wait_until(
            lambda state: all(trial["key"] != key for trial in state["running"])
        )
    process.wait(timeout=120)
    records = ResultsStore(sweep.store).load(SWEEP)
    if cancelled.code != 2:
        assert records[key].status in (Status.CANCELLED, Status.COMPLETED)
    failed = [
        record for record in records.values() if record.status is Status.FAILED_USER
    ]
    log = sweep.ask("logs", failed[0].trial_key)
    assert "Traceback (most recent call last):" in log
    assert "UserError: the data are spoilt" in log
    num_failed = sum(record.status.failed for record in records.values())
    message = f"{num_failed} failed trials will run again (no driver runs"
    assert message in sweep.ask("retry", SWEEP)
    state = sweep.wait_for("finished")
    assert state["failures"]["failed_user"] == len(failed)
    (sweep.store.parent / "mended").touch()
    assert sweep.start(0.0).wait(timeout=60) == 0
    assert not sweep.wait_for("finished")["failures"]


@pytest.mark.parametrize("options", [[], ["--watch"]])
def test_only_watch_clears_the_terminal(
    options: list[str], command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    ResultsStore("results", create=True).append([make_record()])
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    is_cleared = "\x1b[2J" in command("status", "pocket/quick", *options).out
    assert is_cleared == (options == ["--watch"])


def start_sweep(clock: Clock) -> SweepState:
    """Return the state of a sweep of two tasks that has started."""
    state = SweepState(clock)
    rows = (
        Row(task="pocket/digits", method="orca", planned=4, done=1),
        Row(task="pocket/wdbc", method="nft", planned=2, done=2),
    )
    state.apply(events.SweepStarted("pocket/quick", "one node", rows))
    return state


def finish_trial(state: SweepState, key: str, remaining: int, **changes: Any) -> None:
    """Let a trial end; ``remaining`` trials of its row are left."""
    record = make_record(key, task="pocket/digits", method="orca", **changes)
    state.apply(events.TrialFinished(record, remaining))


def make_progress(
    key: str, task: str, method: str, report: EpochProgress
) -> events.TrialProgress:
    return events.TrialProgress(key, f"pocket/{task}", method, report)


REFINE = EpochProgress(
    stage="refine", epoch=2, epochs=5, validation_score=0.31, loss=1.0
)


def render_lines(
    state: SweepState, width: int = 160, height: int | None = None
) -> list[str]:
    screen = Console(file=io.StringIO(), width=width)
    screen.print(render(state, height))
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue().splitlines()


def start_large_sweep() -> SweepState:
    """Return the state of a sweep of 30 rows, one of which runs."""
    state = SweepState(Clock())
    tasks = ("burgers16", "japanese_vowels", "digits", "wdbc", "osuleaf", "mnist")
    methods = ("orca", "nft", "scratch", "fpt", "linear_probe")
    rows = tuple(
        Row(task=f"pocket/{task}", method=method, planned=7, done=3)
        for task, method in product(tasks, methods)
    )
    state.apply(events.SweepStarted("pocket/full", "one node", rows))
    state.apply(events.TrialStarted("a", "pocket/mnist", "linear_probe", "search"))
    state.apply(make_progress("a", "mnist", "linear_probe", REFINE))
    return state


def test_a_low_terminal_shows_what_runs_and_the_totals() -> None:
    lines = render_lines(start_large_sweep(), width=80, height=24)
    assert len(lines) <= 24
    [running] = [line for line in lines if "refine 2/5" in line]
    assert running.split()[:2] == ["mnist", "linear_probe"]
    assert "90/210 trials, 1 running" in lines[-2]
    words_of_totals = " ".join(lines[-2:]).split()
    assert "13 rows not shown" in " ".join(words_of_totals)


def test_without_a_limit_all_rows_are_shown() -> None:
    lines = render_lines(start_large_sweep())
    assert "\n".join(lines).count("nft") == 6


@dataclass
class TwoTrials:
    """A sweep in which the trials a and b of one row run."""

    clock: Clock
    state: SweepState

    @property
    def row(self) -> RowState:
        return self.state.rows["pocket/digits", "orca"]


@pytest.fixture
def two_trials() -> TwoTrials:
    clock = Clock()
    state = start_sweep(clock)
    assert state.totals() == (3, 6, 0)
    for key in ("a", "b"):
        state.apply(events.TrialStarted(key, "pocket/digits", "orca", "search"))
    state.apply(make_progress("a", "digits", "orca", REFINE))
    align = EpochProgress(stage="align", epoch=1, epochs=9, distance=3.0)
    state.apply(make_progress("b", "digits", "orca", align))
    return TwoTrials(clock, state)


def test_a_row_shows_the_latest_stage_and_the_best_score(two_trials: TwoTrials) -> None:
    row = two_trials.row
    assert two_trials.state.totals() == (3, 6, 2)
    assert row.best == 0.31
    assert row.stage == "align 1/9"
    finish_trial(two_trials.state, "b", 2, validation_score=0.2, wall_seconds=10.0)
    assert row.best == 0.2
    assert row.stage == "refine 2/5"
    assert row.done == 2
    assert row.planned == 4


def test_a_row_shows_the_trial_that_reported_last(two_trials: TwoTrials) -> None:
    """The trial ``a`` reports again, after ``b``."""
    two_trials.state.apply(make_progress("a", "digits", "orca", REFINE))
    assert two_trials.row.stage == "refine 2/5"


def test_the_table_shows_rows_totals_and_messages(two_trials: TwoTrials) -> None:
    state = two_trials.state
    finish_trial(state, "b", 2, validation_score=0.2, wall_seconds=10.0)
    state.apply(events.Message("fetched [mnist]"))
    two_trials.clock.now += 65
    lines = render_lines(state)
    [digits] = [line.split() for line in lines if "digits" in line]
    assert {"orca", "2/4", "0.2000", "refine", "2/5"} <= set(digits)
    assert any("4/6 trials, 1 running · 1 min 05 s, left ?" in line for line in lines)
    assert any("fetched [mnist]" in line for line in lines)


def test_a_passing_message_goes_with_the_next_event(two_trials: TwoTrials) -> None:
    state = two_trials.state
    state.apply(events.Message("vm: preparing data of pocket/mnist", passing=True))
    assert "preparing" in render_lines(state)[-1]
    state.apply(make_progress("a", "digits", "orca", REFINE))
    assert "preparing" not in render_lines(state)[-1]


def test_a_row_shows_that_its_trial_waits_and_fails(two_trials: TwoTrials) -> None:
    state = two_trials.state
    row = two_trials.row
    finish_trial(state, "b", 2, validation_score=0.2)
    state.apply(events.TrialWaits("a", "pocket/digits", "orca"))
    assert state.totals() == (4, 6, 0)
    assert row.stage == "waiting"
    failure: dict[str, Any] = {"status": Status.FAILED_NAN, "validation_score": None}
    finish_trial(state, "a", 0, test_score=None, **failure)
    assert row.best == 0.2
    assert row.failed == 1
    assert row.done == 4
    assert row.planned == 4
    assert row.stage == "done"
    assert any("4/4 (1 failed)" in line for line in render_lines(state))
    assert state.rows["pocket/wdbc", "nft"].stage == "done"


def test_the_time_left_is_that_of_the_driver() -> None:
    state = start_sweep(Clock())
    assert "left ?" in render_lines(state)[-1]
    state.apply(events.TimeLeft(65.0))
    assert "left 1 min 05 s" in render_lines(state)[-1]
    summary = events.Summary(
        "pocket/quick",
        planned=6,
        finished_before=3,
        ran=2,
        statuses={},
        interrupted=True,
    )
    state.apply(events.SweepFinished(summary))
    assert "left 1 min 05 s" in render_lines(state)[-1]
    state.apply(events.SweepFinished(replace(summary, ran=3, interrupted=False)))
    assert "left 0.0 s" in render_lines(state)[-1]


def test_the_line_of_a_trial_has_its_speed_its_notes_and_a_reused_alignment() -> None:
    state = start_sweep(Clock())
    record = make_record(
        "a",
        samples_per_second=123.456,
        align_reused=True,
        notes="a class was left out",
        epochs=3,
    )
    assert trial_line(events.TrialFinished(record, 0), state).endswith(
        "completed, validation 0.2500, test 0.5000, 1 min 00 s, 123.5 samples/s,"
        " alignment reused (a class was left out)"
    )


def test_the_line_of_a_trial_on_own_data_has_its_fold_and_no_test_score() -> None:
    own = make_record("a", benchmark="own", hyperparameters='{"data.fold": 2}')
    line = trial_line(events.TrialFinished(own, 0), start_sweep(Clock()))
    assert f"{own.method} fold 2: completed, validation 0.2500, 1 min" in line


def test_without_a_terminal_each_finished_trial_is_a_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = (Row(task="pocket/digits", method="orca", planned=1, done=0),)
    failed = make_record(
        "a",
        status=Status.FAILED_OOM,
        validation_score=None,
        test_score=None,
        error="out\nof memory",
    )
    with SweepProgress(quiet=False) as listener:
        listener(events.SweepStarted("pocket/quick", "one node", rows))
        listener(make_progress("a", "digits", "orca", REFINE))
        listener(events.TrialFinished(failed, 0))
        listener(events.Message("retrying"))
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        "pocket/quick: 1 trials, 0 already done; running on one node",
        (
            "[1/1] pocket/digits orca confirm seed 0: failed_oom, validation –, 1 min"
            " 00 s: out"
        ),
    ]
    assert captured.err == "retrying\n"
