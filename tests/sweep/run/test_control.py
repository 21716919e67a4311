"""Requests to a running sweep, its live state, and records that wait to be written."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from unittest import mock

import pytest

from orca_ray.errors import LostLeaseError, UserError
from orca_ray.results import live
from orca_ray.results.lease import Lease
from orca_ray.results.live import LiveState, Request
from orca_ray.results.record import Status
from orca_ray.results.status import sweep_status
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.executors.inline import InlineExecutor
from orca_ray.sweep.messages.causes import Cause, Failure
from orca_ray.sweep.messages.report import TrialReport
from orca_ray.sweep.plan.searches import SearchPlan
from orca_ray.sweep.plan.trial_spec import TrialSpec
from orca_ray.sweep.run import control, driver, recorder
from orca_ray.sweep.run.controller import SweepController
from orca_ray.sweep.run.events import Event, Listener, Message, TimeLeft
from orca_ray.sweep.run.recorder import MAX_RECORDS, Recorder
from orca_ray.sweep.run.searches import copy_trials
from orca_ray.sweep.run.trial_state import Start
from orca_ray.sweep.worker.checkpoints import Checkpoints
from orca_ray.sweep.worker.staging import Staged, Stager
from tests.results.factories import Clock, files_of, make_point, make_record
from tests.sweep.fakes import (
    end,
    fake_reports,
    fake_searches,
    fake_spec,
    new_controller,
    play,
    take,
    waiting_requests,
)

SWEEP = "fake/full"


@pytest.fixture
def lease(store: ResultsStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lease]:
    monkeypatch.setattr(control, "_TICK_SECONDS", 0.0)
    with Lease(store, SWEEP, renew_seconds=0.02) as held:
        yield held


def send_request(
    store: ResultsStore,
    controller: SweepController,
    request: Request,
    is_carried_out: Callable[[], bool],
) -> None:
    """Write a request, and let the controller work until it is carried out."""
    live.write_request(store.folder, SWEEP, request)
    work_until(is_carried_out, controller)


def work_until(condition: Callable[[], object], controller: SweepController) -> None:
    """Let the controller do its periodic work until a condition holds."""
    while not condition():
        controller.tick()
        time.sleep(0.01)


def start_trial(controller: SweepController) -> TrialSpec:
    """Take the next trial, and start it."""
    trial = take(controller)
    controller.started(trial.key)
    return trial


def test_no_trial_starts_during_a_pause(store: ResultsStore, lease: Lease) -> None:
    controller = new_controller(store, lease)
    trial = start_trial(controller)
    pause = Request("pause")
    send_request(store, controller, pause, lambda: controller.control.paused)
    assert controller.next_trial() is None
    first_report = next(fake_reports(trial))
    assert not controller.report(trial.key, first_report.progress)
    resume = Request("resume")
    send_request(store, controller, resume, lambda: not controller.control.paused)
    assert controller.next_trial() is not None


def cancel(store: ResultsStore, controller: SweepController, trial: TrialSpec) -> None:
    """Send a request to cancel a trial, and wait until the controller knows it."""
    request = Request("cancel", trial.key)
    cancelled = controller.control.cancelled
    send_request(store, controller, request, lambda: trial.key in cancelled)


def test_a_cancelled_trial_ends_after_its_epoch_and_does_not_run_again(
    store: ResultsStore, lease: Lease
) -> None:
    events: list[Event] = []
    controller = new_controller(store, lease, listener=events.append)
    trial = start_trial(controller)
    first, second, *_ = fake_reports(trial)
    assert not controller.report(trial.key, first.progress)
    cancel(store, controller, trial)
    assert Message(f"trial {trial.key} will be cancelled after its epoch") in events
    assert controller.report(trial.key, second.progress)
    record = controller.finish(trial.key, second.stopped_early())
    assert record.status == Status.CANCELLED
    assert record.error == "cancelled by request"
    assert record.epochs == 2
    controller.close()
    again = new_controller(store, lease)
    assert start_trial(again).key != trial.key


def test_a_request_to_cancel_an_unknown_trial_is_reported(
    store: ResultsStore, lease: Lease
) -> None:
    events: list[Event] = []
    controller = new_controller(store, lease, listener=events.append)
    start_trial(controller)
    message = Message("trial no such key does not run and cannot be cancelled")
    request = Request("cancel", "no such key")
    send_request(store, controller, request, lambda: message in events)


def test_a_trial_that_waits_for_another_attempt_can_be_cancelled(
    store: ResultsStore, lease: Lease
) -> None:
    controller = new_controller(store, lease)
    trial = start_trial(controller)
    assert controller.failed(trial.key, Failure(Cause.LOST, "gone", "")) is None
    cancel(store, controller, trial)


def test_a_sweep_stops_when_its_time_is_over(store: ResultsStore, lease: Lease) -> None:
    events: list[Event] = []
    controller = new_controller(store, lease, listener=events.append)
    controller.control.deadline = math.inf
    controller.tick()
    assert not controller.control.stopping
    assert not controller.summary().time_over
    controller.control.deadline = -math.inf
    controller.tick()
    assert controller.control.stopping
    assert controller.summary().time_over
    text = (
        "the time is over: running trials save a checkpoint; the same command continues"
    )
    assert Message(text) in events


SPOILT = TrialReport(status=Status.FAILED_USER, error="spoilt")


def test_a_retry_in_a_running_sweep_stays_in_the_store_until_its_trials_have_ended(
    store: ResultsStore, lease: Lease
) -> None:
    controller = new_controller(store, lease)
    retried, failed, running = (start_trial(controller) for _ in range(3))
    controller.finish(retried.key, SPOILT)
    controller.finish(failed.key, SPOILT)
    retry = Request("retry", retried.key)
    send_request(store, controller, retry, lambda: controller.searches.retrying)
    assert len(waiting_requests(store, SWEEP)) == 1
    keys = {trial.key for trial in iter(controller.next_trial, None)}
    assert keys & {retried.key, failed.key, running.key} == {retried.key}
    assert end(controller, running).status is Status.COMPLETED
    assert end(controller, retried).status is Status.COMPLETED
    work_until(lambda: not waiting_requests(store, SWEEP), controller)
    assert store.load(SWEEP)[retried.key].status is Status.COMPLETED


def fail_two(store: ResultsStore) -> list[str]:
    """Run a driver in which two trials fail, and return their keys."""
    controller = new_controller(store)
    keys = [start_trial(controller).key for _ in range(2)]
    for key in keys:
        controller.finish(key, SPOILT)
    controller.close()
    return keys


def test_a_retry_is_not_lost_with_the_driver_that_took_it(store: ResultsStore) -> None:
    """One driver is killed before the retry, the next one ends in between."""
    failed = fail_two(store)
    live.write_request(store.folder, SWEEP, Request("retry"))
    with Lease(store, SWEEP) as lease:
        new_controller(store, lease)  # killed: neither closed nor asked for a trial
    with Lease(store, SWEEP) as lease:
        second = new_controller(store, lease)
        assert second.searches.retrying
        first_trial = start_trial(second)
        end(second, first_trial)
        second.close()
    assert len(waiting_requests(store, SWEEP)) == 1
    with Lease(store, SWEEP) as lease:
        third = new_controller(store, lease)
        [other_trial] = play(third, most=1)
        assert {first_trial.key, other_trial.key} == set(failed)
        assert not third.searches.retrying
    assert waiting_requests(store, SWEEP) == []
    assert not new_controller(store).searches.retrying


class LateStager(Stager):
    """A stager whose tasks are staged when a test sets ``staged``."""

    staged: tuple[Staged, ...] = ()

    def _poll(self, *, idle: bool) -> list[Staged]:
        newly_staged = list(self.staged)
        self.staged = ()
        return newly_staged


def make_unstaged_controller(
    store: ResultsStore, listener: Listener | None = None
) -> tuple[SweepController, LateStager]:
    """Return a controller of tasks that are not staged yet, and their stager."""
    searches = [replace(plan, fingerprint="") for plan in fake_searches()]
    controller = SweepController(searches, store, executor="fake", listener=listener)
    stager = LateStager([])
    controller.stager = stager
    return controller, stager


def test_a_retry_also_holds_for_tasks_that_are_not_staged_yet(
    store: ResultsStore,
) -> None:
    failed = fail_two(store)
    controller, stager = make_unstaged_controller(store)
    assert controller.retry() == 2
    assert controller.searches.retrying
    fingerprint = fake_searches()[0].fingerprint
    stager.staged = (
        Staged("pocket/digits", fingerprint),
        Staged("pocket/wdbc", fingerprint),
    )
    ran = {trial.key for trial in play(controller)}
    assert set(failed) <= ran
    assert not controller.searches.retrying


def test_a_task_that_cannot_be_staged_leaves_the_others(store: ResultsStore) -> None:
    events = list[Event]()
    controller, stager = make_unstaged_controller(store, events.append)
    stager.staged = (
        Staged("pocket/digits", error="no answer"),
        Staged("pocket/wdbc", fake_searches()[0].fingerprint),
    )
    assert {trial.task for trial in play(controller)} == {"pocket/wdbc"}
    summary = controller.summary()
    assert summary.ran == 12
    assert summary.planned == 24
    assert not summary.interrupted
    assert summary.unfinished == (
        "pocket/digits nft: no answer",
        "pocket/digits orca: no answer",
    )
    assert Message("pocket/digits: no trial can run: no answer") in events


def test_the_live_state_names_running_trials_and_progress(
    store: ResultsStore, lease: Lease
) -> None:
    controller = new_controller(store, lease)
    trial = start_trial(controller)
    first, second, *_ = fake_reports(trial)
    for report in (first, second):
        controller.report(trial.key, report.progress, node="node7")

    def read_state() -> LiveState:
        return live.read(store.folder, SWEEP) or LiveState(sweep=SWEEP)

    def shows_second_epoch() -> bool:
        return [running.epoch for running in read_state().running] == [2]

    work_until(shows_second_epoch, controller)
    [shown] = read_state().running
    assert shown.key == trial.key
    assert shown.task == trial.task
    assert shown.node == "node7"
    assert shown.stage == "refine"
    assert shown.epochs == 6
    assert shown.score == shown.best == second.progress[0].validation_score
    assert sum(row.planned for row in read_state().rows) == 24


def test_trials_without_a_worker_wait_in_the_live_state_and_do_not_run(
    store: ResultsStore, lease: Lease
) -> None:
    controller = new_controller(store, lease)
    lost = start_trial(controller)
    running = start_trial(controller)
    assert controller.failed(lost.key, Failure(Cause.LOST, "gone", "")) is None
    without_resources = take(controller)
    work_until(lambda: len(sweep_status(store, SWEEP).waiting) == 2, controller)
    status = sweep_status(store, SWEEP)
    assert [trial.key for trial in status.running] == [running.key]
    assert status.num_running == 1
    waiting_keys = {trial.key for trial in status.waiting}
    assert waiting_keys == {lost.key, without_resources.key}
    assert sum(row.running for row in status.rows) == 1
    assert sum(row.waiting for row in status.rows) == 2


def test_the_time_left_is_sent_once_a_trial_has_completed(
    store: ResultsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_TICK_SECONDS", 0.0)
    events: list[Event] = []
    controller = new_controller(store, listener=events.append)
    controller.tick()
    assert not any(isinstance(event, TimeLeft) for event in events)
    play(controller)
    estimates = [event.seconds for event in events if isinstance(event, TimeLeft)]
    controller.tick()
    assert estimates[0] > estimates[-1]
    assert events[-1] == TimeLeft(0.0)


def test_logs_of_a_trial_are_stored_by_attempt_and_bounded(store: ResultsStore) -> None:
    controller = new_controller(store)
    trial = start_trial(controller)
    first, second, *_ = fake_reports(trial)
    controller.report(trial.key, (), log="Traceback\n")
    controller.failed(trial.key, Failure(Cause.CODE, "KeyError", ""))
    controller.close()
    logs = store.logs(trial_key=trial.key)
    assert logs["attempt"].tolist() == [1]
    assert logs["text"].tolist() == ["Traceback\n"]
    assert start_trial(controller) == trial
    controller.report(trial.key, first.progress, log="one\n")
    for number in range(4000):
        controller.report(trial.key, (), log=f"line {number} {'x' * 40}\n")
    last_lines = "Traceback\nValueError: the end\n"
    controller.report(trial.key, second.progress, log=last_lines)
    controller.finish(trial.key, second.stopped_early())
    controller.close()
    logs = store.logs(trial_key=trial.key)
    assert set(logs["attempt"]) == {1, 2}
    text = "".join(logs["text"])
    assert text.endswith(last_lines)
    assert len(text) < 70_000
    assert "bytes left out]" in text


def test_a_checkpoint_stays_until_its_record_is_durable(
    store: ResultsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread deletes checkpoints; before trials run again, it is waited for."""
    remove = Checkpoints.remove
    deleting = threading.Event()
    may_delete = threading.Event()

    def slow_remove(checkpoints: Checkpoints, *keys: str) -> None:
        deleting.set()
        assert may_delete.wait(20)
        remove(checkpoints, *keys)

    monkeypatch.setattr(Checkpoints, "remove", slow_remove)
    controller = new_controller(store)
    checkpoints = Checkpoints(store.uri)
    trial = start_trial(controller)
    checkpoints.save_outcome(trial.key, TrialReport())
    controller.finish(trial.key, SPOILT)
    assert not store.load(SWEEP)
    assert not deleting.is_set()
    monkeypatch.setattr(recorder, "MAX_SECONDS", 0.0)
    assert start_trial(controller), "a slow store of checkpoints delays no trial"
    assert deleting.wait(20)
    assert set(store.load(SWEEP)) == {trial.key}
    assert checkpoints.outcome(trial.key) is not None, "the store is still busy with it"
    threading.Timer(0.2, may_delete.set).start()
    assert controller.retry() == 1
    assert checkpoints.outcome(trial.key) is None


