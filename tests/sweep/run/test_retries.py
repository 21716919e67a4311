"""One rule for each cause of a failure, and what the controller makes of it."""

import pytest

from orca_ray.results.record import Status
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.run.controller import SweepController
from orca_ray.sweep.run.events import Event, Message
from orca_ray.sweep.run.messages import TrialReport
from orca_ray.sweep.run.retries import MAX_ERROR_BYTES, Cause, Failure, FailureLedger, bounded
from tests.results.factories import Clock
from tests.sweep.fakes import fake_reports, new_controller, take


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
    controller: SweepController, cause: Cause, status: Status, attempts: int, elsewhere: bool
) -> None:
    controller.failures = FailureLedger(clock := Clock())
    trial, started = take(controller), 1
    while (record := controller.failed(trial.key, Failure(cause, "why", "a node"))) is None:
        clock.now += 60
        assert take(controller).key == trial.key, "a trial that failed comes before those that have not run"
        started += 1
    assert (record.status, record.attempts, record.error) == (status, attempts, "why")
    assert started == attempts
    assert controller.failures.of(trial.key).avoid == ({"a node"} if elsewhere else set())


def test_preemption_never_counts(controller: SweepController) -> None:
    controller.failures = FailureLedger(clock := Clock())
    trial = take(controller)
    for _ in range(50):
        assert controller.failed(trial.key, Failure(Cause.PREEMPTED, "spot instance", "a node")) is None
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


def test_a_worker_that_ran_out_of_memory_gets_smaller_micro_batches(controller: SweepController) -> None:
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
    assert any(isinstance(event, Message) and "node-b" in event.text and "disk" in event.text for event in events)
    assert controller.summary(interrupted=True).quarantined[0].startswith("node-b: 3 trials")


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
    assert all(ledger.retries("d", Failure(Cause.CODE, "broken", "bad")) for _ in range(4))
    assert ledger.of("d").avoid == {"bad"}
    assert not ledger.retries("d", Failure(Cause.CODE, "broken", "bad")), "but no trial runs for ever"


def test_error_texts_are_bounded() -> None:
    half = (MAX_ERROR_BYTES - 5) // 2
    assert bounded("x" * MAX_ERROR_BYTES) == "x" * MAX_ERROR_BYTES
    assert bounded("a" * 10**5 + "b" * 10**5) == "a" * half + "\n...\n" + "b" * half
    assert len(bounded("ü" * 10**5 + "end").encode()) <= MAX_ERROR_BYTES
