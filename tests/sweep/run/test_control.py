"""Requests to a running sweep, its live state, and what happens to records that wait to
be written.
"""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from unittest import mock

import pytest

from orca_ray.errors import UserError
from orca_ray.results import live
from orca_ray.results.lease import Lease
from orca_ray.results.live import LiveState, Request
from orca_ray.results.record import Status
from orca_ray.results.status import sweep_status
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.executors.inline import InlineExecutor
from orca_ray.sweep.messages.causes import Cause, Failure
from orca_ray.sweep.messages.report import TrialReport
from orca_ray.sweep.plan.trial_spec import TrialSpec
from orca_ray.sweep.run import control, driver, recorder
from orca_ray.sweep.run.controller import SweepController
from orca_ray.sweep.run.events import Event, Listener, Message, TimeLeft
from orca_ray.sweep.run.recorder import MAX_RECORDS, Recorder
from orca_ray.sweep.run.searches import copy_trials
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
def held(store: ResultsStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lease]:
    monkeypatch.setattr(control, "_TICK_SECONDS", 0.0)
    with Lease(store, SWEEP, renew_seconds=0.02) as lease:
        yield lease


def ask(
    store: ResultsStore,
    controller: SweepController,
    kind: str,
    trial: str,
    true: Callable[[], bool],
) -> None:
    """Write a request, and let the controller do its periodic work until it is carried
    out.
    """
    live.write_request(store.folder, SWEEP, Request(kind, trial))
    work_until(true, controller)


def work_until(true: Callable[[], object], controller: SweepController) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        controller.tick()
        time.sleep(0.01)


def started(controller: SweepController) -> TrialSpec:
    trial = take(controller)
    controller.started(trial.key)
    return trial


def test_no_trial_starts_during_a_pause(store: ResultsStore, held: Lease) -> None:
    controller = new_controller(store, held)
    trial = started(controller)
    ask(store, controller, "pause", "", lambda: controller.control.paused)
    assert controller.next_trial() is None
    assert not controller.report(trial.key, next(fake_reports(trial)).progress)
    ask(store, controller, "resume", "", lambda: not controller.control.paused)
    assert controller.next_trial() is not None


def test_a_cancelled_trial_ends_with_its_own_status_and_runs_only_when_retried(
    store: ResultsStore, held: Lease
) -> None:
    events: list[Event] = []
    controller = new_controller(store, held, listener=events.append)
    trial = started(controller)
    reports = list(fake_reports(trial))
    assert not controller.report(trial.key, reports[0].progress)
    ask(
        store,
        controller,
        "cancel",
        "no such key",
        lambda: not waiting_requests(store, SWEEP),
    )
    ask(
        store,
        controller,
        "cancel",
        trial.key,
        lambda: trial.key in controller.control.cancelled,
    )
    assert controller.report(trial.key, reports[1].progress)
    record = controller.finish(trial.key, reports[1].stopped_early())
    assert (record.status, record.error, record.epochs) == (
        Status.CANCELLED,
        "cancelled by request",
        2,
    )
    assert Message(f"trial {trial.key} will be cancelled after its epoch") in events
    assert Message("trial no such key does not run and cannot be cancelled") in events
    controller.close()
    controller = new_controller(store, held)
    waits = started(controller)
    assert waits.key != trial.key
    assert controller.failed(waits.key, Failure(Cause.LOST, "gone", "")) is None
    ask(
        store,
        controller,
        "cancel",
        waits.key,
        lambda: waits.key in controller.control.cancelled,
    )


def test_a_sweep_stops_when_its_time_is_over(store: ResultsStore, held: Lease) -> None:
    events: list[Event] = []
    controller = new_controller(store, held, listener=events.append)
    for seconds, stopping in ((60.0, False), (-0.001, True)):
        controller.control.deadline = time.monotonic() + seconds
        controller.tick()
        assert controller.control.stopping is stopping
        assert controller.summary().time_over is stopping
    assert (
        Message(
            "the time is over: running trials save a checkpoint; the same command"
            " continues"
        )
        in events
    )


