"""A sweep without training: its trials, what is made of each cause of a failure, and
messages of workers.
"""

import math
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import bench_scale
from orca_ray.errors import UserError
from orca_ray.methods.reports import EpochProgress, Outcome
from orca_ray.results.record import Status
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.messages.causes import MAX_ERROR_BYTES, Cause, Failure, bounded
from orca_ray.sweep.messages.report import TrialReport, Worker
from orca_ray.sweep.plan.schema import Scalar
from orca_ray.sweep.plan.spec import Overrides
from orca_ray.sweep.plan.trial_spec import Resources, TrialSpec
from orca_ray.sweep.run.controller import SweepController
from orca_ray.sweep.run.events import Event, Message, TrialFinished
from orca_ray.sweep.run.recorder import make_record
from orca_ray.sweep.run.retries import FailureLedger
from orca_ray.sweep.run.searches import Durations
from orca_ray.sweep.search.search import Search
from orca_ray.sweep.worker.checkpoints import Checkpoints
from tests.results import factories
from tests.results.factories import Clock, files_of
from tests.sweep.fakes import (
    TEXT,
    fake_reports,
    fake_score,
    fake_searches,
    new_controller,
    play,
    take,
)


def test_a_whole_sweep(store: ResultsStore) -> None:
    events: list[Event] = []
    controller = new_controller(store, listener=events.append)
    ran = play(controller)
    assert controller.done
    summary = controller.summary()
    assert summary.planned == summary.ran == len(ran) == 4 * (4 + 2)
    assert not summary.failed
    records = store.load("fake/full")
    assert set(records) == {trial.key for trial in ran}
    for task, method in {(record.task, record.method) for record in records.values()}:
        mine = [
            record
            for record in records.values()
            if (record.task, record.method) == (task, method)
        ]
        completed = [
            r for r in mine if r.phase == "search" and r.status is Status.COMPLETED
        ]
        best = min(completed, key=lambda record: record.validation_score or 0.0)
        confirm = [record for record in mine if record.phase == "confirm"]
        assert [record.hyperparameters for record in confirm] == [
            best.hyperparameters
        ] * 2
        assert all(
            (record.test_score is not None) == (record.phase == "confirm")
            for record in mine
        )
    assert summary.statuses[Status.STOPPED_EARLY] > 0
    assert sum(isinstance(event, TrialFinished) for event in events) == 24


def test_a_trial_that_was_stopped_or_failed_has_what_is_known(
    store: ResultsStore,
) -> None:
    controller = new_controller(store)
    stopped, failed, lost = (take(controller) for _ in range(3))
    for trial in (stopped, failed, lost):
        reports = list(fake_reports(trial))
        for report in reports[:3]:
            controller.report(trial.key, report.progress)
    # Resumed, it has reported its end before it was stopped at its third epoch.
    one = controller.finish(
        stopped.key, list(fake_reports(stopped))[-1].stopped_early()
    )
    two = controller.finish(
        failed.key,
        replace(
            list(fake_reports(failed))[2], status=Status.FAILED_NAN, error="loss is NaN"
        ),
    )
    three = controller.finish(
        lost.key, TrialReport(status=Status.LOST, error="node gone")
    )
    for record, trial in ((one, stopped), (two, failed), (three, lost)):
        assert (record.epochs, record.best_epoch, record.test_score) == (3, 3, None)
        assert record.validation_score == fake_score(trial, 3)
        assert record.deterministic is False
    for record in (one, two):
        assert (
            record.num_parameters,
            record.micro_batch,
            record.samples_per_second,
        ) == (10, 16, 64.0)
        assert (record.distance_before, record.distance_after, record.align_epochs) == (
            3.0,
            1.0,
            2,
        )
        assert record.notes == "a class was left out; solved in chunks"
    assert (
        three.num_parameters,
        three.samples_per_second,
        three.notes,
        three.align_epochs,
    ) == (None, None, None, 0)
    controller.close()
    assert store.load("fake/full")[one.trial_key] == one


