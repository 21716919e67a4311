"""Two drivers of one sweep: exactly one gets each lease number, and its rows count."""

import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from benchmarks.drivers import drivers, problems, stand_still
from orca_ray.errors import UserError
from orca_ray.results import live
from orca_ray.results.folder import Folder, LocalFolder
from orca_ray.results.lease import Lease
from orca_ray.results.live import FencedFiles, Fences, LiveState
from orca_ray.results.record import Status
from orca_ray.results.store import ResultsStore
from tests.results.factories import make_point, make_record, make_suggestion

SWEEP = "pocket/quick"
QUICK = {"renew_seconds": 0.05, "expiry_seconds": 0.2}


def take_number(store: ResultsStore, number: int) -> bool:
    """Take a lease number of the sweep, and return whether it was free."""
    state = LiveState(sweep=SWEEP)
    return store.folder.write_new(live.path_of(SWEEP, number), state.encode())


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return ResultsStore(tmp_path / "results", create=True).uri


def read_keys(store: ResultsStore) -> list[str]:
    """Return the sorted keys of the records; check that boards see the same."""
    loaded = sorted(store.load(SWEEP))
    assert sorted(record.trial_key for record in store.select({})) == loaded
    return loaded


def test_what_a_driver_appends_after_it_lost_the_lease_does_not_count(
    uri: str, monkeypatch: Any
) -> None:
    first = ResultsStore(uri)
    second = ResultsStore(uri)
    slow = Lease(first, SWEEP, **QUICK)
    quick = Lease(second, SWEEP, **QUICK)
    slow.__enter__()
    first.append(
        [make_record("a")], [make_point("a")], suggestions=[make_suggestion(0)]
    )
    stand_still(slow)
    monkeypatch.setattr("orca_ray.results.lease.ended_here", lambda holder: False)
    with quick:
        assert slow.number == 1
        assert quick.number == 2
        first.append(
            [make_record("b")], [make_point("b")], suggestions=[make_suggestion(1)]
        )
        second.append([make_record("c")])
        for store in (first, second, ResultsStore(uri)):
            assert read_keys(store) == ["a", "c"]
            assert list(store.curves()["trial_key"]) == ["a"]
            assert [row.number for row in store.journal(SWEEP)] == [0]
        ResultsStore(uri).compact()
        first.append([make_record("d")])
        assert read_keys(ResultsStore(uri)) == ["a", "c"]
        assert ResultsStore(uri).compact() == 1, "the file of d"
        slow._renewed -= 3600
        with pytest.raises(UserError, match="has taken over: this one ends"):
            slow.check()
    for state in (Path(uri) / live.DIRECTORY).glob("*.json"):
        state.unlink()
    with Lease(ResultsStore(uri), SWEEP, **QUICK) as third:
        assert third.number == 3, "though a user has deleted the live states"
        # The second is no driver any more, and has lost nothing.
        second.append([make_record("e")])
        assert read_keys(ResultsStore(uri)) == ["a", "c", "e"]


def test_a_compaction_waits_until_a_new_driver_has_listed_the_files(
    uri: str, monkeypatch: Any
) -> None:
    """The old driver appends after the listing, before the list is written."""
    old = ResultsStore(uri)
    new = ResultsStore(uri)
    lease = Lease(old, SWEEP, **QUICK).__enter__()
    for key in "ab":
        old.append([make_record(key)])
    stand_still(lease)
    assert take_number(new, 2)
    write = LocalFolder.write

    def write_late(folder: LocalFolder, path: str, content: Any) -> None:
        if path.endswith(".sealed"):
            old.append([make_record("late")])
            assert read_keys(ResultsStore(uri)) == ["a", "b", "late"], "not yet decided"
            assert ResultsStore(uri).compact() == 0
        write(folder, path, content)

    monkeypatch.setattr(LocalFolder, "write", write_late)
    new.append_as(SWEEP, 2)
    assert read_keys(new) == read_keys(old) == ["a", "b"]
    assert ResultsStore(uri).compact() == 3
    assert read_keys(new) == ["a", "b"]


def test_the_next_driver_decides_for_one_that_died_before_it_listed(uri: str) -> None:
    first = ResultsStore(uri)
    stand_still(Lease(first, SWEEP, **QUICK).__enter__())
    first.append([make_record("a")])
    assert take_number(first, 2)
    with Lease(ResultsStore(uri), SWEEP, **QUICK) as third:
        assert third.number == 3
        first.append([make_record("b")])
        assert read_keys(ResultsStore(uri)) == ["a"]


