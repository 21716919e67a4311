"""The live table's state: counts, best scores and the time left."""

import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from orca_ray.cli.sweep_progress import SweepProgress, SweepState, render, trial_line
from orca_ray.methods.reports import EpochProgress
from orca_ray.results.live import Row
from orca_ray.results.record import Status
from orca_ray.sweep.run import events
from tests.results.factories import Clock, make_record


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


def progress(key: str, task: str, method: str, epoch: int, epochs: int, score: float) -> events.TrialProgress:
    """Return the report of an epoch of refining."""
    report = EpochProgress(stage="refine", epoch=epoch, epochs=epochs, validation_score=score, loss=1.0)
    return events.TrialProgress(key, f"pocket/{task}", method, report)


def text(state: SweepState) -> str:
    screen = Console(file=io.StringIO(), width=160)
    screen.print(render(state))
    output = screen.file
    assert isinstance(output, io.StringIO)
    return output.getvalue()


def test_a_low_terminal_shows_what_runs_and_the_totals() -> None:
    state = SweepState(Clock())
    tasks = ("burgers16", "japanese_vowels", "digits", "wdbc", "osuleaf", "mnist")
    methods = ("orca", "nft", "scratch", "fpt", "linear_probe")
    rows = tuple(Row(task=f"pocket/{t}", method=m, planned=7, done=3) for t in tasks for m in methods)
    state.apply(events.SweepStarted("pocket/full", "one node", rows))
    state.apply(events.TrialStarted("a", "pocket/mnist", "linear_probe", "search"))
    state.apply(progress("a", "mnist", "linear_probe", 12, 12, 0.1234))
    screen = Console(file=io.StringIO(), width=80)
    screen.print(render(state, 24))
    assert isinstance(screen.file, io.StringIO)
    lines = screen.file.getvalue().splitlines()
    assert len(lines) <= 24
    assert any(line.split()[:2] == ["mnist", "linear_probe"] and "refine 12/12" in line for line in lines)
    assert "90/210 trials, 1 running" in lines[-2]
    assert "13 rows not shown" in " ".join(" ".join(lines[-2:]).split())
    assert text(state).count("nft") == len(tasks)


def test_counts_and_best_follow_the_events() -> None:
    state = started(Clock())
    assert state.totals() == (3, 6, 0)
    state.apply(events.TrialStarted("a", "pocket/digits", "orca", "search"))
    state.apply(events.TrialStarted("b", "pocket/digits", "orca", "search"))
    state.apply(progress("a", "digits", "orca", 2, 5, 0.31))
    state.apply(
        events.TrialProgress(
            "b", "pocket/digits", "orca", EpochProgress(stage="align", epoch=1, epochs=9, distance=3.0)
        )
    )
    row = state.rows["pocket/digits", "orca"]
    assert state.totals() == (3, 6, 2)
    assert (row.best, row.stage) == (0.31, "align 1/9")
    finish(state, "b", 2, validation_score=0.2, wall_seconds=10.0)
    assert (row.best, row.stage, row.done, row.remaining) == (0.2, "refine 2/5", 2, 2)
    state.apply(events.TrialWaits("a", "pocket/digits", "orca"))
    assert (state.totals(), row.stage) == ((4, 6, 0), "waiting")
    finish(state, "a", 1, status=Status.FAILED_NAN, validation_score=None, test_score=None)
    assert (row.best, row.failed, row.stage) == (0.2, 1, "waiting")
    assert state.rows["pocket/wdbc", "nft"].stage == "done"


def test_the_plan_follows_what_the_sweep_says_remains() -> None:
    state = started(Clock())
    finish(state, "a", 0)
    row = state.rows["pocket/digits", "orca"]
    assert (row.done, row.planned, row.remaining) == (2, 2, 0)


def test_the_time_left_is_that_of_the_driver() -> None:
    state = started(Clock())
    assert "left ?" in text(state)
    state.apply(events.TimeLeft(65.0))
    assert "left 1 min 05 s" in text(state)
    summary = events.Summary("pocket/quick", planned=6, finished_before=3, ran=2, statuses={}, interrupted=True)
    state.apply(events.SweepFinished(summary))
    assert "left 1 min 05 s" in text(state)
    state.apply(events.SweepFinished(replace(summary, ran=3, interrupted=False)))
    assert "left 0.0 s" in text(state)


def test_the_table_shows_each_row_and_the_totals() -> None:
    clock = Clock()
    state = started(clock)
    state.apply(events.TrialStarted("a", "pocket/digits", "orca", "search"))
    state.apply(progress("a", "digits", "orca", 2, 5, 0.31))
    state.apply(events.Message("fetched [mnist]"))
    clock.now += 65
    shown = text(state)
    digits = next(line for line in shown.splitlines() if "digits" in line)
    assert "orca" in digits
    assert "1/4" in digits
    assert "0.3100" in digits
    assert "refine 2/5" in digits
    assert "3/6 trials, 1 running · 1 min 05 s, left ?" in shown
    assert "fetched [mnist]" in shown


def test_failures_are_counted_in_the_row() -> None:
    state = started(Clock())
    finish(state, "a", 2, status=Status.LOST, validation_score=None, test_score=None)
    assert "2/4 (1 failed)" in text(state)


def test_the_line_of_a_trial_tells_its_speed_and_what_it_did_not_do_itself() -> None:
    state = started(Clock())
    record = make_record("a", samples_per_second=123.456, align_reused=True, notes="a class was left out", epochs=3)
    assert trial_line(events.TrialFinished(record, 0), state).endswith(
        "completed, validation 0.2500, test 0.5000, 1 min 00 s, 123.5 samples/s, alignment reused "
        "(a class was left out)"
    )


def test_without_a_terminal_each_finished_trial_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    rows = (Row(task="pocket/digits", method="orca", planned=1, done=0),)
    failed = make_record("a", status=Status.FAILED_OOM, validation_score=None, test_score=None, error="out\nof memory")
    with SweepProgress(quiet=False) as listener:
        listener(events.SweepStarted("pocket/quick", "one node", rows))
        listener(progress("a", "digits", "orca", 1, 5, 0.3))
        listener(events.TrialFinished(failed, 0))
        listener(events.Message("retrying"))
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        "pocket/quick: 1 trials, 0 already done; running on one node",
        "[1/1] pocket/digits orca confirm seed 0: failed_oom, validation –, 1 min 00 s: out",
    ]
    assert captured.err == "retrying\n"


def test_a_terminal_gets_a_live_table(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, width=120)
    monkeypatch.setattr("orca_ray.cli.sweep_progress.console", lambda: screen)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    rows = (Row(task="pocket/digits", method="orca", planned=1, done=0),)
    with SweepProgress(quiet=False) as listener:
        listener(events.SweepStarted("pocket/quick", "one node", rows))
        listener(events.TrialFinished(make_record("a"), 0))
    output = screen.file
    assert isinstance(output, io.StringIO)
    assert "digits" in output.getvalue()
    assert "1/1" in output.getvalue()