def test_the_summary_counts_notes_and_reused_alignments(store: ResultsStore) -> None:
    play(new_controller(store), fail=frozenset({"pocket/wdbc"}))
    summary = new_controller(store).summary()
    assert summary.notes == {"a class was left out": 12, "solved in chunks": 12}
    assert (summary.aligned, summary.reused, summary.deterministic) == (12, 4, False)


def test_a_deterministic_sweep_is_one_of_its_own(store: ResultsStore) -> None:
    text = TEXT + "resources: {cpus: 2}\n"
    trials = []
    for deterministic in (False, True):
        controller = new_controller(
            store, text=text, overrides=Overrides(deterministic=deterministic)
        )
        trials += play(controller, most=1)
        assert (
            controller.searches.finished_before,
            controller.summary().deterministic,
        ) == (0, deterministic)
    assert [(trial.threads, trial.deterministic) for trial in trials] == [
        (2, False),
        (1, True),
    ]
    assert trials[0].key != trials[1].key
    usual, fixed = (
        store.load(f"fake/full{end}").values() for end in ("", "-deterministic")
    )
    assert [record.deterministic for record in (*usual, *fixed)] == [False, True]


@pytest.mark.slow
def test_failures_run_again_on_request_and_lost_trials_by_themselves(
    store: ResultsStore,
) -> None:
    controller = new_controller(store)
    lost = take(controller)
    controller.finish(lost.key, TrialReport(status=Status.LOST, error="node gone"))
    controller.close()
    controller = new_controller(store)
    play(controller, fail=frozenset({"pocket/wdbc"}))
    summary = controller.summary()
    assert summary.statuses[Status.FAILED_USER] == len(summary.failed) == 8
    assert summary.unfinished == (
        "pocket/wdbc nft: every search trial failed",
        "pocket/wdbc orca: every search trial failed",
    )
    assert new_controller(store).done
    retry = new_controller(store, retry_failed=True)
    assert len(play(retry)) == 12
    assert not retry.summary().failed


def test_a_resumed_trial_reports_its_first_epochs_again_without_doubling(
    store: ResultsStore,
) -> None:
    controller = new_controller(store)
    trial = take(controller)
    reports = list(fake_reports(trial))
    points = [report.progress[0] for report in reports]
    controller.report(trial.key, points[:2])
    controller.failed(trial.key, Failure(Cause.TIME, "no progress"))
    assert controller.next_trial() == trial
    controller.report(trial.key, points[:3])
    controller.report(trial.key, points[3:])
    record = controller.finish(trial.key, reports[-1])
    assert record.attempts == 2
    controller.close()
    assert len(store.curves(trial_key=trial.key)) == trial.epochs


def test_the_longest_search_starts_first(store: ResultsStore) -> None:
    seconds = {
        (plan.task, plan.method): 9.0 if plan.task == "pocket/wdbc" else 1.0
        for plan in fake_searches()
    }
    assert take(new_controller(store, trial_seconds=seconds)).task == "pocket/wdbc"
    by_task = play(
        new_controller(store, trial_seconds=seconds, text=f"{TEXT}order: tasks\n")
    )
    assert [trial.task for trial in by_task] == ["pocket/digits"] * 12 + [
        "pocket/wdbc"
    ] * 12


def test_a_trial_of_no_cost_does_not_decide_the_time_left() -> None:
    search = Search(
        next(
            plan
            for plan in fake_searches()
            if plan.task == "pocket/wdbc" and plan.method == "nft"
        )
    )
    left = Durations(
        {
            ("pocket/digits", "orca"): 1e-4,
            ("pocket/digits", "nft"): 10.0,
            ("pocket/wdbc", "nft"): 20.0,
        }
    )
    for method, seconds in (("orca", 0.5), ("nft", 5.0)):
        left.learn(
            factories.make_record(
                task="pocket/digits", method=method, wall_seconds=seconds
            )
        )
    assert left.of_remaining([search]) == pytest.approx(
        11 * search.num_remaining, rel=0.01
    )


