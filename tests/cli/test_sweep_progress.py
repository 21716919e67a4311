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


def progress(key: str, task: str, method: str, report: EpochProgress) -> events.TrialProgress:
    return events.TrialProgress(key, f"pocket/{task}", method, report)


REFINE = EpochProgress(stage="refine", epoch=2, epochs=5, validation_score=0.31, loss=1.0)


def lines_of(state: SweepState, width: int = 160, height: int | None = None) -> list[str]:
    screen = Console(file=io.StringIO(), width=width)
    screen.print(render(state, height))
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue().splitlines()


def test_a_low_terminal_shows_what_runs_and_the_totals() -> None:
    state = SweepState(Clock())
    tasks = ("burgers16", "japanese_vowels", "digits", "wdbc", "osuleaf", "mnist")
    methods = ("orca", "nft", "scratch", "fpt", "linear_probe")
    rows = tuple(Row(task=f"pocket/{t}", method=m, planned=7, done=3) for t in tasks for m in methods)
    state.apply(events.SweepStarted("pocket/full", "one node", rows))
    state.apply(events.TrialStarted("a", "pocket/mnist", "linear_probe", "search"))
    state.apply(progress("a", "mnist", "linear_probe", REFINE))
    lines = lines_of(state, width=80, height=24)
    assert len(lines) <= 24
    assert any(line.split()[:2] == ["mnist", "linear_probe"] and "refine 2/5" in line for line in lines)
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
    state.apply(progress("b", "digits", "orca", EpochProgress(stage="align", epoch=1, epochs=9, distance=3.0)))
    assert (state.totals(), row.best, row.stage) == ((3, 6, 2), 0.31, "align 1/9")
    finish(state, "b", 2, validation_score=0.2, wall_seconds=10.0)
    assert (row.best, row.stage, row.done, row.remaining) == (0.2, "refine 2/5", 2, 2)
    state.apply(events.Message("fetched [mnist]"))
    clock.now += 65
    lines = lines_of(state)
    [digits] = [line.split() for line in lines if "digits" in line]
    assert {"orca", "2/4", "0.2000", "refine", "2/5"} <= set(digits)
    assert any("4/6 trials, 1 running · 1 min 05 s, left ?" in line for line in lines)
    assert any("fetched [mnist]" in line for line in lines)
    state.apply(events.TrialWaits("a", "pocket/digits", "orca"))
    assert (state.totals(), row.stage) == ((4, 6, 0), "waiting")
    finish(state, "a", 0, status=Status.FAILED_NAN, validation_score=None, test_score=None)
    assert (row.best, row.failed, row.done, row.planned, row.stage) == (0.2, 1, 3, 3, "done")
    assert any("3/3 (1 failed)" in line for line in lines_of(state))
    assert state.rows["pocket/wdbc", "nft"].stage == "done"


def test_the_time_left_is_that_of_the_driver() -> None:
    state = started(Clock())
    assert "left ?" in lines_of(state)[-1]
    state.apply(events.TimeLeft(65.0))
    assert "left 1 min 05 s" in lines_of(state)[-1]
    summary = events.Summary("pocket/quick", planned=6, finished_before=3, ran=2, statuses={}, interrupted=True)
    state.apply(events.SweepFinished(summary))
    assert "left 1 min 05 s" in lines_of(state)[-1]
    state.apply(events.SweepFinished(replace(summary, ran=3, interrupted=False)))
    assert "left 0.0 s" in lines_of(state)[-1]


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
        listener(progress("a", "digits", "orca", REFINE))
        listener(events.TrialFinished(failed, 0))
        listener(events.Message("retrying"))
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        "pocket/quick: 1 trials, 0 already done; running on one node",
        "[1/1] pocket/digits orca confirm seed 0: failed_oom, validation –, 1 min 00 s: out",
    ]
    assert captured.err == "retrying\n"