@pytest.mark.parametrize(
    "directory", ["records", "logs", "artefacts", "curves", "journal"]
)
def test_rows_that_arrive_during_the_listing_count_with_their_record(
    uri: str, directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ResultsStore(uri)
    second = ResultsStore(uri)
    first.append_as(SWEEP, 1)
    names = LocalFolder.names
    waiting = ["a"]

    def list_and_append(
        folder: LocalFolder, path: str = "", **options: bool
    ) -> list[str]:
        names_before = names(folder, path, **options)
        if path == directory and waiting:
            key = waiting.pop()
            first.append(
                [make_record(key)], [make_point(key)], suggestions=[make_suggestion(0)]
            )
        return names_before

    with monkeypatch.context() as patch:
        patch.setattr(LocalFolder, "names", list_and_append)
        second.append_as(SWEEP, 2)
    assert not waiting
    if second.load(SWEEP):
        assert len(second.curves()) == len(second.journal(SWEEP)) == 1


def test_a_list_that_is_stored_after_a_later_one_decides_nothing(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second driver stands still before it stores its list.

    The first one still writes meanwhile.
    """
    first = ResultsStore(uri)
    second = ResultsStore(uri)
    third = ResultsStore(uri)
    for number in (1, 2):
        assert take_number(first, number)
    first.append_as(SWEEP, 1)
    write = LocalFolder.write

    def write_late(folder: LocalFolder, path: str, content: Any) -> None:
        if path.endswith(".2.sealed"):
            first.append([make_record("a")])
            assert take_number(third, 3)
            third.append_as(SWEEP, 3)
            assert read_keys(third) == ["a"]
        write(folder, path, content)

    with monkeypatch.context() as patch:
        patch.setattr(LocalFolder, "write", write_late)
        second.append_as(SWEEP, 2)
    second.append([make_record("b")])
    assert read_keys(ResultsStore(uri)) == read_keys(third) == ["a"]
    assert take_number(third, 4)
    assert ResultsStore(uri).compact() == 0, "the fourth has not decided yet"
    third.append_as(SWEEP, 4)
    assert read_keys(ResultsStore(uri)) == ["a"]
    assert ResultsStore(uri).compact() == 1


def test_a_driver_that_lost_the_lease_leaves_requests_to_the_next_one(uri: str) -> None:
    with Lease(ResultsStore(uri), SWEEP, renew_seconds=0.2) as lease:
        other = ResultsStore(uri)
        assert take_number(other, 2)
        live.write_request(other.folder, SWEEP, live.Request(live.STOP))
        lease._thread.join(10)
    [request] = live.take_requests(other.folder, SWEEP)
    assert request.kind == live.STOP


def test_other_sweeps_and_writers_without_a_lease_are_not_fenced(uri: str) -> None:
    first = ResultsStore(uri)
    other = ResultsStore(uri)
    with Lease(first, SWEEP, **QUICK), Lease(other, "pocket/full", **QUICK):
        other.append([make_record("x", sweep="pocket/full")])
    with Lease(ResultsStore(uri), SWEEP, **QUICK):
        other.append([make_record("y", sweep="pocket/full")])
        ResultsStore(uri).append([make_record("z", sweep="pocket/full")])
    assert sorted(ResultsStore(uri).load("pocket/full")) == ["x", "y", "z"]
    unowned = ["odd.parquet", f"records/{'0' * 20}-{'0' * 32}.parquet"]
    assert Fences(first.folder).find_fenced(unowned) == FencedFiles(set(), set())


def test_a_clock_that_is_behind_changes_no_order(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second attempt of a trial completes an hour before the first one fails."""
    failed = make_record(
        "a", status=Status.FAILED_CODE, test_score=None, minutes=90, attempts=3
    )
    points_of_failed = [make_point("a", epoch, attempt=3) for epoch in (1, 2, 3)]
    ResultsStore(uri).append(
        [failed], points_of_failed, suggestions=[make_suggestion(0)]
    )
    behind = ResultsStore(uri)
    assert behind.journal(SWEEP)
    an_hour_ago = time.time_ns() - 3600 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: an_hour_ago)
    completed = make_record("a", minutes=30, attempts=4)
    point_of_completed = make_point("a", 1, attempt=4, loss=7.0)
    suggestion = make_suggestion(0, values='{"a":2.5}')
    behind.append([completed], [point_of_completed], suggestions=[suggestion])
    for _ in range(2):  # before and after a compaction
        assert behind.load(SWEEP) == {"a": completed}
        assert behind.curves()["epoch"].tolist() == [1]
        assert behind.curves()["loss"].tolist() == [7.0]
        assert [row.values for row in behind.journal(SWEEP)] == ['{"a":2.5}']
        behind.compact()


def test_the_higher_attempt_counts_whatever_the_clocks_say(uri: str) -> None:
    store = ResultsStore(uri)
    first = make_record("b", status=Status.LOST, attempts=1, minutes=8)
    second = make_record("b", status=Status.LOST, attempts=2, minutes=7)
    store.append([second, first])
    assert store.load(SWEEP)["b"] == second
    assert store.select({}, "b") == [second], "boards see the same"


@pytest.mark.parametrize("is_local", [True, False])
def test_a_file_is_created_once(tmp_path: Path, is_local: bool) -> None:
    content = pa.py_buffer(b"one")
    other = pa.py_buffer(b"other")
    folder = LocalFolder(tmp_path) if is_local else Folder(tmp_path.as_uri())
    folder.create()
    assert folder.write_new("live/a.json", content)
    assert not folder.write_new("live/a.json", other)
    assert folder.write_new("live/a.json", content), "as after a lost reply"
    assert folder.read("live/a.json").equals(content)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_two_drivers_write_under_one_number(uri: str, seed: int) -> None:
    rows_by_number = drivers(uri, seed)
    assert problems(uri, rows_by_number) == []
    assert len(rows_by_number) >= 3