def test_a_retry_in_a_running_sweep_stays_in_the_store_until_its_trials_have_ended(
    store: ResultsStore, held: Lease
) -> None:
    controller = new_controller(store, held)
    *failed, other = (started(controller) for _ in range(3))
    for trial in failed:
        controller.finish(
            trial.key, TrialReport(status=Status.FAILED_USER, error="spoilt")
        )
    ask(store, controller, "retry", failed[0].key, lambda: controller.searches.retrying)
    assert len(waiting_requests(store, SWEEP)) == 1
    keys = {trial.key for trial in iter(controller.next_trial, None)}
    assert keys & {trial.key for trial in (*failed, other)} == {failed[0].key}
    assert {end(controller, trial).status for trial in (other, failed[0])} == {
        Status.COMPLETED
    }
    ask(store, controller, "pause", "", lambda: not waiting_requests(store, SWEEP))
    assert store.load(SWEEP)[failed[0].key].status is Status.COMPLETED


def fail_two(store: ResultsStore) -> list[str]:
    """Let two trials of a sweep fail, and return their keys; the driver then ends."""
    controller = new_controller(store)
    keys = [started(controller).key for _ in range(2)]
    for key in keys:
        controller.finish(key, TrialReport(status=Status.FAILED_USER, error="spoilt"))
    controller.close()
    return keys


def test_a_retry_is_not_lost_with_the_driver_that_took_it(store: ResultsStore) -> None:
    """The driver ends before it carries the request out, in between, or after."""
    failed = fail_two(store)
    live.write_request(store.folder, SWEEP, Request("retry"))
    with Lease(store, SWEEP) as lease:
        new_controller(store, lease)  # killed: neither closed nor asked for a trial
    with Lease(store, SWEEP) as lease:
        again = new_controller(store, lease)
        assert again.searches.retrying
        one = started(again)
        end(again, one)
        again.close()
    assert len(waiting_requests(store, SWEEP)) == 1
    with Lease(store, SWEEP) as lease:
        again = new_controller(store, lease)
        (other,) = play(again, most=1)
        assert {one.key, other.key} == set(failed)
        assert not again.searches.retrying
    assert waiting_requests(store, SWEEP) == []
    assert not new_controller(store).searches.retrying


class LateStager(Stager):
    """A stager that has staged its tasks when ``staged`` says so."""

    staged: tuple[Staged, ...] = ()

    def _poll(self, *, idle: bool) -> list[Staged]:
        found = list(self.staged)
        self.staged = ()
        return found


def unstaged(
    store: ResultsStore, listener: Listener | None = None
) -> tuple[SweepController, LateStager]:
    searches = [replace(plan, fingerprint="") for plan in fake_searches()]
    controller = SweepController(searches, store, executor="fake", listener=listener)
    controller.stager = stager = LateStager([])
    return controller, stager


def test_a_retry_also_holds_for_tasks_that_are_not_staged_yet(
    store: ResultsStore,
) -> None:
    failed = fail_two(store)
    controller, stager = unstaged(store)
    assert controller.retry() == 2
    assert controller.searches.retrying
    stager.staged = tuple(
        Staged(task, fake_searches()[0].fingerprint)
        for task in ("pocket/digits", "pocket/wdbc")
    )
    assert set(failed) <= {trial.key for trial in play(controller)}
    assert not controller.searches.retrying


def test_a_task_that_cannot_be_staged_leaves_the_others(store: ResultsStore) -> None:
    events = list[Event]()
    controller, stager = unstaged(store, events.append)
    stager.staged = (
        Staged("pocket/digits", error="no answer"),
        Staged("pocket/wdbc", fake_searches()[0].fingerprint),
    )
    assert {trial.task for trial in play(controller)} == {"pocket/wdbc"}
    summary = controller.summary()
    assert (summary.ran, summary.planned, summary.interrupted) == (12, 24, False)
    assert summary.unfinished == (
        "pocket/digits nft: no answer",
        "pocket/digits orca: no answer",
    )
    assert Message("pocket/digits: no trial can run: no answer") in events


