"""The lease of a sweep, which one driver holds at a time, and the state of a sweep."""

import errno
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from orca_ray.errors import UserError
from orca_ray.results import live
from orca_ray.results.folder import Folder, LocalFolder
from orca_ray.results.lease import Lease, driver_lives, ended_here, this_process
from orca_ray.results.live import LiveState, Request, RunningTrial
from orca_ray.results.marker import MARKER, SCHEMA_VERSION
from orca_ray.results.status import sweep_status
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.plan.searches import SearchPlan
from orca_ray.sweep.plan.spec import Overrides
from orca_ray.sweep.run import control
from orca_ray.sweep.run.controller import SweepController
from tests.results.factories import files_of, make_record, make_suggestion
from tests.sweep.fakes import fake_searches, fake_spec, play, waiting_requests

SWEEP = "pocket/quick"


BOTH = pytest.mark.parametrize("store", ["local", "remote"], indirect=True)
"""For tests of what a mounted file system and an object store do in different ways."""


@pytest.fixture
def store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ResultsStore:
    monkeypatch.setattr("orca_ray.results.folder._SETTLE_SECONDS", 0.05)
    store = ResultsStore(tmp_path / "results", create=True)
    if getattr(request, "param", "local") == "remote":
        # This folder is used as an object store is: without locks.
        store.folder = Folder((tmp_path / "results").as_uri())
    return store


def make_lease(store: ResultsStore, sweep: str = SWEEP, expiry: float = 1.0) -> Lease:
    return Lease(store, sweep, renew_seconds=0.05, expiry_seconds=expiry)


def read_state(store: ResultsStore, sweep: str = SWEEP) -> LiveState:
    live_state = live.read(store.folder, sweep)
    assert live_state is not None
    return live_state


def wait_until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.01)


def abandon(store: ResultsStore, **changes: Any) -> None:
    """Write the live state of a driver that was killed."""
    holder = replace(this_process(), id="dead", **changes)
    state = LiveState(sweep=SWEEP, holder=holder, sequence=7)
    store.folder.write(live.path_of(SWEEP, 1), state.encode())


