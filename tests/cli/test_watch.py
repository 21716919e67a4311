"""A running sweep: commands that watch and steer it, and the live table.

The commands are ``status``, ``logs``, ``stop``, ``pause``, ``retry``, ``cancel``.
"""

import io
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orca_ray.cli.sweep_progress import SweepProgress, SweepState, render, trial_line
from orca_ray.methods.reports import EpochProgress
from orca_ray.results.live import Row
from orca_ray.results.record import Status
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.run import events
from tests.cli.conftest import Command
from tests.results.factories import Clock, make_record
from tests.sweep.slow_sweep import start_slow_sweep

SWEEP = "fake/full"


class Sweep:
    """Processes that run a slow sweep of 24 trials in one store.

    Commands ask for its state.
    """

    def __init__(self, store: Path, command: Command) -> None:
        self.store = store
        self._command = command
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, seconds: float) -> "subprocess.Popen[str]":
        """Start a driver whose epochs take some seconds."""
        self.processes.append(start_slow_sweep(self.store, seconds))
        return self.processes[-1]

    def ask(self, *arguments: str) -> str:
        ending = self._command(*arguments, "--results", str(self.store))
        assert ending.code == 0
        assert ending.err == ""
        return ending.out

    def until(self, condition: Callable[[Any], bool]) -> Any:
        """Return the state of the sweep as soon as it fulfils a condition."""
        deadline = time.monotonic() + 100
        while time.monotonic() < deadline:
            ending = self._command(
                "status", "fake", "--json", "--results", str(self.store)
            )
            # 2: no store, or no such sweep, yet
            assert ending.code in (0, 2), ending.err
            if ending.code == 0:
                state = ending.json
                if condition(state):
                    return state
            time.sleep(0.05)
        raise AssertionError(ending.out + ending.err)

    def running_key(self) -> str:
        state = self.until(lambda state: bool(state["running"]))
        return str(state["running"][0]["key"])


@pytest.fixture
def sweep(tmp_path: Path, command: Command) -> Iterator[Sweep]:
    started = Sweep(tmp_path / "results", command)
    yield started
    for process in started.processes:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_sweep_is_watched_paused_stopped_killed_and_continued(sweep: Sweep) -> None:
    (sweep.store.parent / "mended").touch()
    first = sweep.start(0.2)
    state = sweep.until(
        lambda state: state["running"] and state["running"][0]["epoch"] >= 2
    )
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
    sweep.until(lambda state: state["state"] == "paused" and not state["running"])
    sweep.ask("pause", "fake", "--off")
    log = sweep.ask("logs", sweep.running_key()[:12], "--follow")
    assert log.count("\n") == 6
    assert "epoch 6 of seed" in log
    assert "asked process" in sweep.ask("stop", "fake")
    assert first.wait(timeout=60) == 130
    assert 0 < sweep.until(lambda state: state["state"] == "stopped")["done"] < 24
    third = sweep.start(0.2)
    sweep.until(lambda state: state["state"] == "running" and state["running"])
    third.kill()
    third.wait()
    dead = sweep.until(lambda state: state["state"] == "dead")
    assert dead["holder"]["pid"] == third.pid
    assert "no driver runs: the last one was killed" in sweep.ask("status", "fake")
    assert sweep.start(0.0).wait(timeout=60) == 0
    assert sweep.until(lambda state: state["state"] == "finished")["done"] == 24
    assert "finished; no driver runs" in sweep.ask("status", SWEEP)


@pytest.mark.slow
def test_a_trial_is_cancelled_and_failed_ones_are_retried(
    sweep: Sweep, command: Command
) -> None:
    process = sweep.start(0.05)
    key = sweep.running_key()
    cancelled = command("cancel", key[:10], "--results", str(sweep.store))
    if cancelled.code == 0:  # else the trial ended first
        sweep.until(
            lambda state: all(trial["key"] != key for trial in state["running"])
        )
    process.wait(timeout=120)
    records = ResultsStore(sweep.store).load(SWEEP)
    assert cancelled.code == 2 or records[key].status in (
        Status.CANCELLED,
        Status.COMPLETED,
    )
    failed = [
        record for record in records.values() if record.status is Status.FAILED_USER
    ]
    log = sweep.ask("logs", failed[0].trial_key)
    assert "Traceback (most recent call last):" in log
    assert "UserError: the data are spoilt" in log
    num_failed = sum(record.status.failed for record in records.values())
    message = f"{num_failed} failed trials will run again (no driver runs"
    assert message in sweep.ask("retry", SWEEP)
    state = sweep.until(lambda state: state["state"] == "finished")
    assert state["failures"]["failed_user"] == len(failed)
    (sweep.store.parent / "mended").touch()
    assert sweep.start(0.0).wait(timeout=60) == 0
    assert not sweep.until(lambda state: state["state"] == "finished")["failures"]