def test_without_a_search_the_first_configuration_is_confirmed(
    store: ResultsStore,
) -> None:
    ran = play(new_controller(store, overrides=Overrides(trials=1, methods=["nft"])))
    assert [(trial.phase, trial.seed) for trial in ran] == [
        ("confirm", 1),
        ("confirm", 1),
    ]
    assert all(trial.hyperparameters["refine.learning_rate"] == 1e-3 for trial in ran)


def test_a_long_task_stays_ahead_of_short_ones_once_its_seconds_are_known(
    store: ResultsStore,
) -> None:
    seconds = {
        (plan.task, plan.method): 1e5 if plan.task == "pocket/wdbc" else 1e4
        for plan in fake_searches()
    }
    controller = new_controller(store, trial_seconds=seconds)
    assert {trial.task for trial in play(controller, most=2)} == {"pocket/wdbc"}
    assert {take(controller).task for _ in range(2)} == {"pocket/digits"}, (
        "one trial of each search comes first"
    )
    assert take(controller).task == "pocket/wdbc"


@pytest.mark.slow
def test_trials_of_an_earlier_version_of_the_metric_run_again(
    store: ResultsStore, tmp_path: Path
) -> None:
    ran = play(new_controller(store))
    records = store.load("fake/full")
    assert {record.metric_version for record in records.values()} == {1}
    old = ResultsStore(tmp_path / "old", create=True)
    task = ran[0].task
    old.append(
        [
            replace(record, metric_version=None)
            for record in records.values()
            if record.task != task
        ]
    )
    old.append(
        [
            replace(record, metric_version=2)
            for record in records.values()
            if record.task == task
        ]
    )
    again = play(new_controller(old))
    assert {trial.key for trial in again} == {
        key for key, record in records.items() if record.task == task
    }
    assert {
        record.metric_version
        for record in old.load("fake/full").values()
        if record.task == task
    } == {1}


def test_a_sweep_continues_on_odd_and_refuses_damaged_records(
    store: ResultsStore, tmp_path: Path
) -> None:
    changes: list[dict[str, Any]] = [
        {"validation_score": None},
        {"hyperparameters": '{"refine.learning_rate":"much"}'},
        {"task": "pocket/none", "method": "none", "body": "none"},
        {"seed": -1, "epochs": -5, "best_epoch": 2**62, "attempts": 0},
        {"notes": "; ;", "error": ""},
        {"metric": "none"},
    ]
    play(new_controller(store), most=20)
    odd = ResultsStore(tmp_path / "odd", create=True)
    odd.append(
        [
            replace(r, **changes[n % len(changes)])
            for n, r in enumerate(store.load("fake/full").values())
        ]
    )
    controller = new_controller(odd)
    play(controller)
    assert controller.done
    assert controller.summary().planned == 24
    file = files_of(store)[0]
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(UserError, match=f"{file} is .*"):
        new_controller(store)


def test_the_driver_runs_many_trials_in_virtual_time() -> None:
    assert bench_scale.driver(158, 8)["trials"] == 157, (
        "two suggestions of a search are the same trial"
    )


@pytest.fixture
def controller(store: ResultsStore) -> SweepController:
    return new_controller(store)


@pytest.mark.parametrize(
    ("cause", "status", "attempts", "elsewhere"),
    [
        (Cause.USER, Status.FAILED_USER, 1, False),
        (Cause.NOT_FINITE, Status.FAILED_NAN, 1, False),
        (Cause.CODE, Status.FAILED_CODE, 2, True),
        (Cause.TIME, Status.TIMED_OUT, 2, True),
        (Cause.MEMORY, Status.FAILED_OOM, 4, False),
        (Cause.LOST, Status.LOST, 6, True),
    ],
)
def test_each_cause_has_a_status_a_number_of_attempts_and_a_preference_for_another_node(
    controller: SweepController,
    cause: Cause,
    status: Status,
    attempts: int,
    elsewhere: bool,
) -> None:
    controller.failures = FailureLedger(clock := Clock())
    trial = take(controller)
    started = 1
    while (
        record := controller.failed(trial.key, Failure(cause, "why", "a node"))
    ) is None:
        clock.now += 60
        assert take(controller).key == trial.key, (
            "a trial that failed comes before those that have not run"
        )
        started += 1
    assert (record.status, record.attempts, record.error) == (status, attempts, "why")
    assert started == attempts
    assert controller.failures.of(trial.key).avoid == (
        {"a node"} if elsewhere else set()
    )


