"""Two drivers of one sweep: exactly one gets each lease number.

What the other driver appends later does not count.
"""

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


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return ResultsStore(tmp_path / "results", create=True).uri


def keys(store: ResultsStore) -> list[str]:
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
            assert keys(store) == ["a", "c"]
            assert list(store.curves()["trial_key"]) == ["a"]
            assert [row.number for row in store.journal(SWEEP)] == [0]
        ResultsStore(uri).compact()
        first.append([make_record("d")])
        assert keys(ResultsStore(uri)) == ["a", "c"]
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
        assert keys(ResultsStore(uri)) == ["a", "c", "e"]


def test_a_compaction_waits_until_a_new_driver_has_listed_the_files(
    uri: str, monkeypatch: Any
) -> None:
    """The old driver appends between the listing and the writing of the list."""
    old = ResultsStore(uri)
    new = ResultsStore(uri)
    lease = Lease(old, SWEEP, **QUICK).__enter__()
    for key in "ab":
        old.append([make_record(key)])
    stand_still(lease)
    assert new.folder.write_new(live.path_of(SWEEP, 2), LiveState(sweep=SWEEP).encode())
    write = LocalFolder.write

    def late(folder: LocalFolder, path: str, content: Any) -> None:
        if path.endswith(".sealed"):
            old.append([make_record("late")])
            assert keys(ResultsStore(uri)) == ["a", "b", "late"], "not yet decided"
            assert ResultsStore(uri).compact() == 0
        write(folder, path, content)

    monkeypatch.setattr(LocalFolder, "write", late)
    new.append_as(SWEEP, 2)
    assert keys(new) == keys(old) == ["a", "b"]
    assert ResultsStore(uri).compact() == 3
    assert keys(new) == ["a", "b"]


def test_the_next_driver_decides_for_one_that_died_before_it_listed(uri: str) -> None:
    first = ResultsStore(uri)
    stand_still(Lease(first, SWEEP, **QUICK).__enter__())
    first.append([make_record("a")])
    first.folder.write_new(live.path_of(SWEEP, 2), LiveState(sweep=SWEEP).encode())
    with Lease(ResultsStore(uri), SWEEP, **QUICK) as third:
        assert third.number == 3
        first.append([make_record("b")])
        assert keys(ResultsStore(uri)) == ["a"]


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

    def late(folder: LocalFolder, path: str = "", **options: bool) -> list[str]:
        names_before = names(folder, path, **options)
        if path == directory and waiting:
            key = waiting.pop()
            first.append(
                [make_record(key)], [make_point(key)], suggestions=[make_suggestion(0)]
            )
        return names_before

    with monkeypatch.context() as patch:
        patch.setattr(LocalFolder, "names", late)
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
        assert first.folder.write_new(
            live.path_of(SWEEP, number), LiveState(sweep=SWEEP).encode()
        )
    first.append_as(SWEEP, 1)
    write = LocalFolder.write

    def late(folder: LocalFolder, path: str, content: Any) -> None:
        if path.endswith(".2.sealed"):
            first.append([make_record("a")])
            assert third.folder.write_new(
                live.path_of(SWEEP, 3), LiveState(sweep=SWEEP).encode()
            )
            third.append_as(SWEEP, 3)
            assert keys(third) == ["a"]
        write(folder, path, content)

    with monkeypatch.context() as patch:
        patch.setattr(LocalFolder, "write", late)
        second.append_as(SWEEP, 2)
    second.append([make_record("b")])
    assert keys(ResultsStore(uri)) == keys(third) == ["a"]
    assert third.folder.write_new(
        live.path_of(SWEEP, 4), LiveState(sweep=SWEEP).encode()
    )
    assert ResultsStore(uri).compact() == 0, "the fourth has not decided yet"
    third.append_as(SWEEP, 4)
    assert keys(ResultsStore(uri)) == ["a"]
    assert ResultsStore(uri).compact() == 1


def test_a_driver_that_lost_the_lease_leaves_requests_to_the_next_one(uri: str) -> None:
    with Lease(ResultsStore(uri), SWEEP, renew_seconds=0.2) as lease:
        folder = ResultsStore(uri).folder
        assert folder.write_new(live.path_of(SWEEP, 2), LiveState(sweep=SWEEP).encode())
        live.write_request(folder, SWEEP, live.Request(live.STOP))
        lease._thread.join(10)
    (request,) = live.take_requests(folder, SWEEP)
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
    unowned = ["odd.parquet", "records/" + "0" * 20 + "-" + "0" * 32 + ".parquet"]
    assert Fences(first.folder).find_fenced(unowned) == FencedFiles(set(), set())


def test_a_clock_that_is_behind_changes_no_order(uri: str, monkeypatch: Any) -> None:
    """A failed attempt by a driver whose clock is ahead, then one that completes.

    The second attempt is shorter, and completes an hour "earlier".
    """
    failed = make_record(
        "a", status=Status.FAILED_CODE, test_score=None, minutes=90, attempts=3
    )
    completed = make_record("a", minutes=30, attempts=4)
    store = ResultsStore(uri)
    store.append(
        [failed],
        [make_point("a", epoch, attempt=3) for epoch in (1, 2, 3)],
        suggestions=[make_suggestion(0)],
    )
    behind = ResultsStore(uri)
    assert behind.journal(SWEEP)
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now - 3600 * 10**9)
    values = '{"a":2.5}'
    behind.append(
        [completed],
        [make_point("a", 1, attempt=4, loss=7.0)],
        suggestions=[make_suggestion(0, values=values)],
    )
    for _ in range(2):
        assert behind.load(SWEEP) == {"a": completed}
        assert behind.curves()[["epoch", "loss"]].to_numpy().tolist() == [[1, 7.0]]
        assert [row.values for row in behind.journal(SWEEP)] == [values]
        behind.compact()
    twice = [
        make_record("b", status=Status.LOST, attempts=number, minutes=9 - number)
        for number in (1, 2)
    ]
    behind.append(twice[::-1])
    assert behind.load(SWEEP)["b"] == twice[1]
    assert behind.select({}, "b") == [twice[1]], "boards see the same"


def test_a_file_is_created_once(tmp_path: Path) -> None:
    content = pa.py_buffer(b"one")
    other = pa.py_buffer(b"other")
    for folder in (
        LocalFolder(tmp_path / "local"),
        Folder((tmp_path / "local").as_uri()),
    ):
        folder.create()
        path = f"live/{type(folder).__name__}.json"
        assert folder.write_new(path, content)
        assert not folder.write_new(path, other)
        assert folder.write_new(path, content), "as after a lost reply"
        assert folder.read(path).equals(content)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_two_drivers_write_under_one_number(uri: str, seed: int) -> None:
    rows_by_number = drivers(uri, seed)
    assert problems(uri, rows_by_number) == []
    assert len(rows_by_number) >= 3
