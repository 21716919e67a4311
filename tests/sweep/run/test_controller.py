"""A sweep without training: its trials, its failures and the messages of workers."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import bench_scale
from orca_ray.errors import UserError
from orca_ray.methods.reports import EpochProgress, Outcome
from orca_ray.results.record import Record, Status
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
from orca_ray.sweep.run.trial_state import Start
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


def test_a_whole_sweep_runs_each_planned_trial(store: ResultsStore) -> None:
    events: list[Event] = []
    controller = new_controller(store, listener=events.append)
    ran = play(controller)
    assert controller.done
    summary = controller.summary()
    assert summary.planned == summary.ran == len(ran) == 4 * (4 + 2)
    assert not summary.failed
    assert summary.statuses[Status.STOPPED_EARLY] > 0
    assert set(store.load("fake/full")) == {trial.key for trial in ran}
    assert sum(isinstance(event, TrialFinished) for event in events) == 24


def test_the_best_configuration_of_each_search_is_confirmed(
    store: ResultsStore,
) -> None:
    play(new_controller(store))
    for plan in fake_searches():
        records = store.select({"task": [plan.task], "method": [plan.method]})
        assert_best_is_confirmed(records)


def assert_best_is_confirmed(records: Sequence[Record]) -> None:
    """Check that the best completed search trial of one search was run twice more."""
    searched = [record for record in records if record.phase == "search"]
    confirmed = [record for record in records if record.phase == "confirm"]
    completed = [record for record in searched if record.status is Status.COMPLETED]
    best = min(completed, key=lambda record: record.validation_score or 0.0)
    assert len(confirmed) == 2
    for record in confirmed:
        assert record.hyperparameters == best.hyperparameters
        assert record.test_score is not None
    for record in searched:
        assert record.test_score is None


def report_three_epochs(controller: SweepController) -> TrialSpec:
    """Start a trial, report its first three epochs, and return the trial."""
    trial = take(controller)
    for report in list(fake_reports(trial))[:3]:
        controller.report(trial.key, report.progress)
    return trial


def assert_ended_at_third_epoch(record: Record, trial: TrialSpec) -> None:
    """Check what is known of a trial from the points of its curve."""
    assert record.epochs == 3
    assert record.best_epoch == 3
    assert record.validation_score == fake_score(trial, 3)
    assert record.test_score is None
    assert record.deterministic is False


def assert_has_outcome(record: Record) -> None:
    """Check that a record has what only the outcome of a trial says."""
    assert record.num_parameters == 10
    assert record.micro_batch == 16
    assert record.samples_per_second == 64.0
    assert record.distance_before == 3.0
    assert record.distance_after == 1.0
    assert record.align_epochs == 2
    assert record.notes == "a class was left out; solved in chunks"


def test_a_stopped_trial_has_the_scores_of_its_last_epoch(store: ResultsStore) -> None:
    """A resumed trial may report its end before it is stopped at an earlier epoch."""
    controller = new_controller(store)
    trial = report_three_epochs(controller)
    *_, last_report = fake_reports(trial)
    record = controller.finish(trial.key, last_report.stopped_early())
    assert_ended_at_third_epoch(record, trial)
    assert_has_outcome(record)
    controller.close()
    assert store.load("fake/full")[record.trial_key] == record


def test_a_failed_trial_has_its_outcome(store: ResultsStore) -> None:
    controller = new_controller(store)
    trial = report_three_epochs(controller)
    third_report = list(fake_reports(trial))[2]
    failure = replace(third_report, status=Status.FAILED_NAN, error="loss is NaN")
    record = controller.finish(trial.key, failure)
    assert_ended_at_third_epoch(record, trial)
    assert_has_outcome(record)


def test_a_lost_trial_has_what_its_curve_says(store: ResultsStore) -> None:
    controller = new_controller(store)
    trial = report_three_epochs(controller)
    loss = TrialReport(status=Status.LOST, error="node gone")
    record = controller.finish(trial.key, loss)
    assert_ended_at_third_epoch(record, trial)
    assert record.num_parameters is None
    assert record.samples_per_second is None
    assert record.notes is None
    assert record.align_epochs == 0


def test_the_summary_counts_notes_and_reused_alignments(store: ResultsStore) -> None:
    play(new_controller(store), fail=frozenset({"pocket/wdbc"}))
    summary = new_controller(store).summary()
    assert summary.notes == {"a class was left out": 12, "solved in chunks": 12}
    assert summary.aligned == 12
    assert summary.reused == 4
    assert not summary.deterministic


def test_a_deterministic_sweep_is_one_of_its_own(store: ResultsStore) -> None:
    text = TEXT + "resources: {cpus: 2}\n"
    usual = new_controller(store, text=text)
    [usual_trial] = play(usual, most=1)
    fixed = new_controller(store, text=text, overrides=Overrides(deterministic=True))
    assert fixed.searches.finished_before == 0
    [fixed_trial] = play(fixed, most=1)
    assert not usual.summary().deterministic
    assert fixed.summary().deterministic
    assert usual_trial.threads == 2
    assert not usual_trial.deterministic
    assert fixed_trial.threads == 1
    assert fixed_trial.deterministic
    assert usual_trial.key != fixed_trial.key
    [usual_record] = store.load("fake/full").values()
    [fixed_record] = store.load("fake/full-deterministic").values()
    assert usual_record.deterministic is False
    assert fixed_record.deterministic is True


def test_a_lost_trial_runs_again_by_itself(store: ResultsStore) -> None:
    controller = new_controller(store)
    lost = take(controller)
    controller.finish(lost.key, TrialReport(status=Status.LOST, error="node gone"))
    controller.close()
    again = play(new_controller(store), most=1)
    assert [trial.key for trial in again] == [lost.key]


@pytest.mark.slow
def test_failed_trials_run_again_on_request(store: ResultsStore) -> None:
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


def seconds_by_search(wdbc: float, digits: float) -> dict[tuple[str, str], float]:
    """Return the expected seconds of a trial by task and method."""
    seconds = {"pocket/wdbc": wdbc, "pocket/digits": digits}
    return {(plan.task, plan.method): seconds[plan.task] for plan in fake_searches()}


def test_the_longest_search_starts_first(store: ResultsStore) -> None:
    seconds = seconds_by_search(wdbc=9.0, digits=1.0)
    controller = new_controller(store, trial_seconds=seconds)
    assert take(controller).task == "pocket/wdbc"


def test_a_sweep_may_run_one_task_after_the_other(store: ResultsStore) -> None:
    seconds = seconds_by_search(wdbc=9.0, digits=1.0)
    text = f"{TEXT}order: tasks\n"
    ran = play(new_controller(store, trial_seconds=seconds, text=text))
    tasks = [trial.task for trial in ran]
    assert tasks == ["pocket/digits"] * 12 + ["pocket/wdbc"] * 12


def test_a_trial_of_no_cost_does_not_decide_the_time_left() -> None:
    plans = {(plan.task, plan.method): plan for plan in fake_searches()}
    search = Search(plans["pocket/wdbc", "nft"])
    expected_seconds = {
        ("pocket/digits", "orca"): 1e-4,
        ("pocket/digits", "nft"): 10.0,
        ("pocket/wdbc", "nft"): 20.0,
    }
    durations = Durations(expected_seconds)
    for method, seconds in (("orca", 0.5), ("nft", 5.0)):
        record = factories.make_record(
            task="pocket/digits", method=method, wall_seconds=seconds
        )
        durations.learn(record)
    seconds_left = durations.of_remaining([search])
    assert seconds_left == pytest.approx(11 * search.num_remaining, rel=0.01)


def test_without_a_search_the_first_configuration_is_confirmed(
    store: ResultsStore,
) -> None:
    overrides = Overrides(trials=1, methods=["nft"])
    ran = play(new_controller(store, overrides=overrides))
    assert len(ran) == 2
    for trial in ran:
        assert trial.phase == "confirm"
        assert trial.seed == 1
        assert trial.hyperparameters["refine.learning_rate"] == 1e-3


def test_a_long_task_stays_ahead_of_short_ones_once_its_seconds_are_known(
    store: ResultsStore,
) -> None:
    seconds = seconds_by_search(wdbc=1e5, digits=1e4)
    controller = new_controller(store, trial_seconds=seconds)
    first_tasks = {trial.task for trial in play(controller, most=2)}
    assert first_tasks == {"pocket/wdbc"}
    next_tasks = {take(controller).task for _ in range(2)}
    assert next_tasks == {"pocket/digits"}, "one trial of each search comes first"
    assert take(controller).task == "pocket/wdbc"


@pytest.mark.slow
def test_trials_of_an_earlier_version_of_the_metric_run_again(
    store: ResultsStore, tmp_path: Path
) -> None:
    """A record without a version has the first one, which is the present one."""
    task = play(new_controller(store))[0].task
    records = store.load("fake/full").values()
    assert {record.metric_version for record in records} == {1}
    old_versions: dict[str, int | None] = {record.task: None for record in records}
    old_versions[task] = 2
    old = ResultsStore(tmp_path / "old", create=True)
    old.append(
        [
            replace(record, metric_version=old_versions[record.task])
            for record in records
        ]
    )
    again = play(new_controller(old))
    assert {trial.key for trial in again} == {
        record.trial_key for record in records if record.task == task
    }
    new_records = old.select({"task": [task]})
    assert {record.metric_version for record in new_records} == {1}


def test_a_sweep_continues_on_odd_records(store: ResultsStore, tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [
        {"validation_score": None},
        {"hyperparameters": '{"refine.learning_rate":"much"}'},
        {"task": "pocket/none", "method": "none", "body": "none"},
        {"seed": -1, "epochs": -5, "best_epoch": 2**62, "attempts": 0},
        {"notes": "; ;", "error": ""},
        {"metric": "none"},
    ]
    play(new_controller(store), most=20)
    records = store.load("fake/full").values()
    odd = ResultsStore(tmp_path / "odd", create=True)
    odd.append(
        [
            replace(record, **change)
            for record, change in zip(records, cycle(changes), strict=False)
        ]
    )
    controller = new_controller(odd)
    play(controller)
    assert controller.done
    assert controller.summary().planned == 24


def test_a_sweep_refuses_damaged_records(store: ResultsStore) -> None:
    play(new_controller(store), most=1)
    file = files_of(store)[0]
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(UserError, match=f"{file} is .*"):
        new_controller(store)


def test_the_driver_runs_many_trials_in_virtual_time() -> None:
    num_trials = bench_scale.driver(158, 8)["trials"]
    assert num_trials == 157, "two suggestions of a search are the same trial"


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
    clock = Clock()
    controller.failures = FailureLedger(clock)
    trial = take(controller)
    failure = Failure(cause, "why", "a node")
    num_started = 1
    record = controller.failed(trial.key, failure)
    while record is None:
        clock.now += 60
        next_trial = take(controller)
        assert next_trial.key == trial.key, "a failed trial comes before new ones"
        num_started += 1
        record = controller.failed(trial.key, failure)
    assert record.status == status
    assert record.attempts == attempts
    assert record.error == "why"
    assert num_started == attempts
    avoided = {"a node"} if elsewhere else set()
    assert controller.failures.of(trial.key).avoid == avoided


def test_preemption_never_counts(controller: SweepController) -> None:
    clock = Clock()
    controller.failures = FailureLedger(clock)
    trial = take(controller)
    preemption = Failure(Cause.PREEMPTED, "spot instance", "a node")
    for _ in range(50):
        assert controller.failed(trial.key, preemption) is None
        clock.now += 60
        assert controller.next_trial() == trial
    assert not controller.failures.of(trial.key).avoid
    *_, last_report = fake_reports(trial)
    record = controller.ended(trial.key, last_report)
    assert record is not None
    assert record.status == Status.COMPLETED
    assert record.attempts == 1


def test_other_trials_run_while_a_lost_one_pauses(controller: SweepController) -> None:
    clock = Clock()
    controller.failures = FailureLedger(clock)
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
        assert again.key == trial.key
        assert again.halvings == halvings


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
    texts = [event.text for event in events if isinstance(event, Message)]
    assert any("node-b" in text and "disk" in text for text in texts)
    [reason] = controller.summary(interrupted=True).quarantined
    assert reason.startswith("node-b: 3 trials")


def test_the_only_node_that_works_is_not_quarantined() -> None:
    ledger = FailureLedger()
    for key in "abc":
        ledger.add_failure(key, Failure(Cause.LOST, "gone", "only"))
    assert ledger.new_quarantines() == [], "no other node works"
    ledger.add_success("other", ended=False)
    assert ledger.new_quarantines() == ["only"]
    ledger.add_failure("a", Failure(Cause.LOST, "gone", "other"))
    assert not ledger.quarantined, "the trial fails everywhere"


def test_a_node_is_not_quarantined_for_memory_or_before_it_ended_a_trial() -> None:
    ledger = FailureLedger()
    ledger.add_success("other", ended=False)
    for key in "xyz":
        ledger.add_failure(key, Failure(Cause.MEMORY, "large", "third"))
    for key in "uv":
        ledger.add_failure(key, Failure(Cause.LOST, "gone", "third"))
    ledger.add_success("third", ended=True)
    ledger.add_failure("w", Failure(Cause.LOST, "gone", "third"))
    assert ledger.new_quarantines() == []


def test_failures_on_a_node_in_quarantine_do_not_count() -> None:
    ledger = FailureLedger()
    ledger.add_success("good", ended=False)
    failure = Failure(Cause.CODE, "broken", "bad")
    for key in "abc":
        ledger.add_failure(key, failure)
    ledger.new_quarantines()
    for _ in range(4):
        assert ledger.add_failure("d", failure)
    assert ledger.of("d").avoid == {"bad"}
    assert not ledger.add_failure("d", failure), "no trial runs for ever"


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
    # 1, 1.0 and true are equal, but not the same hyper-parameter.
    assert arrived.key == trial.key


def test_a_lost_trial_keeps_distances_and_durations_of_its_curve() -> None:
    curve = [
        EpochProgress(stage="align", epoch=1, epochs=2, distance=4.0, seconds=2.0),
        EpochProgress(stage="align", epoch=2, epochs=2, distance=3.0, seconds=2.0),
        EpochProgress(stage="refine", epoch=1, epochs=3, validation_score=0.3),
        EpochProgress(stage="refine", epoch=2, epochs=3, validation_score=0.4),
    ]
    trial = fake_searches()[0].trial({}, 0, "search")
    report = TrialReport(status=Status.LOST)
    record = make_record(
        trial, "fake", report, curve, Start(), executor="inline", attempts=6
    )
    assert record.distance_before == 4
    assert record.distance_after == 3
    assert record.align_epochs == 2
    assert record.align_seconds == 4
    assert record.validation_score == 0.3
    assert record.best_epoch == 1
    assert record.epochs == 2
    assert record.test_score is None


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
    has_nan = math.isnan(loss) or (score is not None and math.isnan(score))
    if not has_nan:
        assert arrived == sent


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"progress": [{}]}', '{"done": true}', '{"status": "asleep"}'],
)
def test_a_text_that_is_no_report_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        TrialReport.from_json(text)


def test_checkpoints_of_suggestions_that_a_search_no_longer_has_are_deleted(
    store: ResultsStore,
) -> None:
    larger_text = TEXT.replace("search_trials: 4", "search_trials: 12")
    larger = new_controller(store, text=larger_text)
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