def test_preemption_never_counts(controller: SweepController) -> None:
    controller.failures = FailureLedger(clock := Clock())
    trial = take(controller)
    for _ in range(50):
        assert (
            controller.failed(
                trial.key, Failure(Cause.PREEMPTED, "spot instance", "a node")
            )
            is None
        )
        clock.now += 60
        assert controller.next_trial() == trial
    assert not controller.failures.of(trial.key).avoid
    record = controller.ended(trial.key, list(fake_reports(trial))[-1])
    assert record is not None
    assert (record.status, record.attempts) == (Status.COMPLETED, 1)


def test_a_pause_lets_other_trials_pass(controller: SweepController) -> None:
    controller.failures = FailureLedger(clock := Clock())
    lost = take(controller)
    controller.failed(lost.key, Failure(Cause.LOST, "node gone"))
    assert take(controller).key != lost.key
    assert not controller.done
    clock.now += 1.1
    assert take(controller).key == lost.key


def test_a_worker_that_ran_out_of_memory_gets_smaller_micro_batches(
    controller: SweepController,
) -> None:
    trial = take(controller)
    for halvings in (1, 2, 3):
        report = TrialReport(status=Status.FAILED_OOM, error="OutOfMemoryError: CUDA")
        assert controller.ended(trial.key, report) is None
        again = take(controller)
        assert (again.key, again.halvings) == (trial.key, halvings)


def test_a_node_that_fails_trials_is_quarantined_and_named(store: ResultsStore) -> None:
    events: list[Event] = []
    controller = new_controller(store, listener=events.append)
    good, *bad = [take(controller) for _ in range(4)]
    controller.observe(good.key, next(fake_reports(good)), "node-a")
    for trial in bad[:2]:
        controller.failed(trial.key, Failure(Cause.LOST, "worker died", "node-b"))
    assert not controller.failures.quarantined
    controller.failed(bad[2].key, Failure(Cause.CODE, "OSError: disk", "node-b"))
    assert list(controller.failures.quarantined) == ["node-b"]
    assert any(
        isinstance(event, Message) and "node-b" in event.text and "disk" in event.text
        for event in events
    )
    assert (
        controller.summary(interrupted=True)
        .quarantined[0]
        .startswith("node-b: 3 trials")
    )


def test_a_node_is_not_blamed_without_a_reason() -> None:
    ledger = FailureLedger()
    for key in "abc":
        ledger.retries(key, Failure(Cause.LOST, "gone", "only"))
    assert ledger.new_quarantines() == [], "no other node works"
    ledger.works("other", ended=False)
    assert ledger.new_quarantines() == ["only"]
    ledger.retries("a", Failure(Cause.LOST, "gone", "other"))
    assert not ledger.quarantined, "the trial fails everywhere"
    for key in "xyz":
        ledger.retries(key, Failure(Cause.MEMORY, "large", "third"))
    for key in "uv":
        ledger.retries(key, Failure(Cause.LOST, "gone", "third"))
    ledger.works("third", ended=True)
    ledger.retries("w", Failure(Cause.LOST, "gone", "third"))
    assert ledger.new_quarantines() == []


def test_failures_on_a_node_in_quarantine_do_not_count() -> None:
    ledger = FailureLedger()
    ledger.works("good", ended=False)
    for key in "abc":
        ledger.retries(key, Failure(Cause.CODE, "broken", "bad"))
    ledger.new_quarantines()
    assert all(
        ledger.retries("d", Failure(Cause.CODE, "broken", "bad")) for _ in range(4)
    )
    assert ledger.of("d").avoid == {"bad"}
    assert not ledger.retries("d", Failure(Cause.CODE, "broken", "bad")), (
        "but no trial runs for ever"
    )