@pytest.mark.parametrize("options", [[], ["--watch"]])
def test_only_watch_clears_the_terminal(
    options: list[str], command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    ResultsStore("results", create=True).append([make_record()])
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert ("\x1b[2J" in command("status", "pocket/quick", *options).out) == bool(
        options
    )


def started(clock: Clock) -> SweepState:
    state = SweepState(clock)
    rows = (
        Row(task="pocket/digits", method="orca", planned=4, done=1),
        Row(task="pocket/wdbc", method="nft", planned=2, done=2),
    )
    state.apply(events.SweepStarted("pocket/quick", "one node", rows))
    return state


def finish(state: SweepState, key: str, remaining: int, **changes: Any) -> None:
    record = make_record(key, task="pocket/digits", method="orca", **changes)
    state.apply(events.TrialFinished(record, remaining))


def progress(
    key: str, task: str, method: str, report: EpochProgress
) -> events.TrialProgress:
    return events.TrialProgress(key, f"pocket/{task}", method, report)


REFINE = EpochProgress(
    stage="refine", epoch=2, epochs=5, validation_score=0.31, loss=1.0
)


def lines_of(
    state: SweepState, width: int = 160, height: int | None = None
) -> list[str]:
    screen = Console(file=io.StringIO(), width=width)
    screen.print(render(state, height))
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue().splitlines()


def test_a_low_terminal_shows_what_runs_and_the_totals() -> None:
    state = SweepState(Clock())
    tasks = ("burgers16", "japanese_vowels", "digits", "wdbc", "osuleaf", "mnist")
    methods = ("orca", "nft", "scratch", "fpt", "linear_probe")
    rows = tuple(
        Row(task=f"pocket/{task}", method=method, planned=7, done=3)
        for task in tasks
        for method in methods
    )
    state.apply(events.SweepStarted("pocket/full", "one node", rows))
    state.apply(events.TrialStarted("a", "pocket/mnist", "linear_probe", "search"))
    state.apply(progress("a", "mnist", "linear_probe", REFINE))
    lines = lines_of(state, width=80, height=24)
    assert len(lines) <= 24
    assert any(
        line.split()[:2] == ["mnist", "linear_probe"] and "refine 2/5" in line
        for line in lines
    )
    assert "90/210 trials, 1 running" in lines[-2]
    assert "13 rows not shown" in " ".join(" ".join(lines[-2:]).split())
    assert "\n".join(lines_of(state)).count("nft") == len(tasks)


def test_counts_best_scores_and_the_table_follow_the_events() -> None:
    clock = Clock()
    state = started(clock)
    row = state.rows["pocket/digits", "orca"]
    assert state.totals() == (3, 6, 0)
    for key in ("a", "b"):
        state.apply(events.TrialStarted(key, "pocket/digits", "orca", "search"))
    state.apply(progress("a", "digits", "orca", REFINE))
    align = EpochProgress(stage="align", epoch=1, epochs=9, distance=3.0)
    state.apply(progress("b", "digits", "orca", align))
    assert state.totals() == (3, 6, 2)
    assert row.best == 0.31
    assert row.stage == "align 1/9"
    finish(state, "b", 2, validation_score=0.2, wall_seconds=10.0)
    assert row.best == 0.2
    assert row.stage == "refine 2/5"
    assert row.done == 2
    assert row.planned == 4
    state.apply(events.Message("fetched [mnist]"))
    clock.now += 65
    lines = lines_of(state)
    [digits] = [line.split() for line in lines if "digits" in line]
    assert {"orca", "2/4", "0.2000", "refine", "2/5"} <= set(digits)
    assert any("4/6 trials, 1 running · 1 min 05 s, left ?" in line for line in lines)
    assert any("fetched [mnist]" in line for line in lines)
    state.apply(events.Message("vm: preparing data of pocket/mnist", passing=True))
    state.apply(progress("a", "digits", "orca", REFINE))
    assert "preparing" not in lines_of(state)[-1]
    state.apply(events.TrialWaits("a", "pocket/digits", "orca"))
    assert state.totals() == (4, 6, 0)
    assert row.stage == "waiting"
    finish(
        state, "a", 0, status=Status.FAILED_NAN, validation_score=None, test_score=None
    )
    assert row.best == 0.2
    assert row.failed == 1
    assert row.done == 4
    assert row.planned == 4
    assert row.stage == "done"
    assert any("4/4 (1 failed)" in line for line in lines_of(state))
    assert state.rows["pocket/wdbc", "nft"].stage == "done"


def test_the_time_left_is_that_of_the_driver() -> None:
    state = started(Clock())
    assert "left ?" in lines_of(state)[-1]
    state.apply(events.TimeLeft(65.0))
    assert "left 1 min 05 s" in lines_of(state)[-1]
    summary = events.Summary(
        "pocket/quick",
        planned=6,
        finished_before=3,
        ran=2,
        statuses={},
        interrupted=True,
    )
    state.apply(events.SweepFinished(summary))
    assert "left 1 min 05 s" in lines_of(state)[-1]
    state.apply(events.SweepFinished(replace(summary, ran=3, interrupted=False)))
    assert "left 0.0 s" in lines_of(state)[-1]


def test_the_line_of_a_trial_tells_its_speed_and_what_it_did_not_do_itself() -> None:
    state = started(Clock())
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
        listener(progress("a", "digits", "orca", REFINE))
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
