"""The writer: few files, rows durable before their checkpoints go, nothing lost after a failure."""

from typing import Any

import pytest

from orca_ray.errors import UserError
from orca_ray.results.store import ResultsStore
from orca_ray.results.writer import MAX_RECORDS, Writer
from tests.results.factories import Clock, files_of, make_point, make_record


@pytest.fixture
def clock() -> Clock:
    return Clock()


def stored(store: ResultsStore) -> set[str]:
    return set(ResultsStore(store.uri).load("pocket/quick"))


def test_a_record_after_a_quiet_time_is_written_at_once_and_the_next_ones_together(
    store: ResultsStore, clock: Clock
) -> None:
    writer = Writer(store, clock=clock)
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
    writer = Writer(store, clock=clock)
    for number in range(MAX_RECORDS + 1):  # the first one is written at once
        writer.add(records=[make_record(str(number))])
    assert len(stored(store)) == MAX_RECORDS + 1
    assert len(files_of(store)) == 2


def test_what_depends_on_rows_follows_when_they_are_durable(store: ResultsStore, clock: Clock) -> None:
    writer, removed = Writer(store, clock=clock), list[str]()
    writer.add(records=[make_record("a")])
    writer.add(records=[make_record("b")], then=lambda: removed.append("b" if "b" in stored(store) else "too early"))
    assert not removed
    writer.flush()
    writer.flush()
    assert removed == ["b"]


def test_rows_survive_a_store_that_fails(store: ResultsStore, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, removed = Writer(store, clock=clock), list[str]()

    def full(path: str, content: Any) -> None:
        raise UserError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(store.folder, "write", full)
        with pytest.raises(UserError, match="no space"):
            writer.add(records=[make_record("a")], then=lambda: removed.append("a"))
    assert not removed
    writer.flush()
    assert stored(store) == {"a"}
    assert removed == ["a"]


def test_nothing_is_written_after_a_check_that_fails(store: ResultsStore, clock: Clock) -> None:
    def taken_over() -> None:
        raise UserError("another driver")

    writer = Writer(store, before=taken_over, clock=clock)
    with pytest.raises(UserError, match="another driver"):
        writer.add(records=[make_record("a")])
    assert not stored(store)


def test_compaction_of_recent_files_leaves_a_large_old_one(
    store: ResultsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orca_ray.results.store.MAX_FILES", 2)
    monkeypatch.setattr("orca_ray.results.store._RECENT_ROWS", 3)
    store.append([make_record(f"old-{number}") for number in range(20)])
    [large] = files_of(store)
    for key in "abc":
        store.append([make_record(key)])
    again = make_record("a", minutes=1, test_score=0.25)  # of equal rows, the last appended counts, merged or not
    store.append([again])
    assert store.compact_recent() == 4
    assert large in files_of(store)
    assert len(files_of(store)) == 2
    assert len(stored(store)) == 23
    assert store.load("pocket/quick")["a"] == again
    for number in range(12):
        store.append([make_record(f"new-{number}")])
    assert store.compact_recent() > 10
    assert len(stored(store)) == 35