def test_the_live_state_names_running_trials_and_progress(
    store: ResultsStore, held: Lease
) -> None:
    controller = new_controller(store, held)
    trial = started(controller)
    for report in list(fake_reports(trial))[:2]:
        controller.report(trial.key, report.progress, node="node7")

    def state() -> LiveState:
        return live.read(store.folder, SWEEP) or LiveState(sweep=SWEEP)

    work_until(lambda: state().running and state().running[0].epoch == 2, controller)
    [shown] = state().running
    assert (shown.key, shown.task, shown.node, shown.stage, shown.epochs) == (
        trial.key,
        trial.task,
        "node7",
        "refine",
        6,
    )
    assert shown.score == shown.best == report.progress[0].validation_score
    assert sum(row.planned for row in state().rows) == 24


def test_trials_without_a_worker_wait_in_the_live_state_and_do_not_run(
    store: ResultsStore, held: Lease
) -> None:
    controller = new_controller(store, held)
    first = started(controller)
    second = started(controller)
    assert controller.failed(first.key, Failure(Cause.LOST, "gone", "")) is None
    for_resources = take(controller)
    work_until(lambda: len(sweep_status(store, SWEEP).waiting) == 2, controller)
    found = sweep_status(store, SWEEP)
    assert ([trial.key for trial in found.running], found.num_running) == (
        [second.key],
        1,
    )
    assert {trial.key for trial in found.waiting} == {first.key, for_resources.key}
    assert (
        sum(row.running for row in found.rows),
        sum(row.waiting for row in found.rows),
    ) == (1, 2)


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
    trial = started(controller)
    reports = list(fake_reports(trial))
    controller.report(trial.key, (), log="Traceback\n")
    controller.failed(trial.key, Failure(Cause.CODE, "KeyError", ""))
    controller.close()
    [(attempt, text)] = store.logs(trial_key=trial.key)[["attempt", "text"]].itertuples(
        index=False
    )
    assert (attempt, text) == (1, "Traceback\n")
    assert started(controller) == trial
    controller.report(trial.key, reports[0].progress, log="one\n")
    for number in range(4000):
        controller.report(trial.key, (), log=f"line {number} {'x' * 40}\n")
    controller.report(
        trial.key, reports[1].progress, log="Traceback\nValueError: the end\n"
    )
    controller.finish(trial.key, reports[1].stopped_early())
    controller.close()
    logs = store.logs(trial_key=trial.key)
    assert set(logs["attempt"]) == {1, 2}
    text = "".join(logs["text"])
    assert text.endswith("Traceback\nValueError: the end\n")
    assert len(text) < 70_000
    assert "bytes left out]" in text