class VirtualTime:
    """A clock and a pause for the module of the lease: a pause moves the clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.on_pause: Callable[[], None] | None = None

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.on_pause is not None:
            self.on_pause()


@pytest.fixture
def virtual_time(monkeypatch: pytest.MonkeyPatch) -> VirtualTime:
    virtual = VirtualTime()
    monkeypatch.setattr("orca_ray.results.lease.time", virtual)
    monkeypatch.setattr(
        "orca_ray.results.lease.seconds_since_boot", lambda: virtual.now
    )
    return virtual


@BOTH
def test_a_second_driver_is_refused_and_the_first_one_named(
    store: ResultsStore,
) -> None:
    message = r"another driver runs pocket/quick.*process \d+ on .*, since 20.*UTC"
    with make_lease(store):
        with pytest.raises(UserError, match=message) as caught:
            make_lease(store).__enter__()
        assert "orca-sweep status pocket/quick" in str(caught.value)
        assert read_state(store).holder is not None
    assert read_state(store).holder is None
    with make_lease(store):
        pass


@BOTH
def test_the_state_is_rewritten_with_a_higher_sequence(store: ResultsStore) -> None:
    trial = RunningTrial(
        key="k", task="t", method="m", phase="search", seed=1, attempt=1, started_at=""
    )
    with make_lease(store) as held:
        first = read_state(store).sequence
        held.publish(LiveState(sweep=SWEEP, running=(trial,), num_running=1))
        wait_until(lambda: read_state(store).running == (trial,))
        assert read_state(store).sequence > first
        assert driver_lives(store.folder, read_state(store))
        held.check()
    assert not read_state(store).running
    assert not driver_lives(store.folder, read_state(store))


def test_a_process_that_died_on_this_machine_is_succeeded_at_once(
    store: ResultsStore, virtual_time: VirtualTime
) -> None:
    abandon(store, pid=2**22 + 1)
    with make_lease(store, expiry=60):
        assert virtual_time.now == 0.0, "nothing is waited for"
        assert read_state(store).sequence == 8


def test_a_reused_process_id_is_not_taken_for_the_dead_driver() -> None:
    assert ended_here(replace(this_process(), created=this_process().created - 100))
    assert not ended_here(this_process())
    assert not ended_here(replace(this_process(), pid=2**22 + 1, machine="another"))


def test_a_driver_of_another_machine_is_succeeded_when_it_has_expired(
    store: ResultsStore, virtual_time: VirtualTime
) -> None:
    abandon(store, machine="another", host="far")
    with make_lease(store, expiry=60.0):
        assert virtual_time.now == pytest.approx(60.0, abs=1.0)


def test_a_driver_of_another_machine_counts_as_dead_when_it_has_expired(
    store: ResultsStore, virtual_time: VirtualTime
) -> None:
    abandon(store, machine="another", host="far")
    messages = list[str]()
    lives = driver_lives(
        store.folder, read_state(store), messages.append, expiry_seconds=60.0
    )
    assert not lives
    assert virtual_time.now == pytest.approx(60.0, abs=1.0)
    [message] = messages
    sentence = r"no sign of life of process \d+ on far, .* after 60 s it counts as dead"
    assert re.match(sentence, message)


@BOTH
def test_of_many_drivers_one_succeeds_a_dead_one(store: ResultsStore) -> None:
    abandon(store, pid=2**22 + 1)
    won: list[Lease] = []
    refused: list[str] = []

    def drive(_: int) -> None:
        if isinstance(store.folder, LocalFolder):
            store_of_driver = ResultsStore(store.uri)
        else:
            store_of_driver = store
        # The expiry is longer than a busy machine may delay the first renewal.
        driver = make_lease(store_of_driver, expiry=20)
        try:
            won.append(driver.__enter__())
        except UserError as error:
            refused.append(str(error))

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(drive, range(6)))
    assert len(won) == 1
    assert len(refused) == 5
    won[0].check()
    won[0].__exit__(None, None, None)


@BOTH
def test_a_driver_learns_that_its_lease_was_taken(store: ResultsStore) -> None:
    with make_lease(store) as held:
        other = replace(this_process(), id="other", host="elsewhere")
        store.folder.write(
            live.path_of(SWEEP, 2),
            LiveState(sweep=SWEEP, holder=other, sequence=50).encode(),
        )
        wait_until(lambda: not held._thread.is_alive())
        with pytest.raises(
            UserError, match=r"on elsewhere, since .* has taken over: this one ends"
        ):
            held.check()
    assert read_state(store).holder == other, "the lease of the other driver must stay"


def test_a_driver_ends_when_a_newer_version_has_marked_the_store(
    store: ResultsStore,
) -> None:
    with make_lease(store) as held:
        held.check()
        marker = json.loads(store.folder.read(MARKER).to_pybytes())
        newer = json.dumps(marker | {"schema_version": SCHEMA_VERSION + 1})
        store.folder.write(MARKER, pa.py_buffer(newer.encode()))
        wait_until(lambda: not held._thread.is_alive())
        with pytest.raises(UserError, match=r"newer orca-ray .* This driver of"):
            held.check()


def test_a_driver_goes_on_while_the_version_cannot_be_read(
    store: ResultsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise UserError("the server is busy")

    with make_lease(store) as held:
        monkeypatch.setattr(store, "check_version", fail)
        sequence = read_state(store).sequence
        wait_until(lambda: read_state(store).sequence > sequence + 1)
        held.check()


def test_a_driver_that_was_suspended_for_half_of_the_expiry_asks_before_it_goes_on(
    store: ResultsStore,
) -> None:
    with make_lease(store, expiry=60.0) as held:
        held._ended.set()  # its thread stands still, as during a suspension
        held._thread.join()
        store.folder.write(
            live.path_of(SWEEP, 2),
            LiveState(sweep=SWEEP, holder=this_process(), sequence=50).encode(),
        )
        held.check()
        held._renewed -= 31.0
        with pytest.raises(UserError, match="has taken over"):
            held.check()


@BOTH
def test_a_file_of_a_driver_killed_as_it_created_it_does_not_block(
    store: ResultsStore,
) -> None:
    store.folder.write(live.path_of(SWEEP, 1), pa.py_buffer(b""))
    with make_lease(store, expiry=0.3):
        assert read_state(store).holder is not None


def test_a_deleted_live_state_is_written_again(store: ResultsStore) -> None:
    with make_lease(store):
        store.folder.delete(live.path_of(SWEEP, 1))
        wait_until(lambda: live.read(store.folder, SWEEP) is not None)


def test_requests_of_an_earlier_driver_and_damaged_ones_are_dropped_except_retries(
    store: ResultsStore,
) -> None:
    for kind in ("stop", "pause", "dance"):
        live.write_request(store.folder, SWEEP, Request(kind))
    live.write_request(store.folder, SWEEP, Request("retry", "k1"))
    store.folder.write(f"requests/{live.file_name(SWEEP)}/0.json", pa.py_buffer(b"[1"))
    with make_lease(store) as held:
        assert held.open_retries == (Request("retry", "k1"),)
        assert held.requests() == []
    names = [request.path.rpartition("/")[2] for request in held.open_retries]
    assert names == waiting_requests(store, SWEEP)


@BOTH
def test_a_retry_stays_until_it_is_carried_out(store: ResultsStore) -> None:
    for number in range(live.MAX_TAKEN):
        live.write_request(store.folder, SWEEP, Request("retry", f"k{number}"))
    with make_lease(store):
        pass  # its driver ended before it did anything
    with make_lease(store) as held:
        assert len(held.open_retries) == live.MAX_TAKEN
        live.write_request(store.folder, SWEEP, Request("retry", "last"))
        live.write_request(store.folder, SWEEP, Request("stop"))
        requests: list[Request] = []

        def have_both_arrived() -> bool:
            requests.extend(held.requests())
            return len(requests) == 2

        wait_until(have_both_arrived)
        assert requests == [Request("retry", "last"), Request("stop")]
        held.mark_carried_out(held.open_retries)
        wait_until(lambda: len(waiting_requests(store, SWEEP)) == 1)
        held.mark_carried_out(requests[:1])
    assert waiting_requests(store, SWEEP) == []


def test_a_driver_that_ends_while_another_waits_is_succeeded_at_once(
    store: ResultsStore, virtual_time: VirtualTime
) -> None:
    abandon(store, machine="another")
    ended = LiveState(sweep=SWEEP, sequence=8).encode()

    def end() -> None:
        store.folder.write(live.path_of(SWEEP, 1), ended)

    virtual_time.on_pause = end
    with make_lease(store, expiry=60.0):
        assert 0 < virtual_time.now <= 0.5, "one pause"


def plan_method(method: str) -> list[SearchPlan]:
    """Return the plans of one method in the fake sweep."""
    return fake_searches(fake_spec(overrides=Overrides(methods=[method])))


def test_a_driver_that_ends_because_the_disk_is_full_says_so(
    store: ResultsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: LocalFolder, path: str, content: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def append_to_a_full_disk() -> None:
        with monkeypatch.context() as patch, make_lease(store):
            patch.setattr(LocalFolder, "_write", refuse)
            store.append([make_record("a")])

    with pytest.raises(UserError, match="No space left"):
        append_to_a_full_disk()
    status = sweep_status(store, SWEEP)
    assert status.state == "stopped"
    assert status.holder is None
    assert "No space left on device. Free some disk space" in status.failure
    with make_lease(store):
        assert read_state(store).failure == ""


def test_a_store_that_is_gone_hides_no_error(store: ResultsStore) -> None:
    def lose_the_store() -> None:
        with make_lease(store):
            shutil.rmtree(store.uri)
            raise UserError("the first error")

    with pytest.raises(UserError, match="the first error"):
        lose_the_store()


@pytest.mark.parametrize("repeats", [False, True])
def test_ended_trials_without_a_record_are_not_done(
    store: ResultsStore, caplog: pytest.LogCaptureFixture, *, repeats: bool
) -> None:
    """A user has deleted a file of records.

    A suggestion that repeats another one has no record of its own, and is done.
    """
    keys = ["a", "b", "a" if repeats else "c"]
    suggestions = [
        make_suggestion(number, trial_key=key) for number, key in enumerate(keys)
    ]
    store.append([make_record("b")], suggestions=suggestions)
    store.append([make_record(key) for key in {*keys} - {"b"}])
    row = live.Row(task="pocket/digits", method="orca", planned=3, done=3)
    with make_lease(store) as held:
        held.publish(LiveState(sweep=SWEEP, rows=(row,)))
    assert sweep_status(store, SWEEP).state == "finished"
    assert not caplog.messages
    files_of(store)[0].unlink()
    status = sweep_status(store, SWEEP)
    assert status.done == 2
    assert status.state == "stopped"
    (message,) = caplog.messages
    assert message.startswith(f"1 trial(s) of {SWEEP} had ended, but {store.uri}/rec")


def test_records_of_an_earlier_command_are_no_progress_of_this_one(
    store: ResultsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_TICK_SECONDS", 0.0)
    first = SweepController(plan_method("nft"), store, executor="fake")
    play(first)
    first.close()
    with Lease(store, "fake/full") as held:
        plans = plan_method("orca")
        second = SweepController(plans, store, executor="fake", lease=held)
        play(second, most=2)
        second.tick()
        second.close()
    status = sweep_status(store, "fake/full")
    assert status.done == 2
    assert status.planned == 12
    assert status.state == "stopped"
    num_done = {
        row.method: row.done for row in status.rows if row.task == "pocket/wdbc"
    }
    assert num_done["nft"] == 6