def start_sweeps_with(
    start: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let `run_sweep` start sweeps with ``start``, and read no data."""

    def add_fingerprints(searches: list[SearchPlan]) -> list[SearchPlan]:
        return [replace(search, fingerprint="0" * 16) for search in searches]

    monkeypatch.setattr(driver, "start", start)
    monkeypatch.setattr(driver, "resolve", lambda searches, say: searches)
    monkeypatch.setattr(driver, "trial_seconds", lambda searches: {})
    monkeypatch.setattr(driver, "with_fingerprints", add_fingerprints)


def test_rows_are_written_when_the_driver_fails(
    store: ResultsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end_one_trial_and_fail(controller: SweepController, *rest: object) -> None:
        monkeypatch.setattr(Recorder, "flush_due", lambda self: None)
        trial = start_trial(controller)
        *_, last_report = fake_reports(trial)
        controller.finish(trial.key, last_report)
        raise UserError("the cluster is gone")

    start_sweeps_with(end_one_trial_and_fail, monkeypatch)
    with pytest.raises(UserError, match="the cluster is gone"):
        driver.run_sweep(fake_spec(), store, executor=InlineExecutor())
    assert len(store.load(SWEEP)) == 1
    state = live.read(store.folder, SWEEP)
    assert state is not None
    assert state.holder is None


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def read_keys(store: ResultsStore) -> set[str]:
    """Return the trial keys that a new reader of the store finds."""
    return set(ResultsStore(store.uri).load("pocket/quick"))


def test_a_record_after_a_quiet_time_is_written_at_once_and_the_next_ones_together(
    store: ResultsStore, clock: Clock
) -> None:
    writer = Recorder(store, "pocket/quick")
    writer.add(records=[make_record("a")], curves=[make_point("a")])
    assert read_keys(store) == {"a"}
    for key in "bcd":
        clock.now += 0.5
        writer.add(records=[make_record(key)])
        writer.flush_due()
    assert read_keys(store) == {"a"}
    clock.now += 0.5
    writer.flush_due()
    assert read_keys(store) == set("abcd")
    assert len(files_of(store)) == 2
    assert len(store.curves()) == 1


def test_many_records_do_not_wait(store: ResultsStore, clock: Clock) -> None:
    writer = Recorder(store, "pocket/quick")
    for number in range(MAX_RECORDS + 1):  # the first one is written at once
        writer.add(records=[make_record(str(number))])
    assert len(read_keys(store)) == MAX_RECORDS + 1
    assert len(files_of(store)) == 2


def test_rows_and_checkpoints_wait_until_the_store_and_the_lease_allow_a_write(
    store: ResultsStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed = mock.Mock()
    monkeypatch.setattr(Checkpoints, "remove", removed)
    lost = UserError("another driver")
    check_lease = mock.Mock(side_effect=[lost, None, None, lost, None, None])
    writer = Recorder(store, "pocket/quick", before=check_lease)
    writer._ended.append("a")
    with pytest.raises(UserError, match="another driver"):
        writer.add(records=[make_record("a")])
    full_disk = mock.Mock(side_effect=UserError("no space"))
    with monkeypatch.context() as patch:
        patch.setattr(store.folder, "write", full_disk)
        with pytest.raises(UserError, match="no space"):
            writer.flush()
    assert not read_keys(store)
    with pytest.raises(UserError, match="another driver"):
        writer.flush()
    assert read_keys(store) == {"a"}
    removed.assert_not_called()
    writer.flush()
    writer.flush_due()
    removed.assert_called_once_with("a")


def test_a_store_that_cannot_be_compacted_has_all_records_nevertheless(
    store: ResultsStore,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    writer = Recorder(store, "pocket/quick")
    writer.add(records=[make_record("a")])
    writer.close([])
    full_disk = mock.Mock(side_effect=UserError("no space"))
    monkeypatch.setattr(store, "compact", full_disk)
    writer.tidy(["a"], [])
    assert "all scores are stored" in caplog.text
    assert "no space" in caplog.text
    assert read_keys(store) == {"a"}


def test_a_duration_does_not_follow_the_system_time() -> None:
    start = Start(at=datetime.now(UTC) + timedelta(minutes=10))  # set back meanwhile
    assert 0 <= start.seconds() < 60


def test_a_copied_trial_counts_as_the_last_attempt(store: ResultsStore) -> None:
    first = make_record("a")
    second = make_record("b", sweep="pocket/full")
    store.append([first, second], [make_point("a", n, loss=None) for n in (1, 2)])
    lost = make_record(
        "a", sweep="late", status=Status.LOST, test_score=None, attempts=2
    )
    points_of_lost = [
        make_point("a", epoch, sweep="late", attempt=2, loss=9.0) for epoch in (1, 2, 3)
    ]
    store.append([lost], points_of_lost)
    copy_trials(store, [first, second], "late")
    assert store.load("late") == {
        "a": replace(first, sweep="late", attempts=3),
        "b": replace(second, sweep="late"),
    }
    assert list(store.curves("late")["epoch"]) == [1, 2]
    assert set(store.load("pocket/quick")) == {"a"}


def test_late_outcomes_of_a_driver_that_lost_the_sweep_do_not_stay(
    store: ResultsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would replace a later run of trials that the next driver has recorded."""
    checkpoints = Checkpoints(store.uri)
    keys = {status: f"{number:020x}" for number, status in enumerate(Status)}
    not_recorded = "f" * 20

    def lose_the_sweep(controller: SweepController, *rest: object) -> None:
        for status, key in keys.items():
            store.append([make_record(key, sweep=SWEEP, status=status)])
        for key in (*keys.values(), not_recorded):
            checkpoints.save_outcome(key, TrialReport(status=Status.COMPLETED))
        raise LostLeaseError("another driver has taken over")

    start_sweeps_with(lose_the_sweep, monkeypatch)
    with pytest.raises(LostLeaseError, match="another driver has taken over"):
        driver.run_sweep(fake_spec(), store, executor=InlineExecutor())
    for status, key in keys.items():
        stays = checkpoints.outcome(key) is not None
        assert stays is status.failed, "the next driver may run failed trials again"
    assert checkpoints.outcome(not_recorded) is not None