def test_a_checkpoint_stays_until_its_record_is_durable(
    store: ResultsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are deleted in a thread.

    Before trials run again it is waited for, so that these find none.
    """
    remove = Checkpoints.remove
    deleting = threading.Event()
    go_on = threading.Event()

    def slow_remove(checkpoints: Checkpoints, *keys: str) -> None:
        deleting.set()
        assert go_on.wait(20)
        remove(checkpoints, *keys)

    monkeypatch.setattr(Checkpoints, "remove", slow_remove)
    controller = new_controller(store)
    checkpoints = Checkpoints(store.uri)
    trial = started(controller)
    checkpoints.save_outcome(trial.key, TrialReport())
    controller.finish(trial.key, TrialReport(status=Status.FAILED_USER, error="spoilt"))
    assert not store.load(SWEEP)
    assert not deleting.is_set()
    monkeypatch.setattr(recorder, "MAX_SECONDS", 0.0)
    assert started(controller), "a slow store of checkpoints delays no trial"
    assert deleting.wait(20)
    assert set(store.load(SWEEP)) == {trial.key}
    assert checkpoints.outcome(trial.key) is not None, "the store is still busy with it"
    threading.Timer(0.2, go_on.set).start()
    assert controller.retry() == 1
    assert checkpoints.outcome(trial.key) is None


def test_rows_are_written_when_the_driver_fails(
    store: ResultsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(controller: SweepController, *_: object) -> None:
        monkeypatch.setattr(Recorder, "flush_due", lambda self: None)
        trial = started(controller)
        controller.finish(trial.key, list(fake_reports(trial))[-1])
        raise UserError("the cluster is gone")

    patches = {
        "start": fail,
        "resolve": lambda given, _: given,
        "trial_seconds": lambda _: {},
    }
    patches["with_fingerprints"] = lambda searches: [
        replace(search, fingerprint="0" * 16) for search in searches
    ]
    for name, value in patches.items():
        monkeypatch.setattr(driver, name, value)
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


def stored(store: ResultsStore) -> set[str]:
    return set(ResultsStore(store.uri).load("pocket/quick"))


def test_a_record_after_a_quiet_time_is_written_at_once_and_the_next_ones_together(
    store: ResultsStore, clock: Clock
) -> None:
    writer = Recorder(store, "pocket/quick")
    writer.add(records=[make_record("a")], curves=[make_point("a")])
    assert stored(store) == {"a"}
    for key in "bcd":
        clock.now += 0.5
        writer.add(records=[make_record(key)])
        writer.flush_due()
    assert stored(store) == {"a"}
    clock.now += 0.5
    writer.flush_due()
    assert stored(store) == set("abcd")
    assert len(files_of(store)) == 2
    assert len(store.curves()) == 1


def test_many_records_do_not_wait(store: ResultsStore, clock: Clock) -> None:
    writer = Recorder(store, "pocket/quick")
    for number in range(MAX_RECORDS + 1):  # the first one is written at once
        writer.add(records=[make_record(str(number))])
    assert len(stored(store)) == MAX_RECORDS + 1
    assert len(files_of(store)) == 2


def test_rows_and_checkpoints_wait_until_the_store_and_the_lease_allow_a_write(
    store: ResultsStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed = mock.Mock()
    monkeypatch.setattr(Checkpoints, "remove", removed)
    taken = UserError("another driver")
    writer = Recorder(
        store,
        "pocket/quick",
        before=mock.Mock(side_effect=[taken, None, None, taken, None, None]),
    )
    writer._ended.append("a")
    with pytest.raises(UserError, match="another driver"):
        writer.add(records=[make_record("a")])
    with monkeypatch.context() as patch:
        patch.setattr(
            store.folder, "write", mock.Mock(side_effect=UserError("no space"))
        )
        with pytest.raises(UserError, match="no space"):
            writer.flush()
    assert not stored(store)
    with pytest.raises(UserError, match="another driver"):
        writer.flush()
    assert stored(store) == {"a"}
    removed.assert_not_called()
    writer.flush()
    writer.flush_due()
    removed.assert_called_once_with("a")


def test_trials_that_are_copied_are_the_last_attempts(store: ResultsStore) -> None:
    records = [make_record("a"), make_record("b", sweep="pocket/full")]
    store.append(records, [make_point("a", epoch, loss=None) for epoch in (1, 2)])
    lost = make_record(
        "a", sweep="late", status=Status.LOST, test_score=None, attempts=2
    )
    store.append(
        [lost],
        [
            make_point("a", epoch, sweep="late", attempt=2, loss=9.0)
            for epoch in (1, 2, 3)
        ],
    )
    copy_trials(store, records, "late")
    copied = {
        "a": replace(records[0], sweep="late", attempts=3),
        "b": replace(records[1], sweep="late"),
    }
    assert store.load("late") == copied
    assert list(store.curves("late")["epoch"]) == [1, 2]
    assert set(store.load("pocket/quick")) == {"a"}