def test_error_texts_are_bounded() -> None:
    half = (MAX_ERROR_BYTES - 5) // 2
    assert bounded("x" * MAX_ERROR_BYTES) == "x" * MAX_ERROR_BYTES
    assert bounded("a" * 10**5 + "b" * 10**5) == "a" * half + "\n...\n" + "b" * half
    assert len(bounded("ü" * 10**5 + "end").encode()) <= MAX_ERROR_BYTES


SCALARS = (
    st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.booleans()
    | st.text()
)


@given(
    st.dictionaries(st.text(), SCALARS), st.integers(0, 2**63 - 1), st.floats(0.1, 64.0)
)
def test_an_assignment_arrives_with_its_key(
    hyperparameters: dict[str, Scalar], seed: int, cpus: float
) -> None:
    trial = TrialSpec(
        task="pocket/wdbc",
        method="orca",
        body="./körper",
        hyperparameters=hyperparameters,
        seed=seed,
        protocol="held-out",
        data_fingerprint="0" * 16,
        phase="search",
        epochs=3,
        resources=Resources(cpus),
        deterministic=cpus > 32,
    )
    arrived = TrialSpec.from_json(trial.to_json())
    assert arrived == trial
    assert (
        arrived.key == trial.key
    )  # 1, 1.0 and true are equal, but not the same hyper-parameter


def test_a_lost_trial_keeps_distances_and_durations_of_its_curve() -> None:
    curve = [
        EpochProgress(stage="align", epoch=n, epochs=2, distance=5.0 - n, seconds=2.0)
        for n in (1, 2)
    ]
    curve += [
        EpochProgress(stage="refine", epoch=n, epochs=3, validation_score=s)
        for n, s in ((1, 0.3), (2, 0.4))
    ]
    trial = fake_searches()[0].trial({}, 0, "search")
    report = TrialReport(status=Status.LOST)
    record = make_record(
        trial, "fake", report, curve, datetime.now(UTC), executor="inline", attempts=6
    )
    assert (
        record.distance_before,
        record.distance_after,
        record.align_epochs,
        record.align_seconds,
    ) == (4, 3, 2, 4)
    assert (
        record.validation_score,
        record.best_epoch,
        record.epochs,
        record.test_score,
    ) == (0.3, 1, 2, None)


@given(
    st.floats(),
    st.floats() | st.none(),
    st.sampled_from([None, *Status]),
    st.text() | st.none(),
)
def test_a_report_arrives_as_it_was_sent(
    loss: float, score: float | None, status: Status | None, text: str
) -> None:
    point = EpochProgress(
        stage="refine", epoch=1, epochs=3, loss=loss, validation_score=score
    )
    worker = Worker(node=text or "", device="cpu", torch="2")
    sent = TrialReport(
        progress=(point,),
        outcome=Outcome(notes=text),
        worker=worker,
        status=status,
        error=text,
    )
    arrived = TrialReport.from_json(sent.to_json())
    assert arrived.to_json() == sent.to_json()  # NaN is not equal to itself
    assert arrived.done is (status is not None)
    if not any(value is not None and math.isnan(value) for value in (loss, score)):
        assert arrived == sent


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"progress": [{}]}', '{"done": true}', '{"status": "asleep"}'],
)
def test_other_texts_are_no_reports(text: str) -> None:
    with pytest.raises(ValueError):
        TrialReport.from_json(text)


def test_checkpoints_of_suggestions_that_a_search_no_longer_has_are_deleted(
    store: ResultsStore,
) -> None:
    larger = new_controller(
        store, text=TEXT.replace("search_trials: 4", "search_trials: 12")
    )
    kept = Checkpoints(store.uri)
    for trial in iter(larger.next_trial, None):
        kept.save(trial.key, TrialReport(), lambda path: path.touch())
    larger.close()
    assert len(store.folder.names("checkpoints")) > 4 * 4
    controller = new_controller(store)
    play(controller, most=3)
    controller.tidy()
    assert len(store.folder.names("checkpoints")) > 4 * 4, "no search has ended"
    play(controller)
    controller.tidy()
    assert not store.folder.names("checkpoints")
