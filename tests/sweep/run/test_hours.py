"""A limit of hours: which searches end early, and what is confirmed."""

import pytest

from orca_ray.results.record import Status
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.run.controller import SweepController
from orca_ray.sweep.run.events import Event, Message
from orca_ray.sweep.run.hours import HourLimit
from orca_ray.sweep.run.trial_state import Start
from tests.sweep.fakes import end, fake_searches, new_controller, play

NUM_SEARCH = 4
NUM_CONFIRM = 2
"""Trials of each of the four searches of the fake sweep, which try, then confirm."""


@pytest.fixture(autouse=True)
def one_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each trial take an hour of one core, as far as its record knows."""
    monkeypatch.setattr(Start, "seconds", lambda self: 3600.0)


def limited(
    store: ResultsStore, hours: float, events: list[Event] | None = None
) -> SweepController:
    """Return a controller of the fake sweep, with a limit in core hours."""
    pairs = [(plan.task, plan.method) for plan in fake_searches()]
    return new_controller(
        store,
        listener=None if events is None else events.append,
        trial_seconds=dict.fromkeys(pairs, 3600.0),
        limit=HourLimit(hours, "core"),
    )


@pytest.mark.parametrize("hours", range(27))
def test_no_more_than_the_hours_are_used_and_what_was_searched_is_confirmed(
    store: ResultsStore, hours: int
) -> None:
    controller = limited(store, hours)
    ran = play(controller)
    assert controller.done
    assert not controller.summary().interrupted
    # One search takes three hours at least: a configuration, and two seeds of it.
    assert min(hours, 24) - 2 <= len(ran) <= hours
    for search in controller.searches:
        phases = [record.phase for record in search.records.values()]
        assert phases.count("confirm") == (NUM_CONFIRM if phases else 0)


def test_all_searches_are_cut_alike_and_the_records_say_so(store: ResultsStore) -> None:
    events: list[Event] = []
    controller = limited(store, 16, events)
    play(controller)
    for search in controller.searches:
        records = list(search.records.values())
        searched = [record for record in records if record.phase == "search"]
        confirmed = [record for record in records if record.phase == "confirm"]
        assert len(searched) == 2
        finished = [record for record in searched if record.status is Status.COMPLETED]
        best = min(finished, key=lambda record: record.validation_score or 0.0)
        for record in confirmed:
            assert record.hyperparameters == best.hyperparameters
            assert "the best of 2 search trials" in (record.notes or "")
    texts = [event.text for event in events if isinstance(event, Message)]
    assert sum("of 16 core hours" in text for text in texts) == 1
    assert controller.summary().limit == (
        "limited to 16 core hours, of which 16 were used: 16 of 24 planned trials ran,"
        " 4 searches ended early, 0 of them without a test score"
    )


def test_searches_for_which_no_hours_are_left_are_no_failures(
    store: ResultsStore,
) -> None:
    controller = limited(store, 5)
    assert len(play(controller)) == 5
    summary = controller.summary()
    assert not summary.unfinished
    assert not summary.failed
    assert "3 of them without a test score" in summary.limit


def test_the_same_command_runs_nothing_and_a_larger_limit_goes_on(
    store: ResultsStore,
) -> None:
    play(limited(store, 16))
    again = limited(store, 16)
    assert play(again) == []
    assert again.done
    assert again.summary().up_to_date
    larger = limited(store, 1000)
    ran = play(larger)
    assert larger.summary().limit == ""
    assert sum(trial.phase == "search" for trial in ran) == 4 * (NUM_SEARCH - 2)
    # Where a later configuration is better, this one is confirmed.
    for search in larger.searches:
        assert search.done
        assert not any(search.failures())


def test_running_trials_count_before_they_have_ended(store: ResultsStore) -> None:
    controller = limited(store, 12)
    running = []
    while (trial := controller.next_trial()) is not None:
        controller.started(trial.key)
        running.append(trial)
    # Four first configurations, whose confirm trials take the other eight hours.
    assert len(running) == 4
    for trial in running:
        end(controller, trial)
    assert {trial.phase for trial in play(controller)} == {"confirm"}
    assert controller.done
    assert len(store.load("fake/full")) == 12


def test_a_limit_of_gpu_hours_counts_the_gpus_of_a_trial() -> None:
    plan = fake_searches()[0]
    limit = HourLimit(8, "GPU")
    assert str(limit) == "8 GPU hours"
    assert limit.hours_of(plan.resources, 3600) == plan.resources.gpus == 0
