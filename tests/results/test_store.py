"""The store: which rows are read back, compaction, crashes and damaged files."""

import errno
import itertools
import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pytest

from benchmarks.crashes import after_crashes
from benchmarks.fuzz_store import REPORTED, SAME, Fuzzer, make_store
from orca_ray.errors import UserError
from orca_ray.results.marker import MARKER
from orca_ray.results.parquet import footer_digest
from orca_ray.results.record import Status
from orca_ray.results.scan import hash_texts
from orca_ray.results.store import ResultsStore
from orca_ray.results.tables import RECORDS
from tests.results.factories import files_of, make_point, make_record, make_suggestion


class TestAppendAndRead:
    def test_what_was_appended_is_loaded(self, store: ResultsStore) -> None:
        first = make_record("a", minutes=3)
        second = make_record("b", best_epoch=None, error="line 1\nline 2")
        other = make_record("a", sweep="pocket/full")
        store.append([first, other], [make_point("a", 2), make_point("a", 1)])
        store.append([second])
        reopened = ResultsStore(store.uri)
        in_order_of_finishing = reopened.records(sweep="pocket/quick")
        assert in_order_of_finishing["trial_key"].tolist() == ["b", "a"]
        assert reopened.load("pocket/quick") == {"a": first, "b": second}
        assert reopened.load("pocket/full") == {"a": other}
        assert len(reopened.records()) == 3
        assert len(reopened.records(sweep="pocket/full")) == 1
        assert reopened.records(benchmark="nasbench360").empty
        assert reopened.curves(trial_key="a")["epoch"].tolist() == [1, 2]
        assert reopened.curves(sweep="pocket/full").empty


class TestWhichRowCounts:
    @pytest.mark.parametrize("order", [1, -1])
    def test_success_wins_over_a_later_failure_and_a_later_attempt(
        self, store: ResultsStore, order: int
    ) -> None:
        completed = make_record("a", minutes=1, attempts=1)
        lost = make_record(
            "a", minutes=5, attempts=2, status=Status.LOST, test_score=None
        )
        for record in [completed, lost][::order]:
            store.append([record])
        assert store.load("pocket/quick") == {"a": completed}
        assert store.select({}) == [completed]
        assert store.compact() == 2
        assert store.load("pocket/quick") == {"a": completed}

    @pytest.mark.parametrize("order", [1, -1])
    @pytest.mark.parametrize("status", [Status.STOPPED_EARLY, Status.FAILED_OOM])
    def test_of_equals_the_latest_finished_wins(
        self, store: ResultsStore, status: Status, order: int
    ) -> None:
        old = make_record("a", minutes=1, status=status)
        new = make_record("a", minutes=2, status=status)
        store.append([old, new][::order])
        assert store.load("pocket/quick") == {"a": new}

    def test_a_point_appended_again_replaces_the_old_one(
        self, store: ResultsStore
    ) -> None:
        store.append([], [make_point(epoch=1, loss=9.0), make_point(epoch=2)])
        store.compact()
        store.append([], [make_point(epoch=1, loss=3.0)])
        store.append([], [make_point(epoch=1, stage="align", distance=1.0, loss=None)])
        for _ in range(2):
            curves = store.curves()
            assert curves[["stage", "epoch"]].to_numpy().tolist() == [
                ["align", 1],
                ["refine", 1],
                ["refine", 2],
            ]
            assert curves["loss"].tolist()[1] == 3.0
            store.compact()


class TestBadInput:
    @pytest.mark.parametrize("create", [True, False])
    def test_a_place_of_something_else_is_refused(
        self, tmp_path: Path, create: bool
    ) -> None:
        path = tmp_path / "thesis.tex"
        path.write_text("mine")
        for place, message in (
            (tmp_path, f"is not a results store: it has files but no {MARKER}"),
            (path, "is a file, not a results store"),
            (path / "below", "A part of the path is a file"),
        ):
            with pytest.raises(UserError, match=message):
                ResultsStore(place, create=create)
        assert [file.read_text() for file in tmp_path.iterdir()] == ["mine"]

    def test_a_missing_store_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(
            UserError,
            match=r"no results at .*/none: run `orca-sweep benchmark NAME` first",
        ):
            ResultsStore(tmp_path / "none")
        assert not (tmp_path / "none").exists()

    @pytest.mark.parametrize(
        "content",
        ["", "{", "[]", '{"format": "other", "schema_version": 1}', '{"format": 3}'],
    )
    def test_a_damaged_marker_is_refused(
        self, store: ResultsStore, content: str
    ) -> None:
        (Path(store.uri) / MARKER).write_text(content)
        with pytest.raises(UserError, match=f"{MARKER} is damaged"):
            ResultsStore(store.uri, create=True)

    def test_a_newer_version_is_refused(self, store: ResultsStore) -> None:
        path = Path(store.uri) / MARKER
        marker = json.loads(path.read_text())
        marker |= {"schema_version": 8, "created_by": "9.0"}
        path.write_text(json.dumps(marker))
        message = r"newer orca-ray \(schema 8, this one reads up to 7; created by 9.0\)"
        with pytest.raises(UserError, match=message):
            ResultsStore(store.uri)

    def test_a_truncated_file_is_named_wherever_it_is_cut(
        self, store: ResultsStore
    ) -> None:
        for key in "ab":
            store.append([make_record(key)])
        victim = files_of(store)[0]
        whole = victim.read_bytes()
        for size in (0, 3, 4, 8, 11, len(whole) // 2, len(whole) - 8, len(whole) - 1):
            victim.write_bytes(whole[:size])
            for action in (
                store.records,
                store.compact,
                lambda: store.load("pocket/quick"),
            ):
                with pytest.raises(
                    UserError, match=f"{victim} is truncated or damaged .*move it out"
                ):
                    action()
        assert len(files_of(store)) == 2
        victim.rename(victim.parents[1] / "elsewhere.parquet")
        assert set(store.load("pocket/quick")) == {"b"}

    def test_a_store_that_was_deleted_under_a_sweep_is_not_made_again(
        self, store: ResultsStore
    ) -> None:
        Path(store.uri).rename(Path(store.uri).with_name("moved"))
        with pytest.raises(
            UserError, match="is gone: it was moved or deleted while in use"
        ):
            store.append([make_record()])
        assert not Path(store.uri).exists()


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (
            errno.ENOSPC,
            r"cannot write .*No space left on device\. Free some disk space",
        ),
        (errno.EACCES, "Check the permissions"),
    ],
)
def test_a_write_that_fails_leaves_nothing_behind(
    store: ResultsStore, monkeypatch: pytest.MonkeyPatch, number: int, message: str
) -> None:
    store.append([make_record("a")])
    before = files_of(store)
    monkeypatch.setattr(
        os, "fsync", mock.Mock(side_effect=OSError(number, os.strerror(number)))
    )
    with pytest.raises(UserError, match=message):
        store.append([make_record("b")])
    assert files_of(store) == before
    assert set(store.load("pocket/quick")) == {"a"}


def test_suggestions_come_back_by_method_and_number(store: ResultsStore) -> None:
    assert store.journal("pocket/quick") == []
    assert store.compact() == 0
    first = make_suggestion(0, known="[]")
    second = make_suggestion(1, known="[[0,0],[5,7]]")
    third = make_suggestion(2, known=None)
    of_nft = make_suggestion(method="nft")
    store.append(suggestions=[third, first, second])
    store.append(suggestions=[make_suggestion(sweep="other"), of_nft])
    expected = [of_nft, first, second, third]
    for _ in range(2):
        assert ResultsStore(store.uri).journal("pocket/quick") == expected
        store.compact()
    assert len(files_of(store, "journal")) == 1
    assert len(store.records()) == 0


def test_of_two_equal_numbers_both_trials_are_kept_and_the_last_row_of_each(
    store: ResultsStore,
) -> None:
    store.append(suggestions=[make_suggestion()])
    store.append(
        suggestions=[make_suggestion(values="{}"), make_suggestion(trial_key="z")]
    )
    rows = [(row.trial_key, row.values) for row in store.journal("pocket/quick")]
    assert rows == [("k0", "{}"), ("z", '{"a":1.5}')]


def test_compaction_of_recent_files_leaves_a_large_old_one(
    store: ResultsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orca_ray.results.store.MAX_FILES", 2)
    monkeypatch.setattr("orca_ray.results.store._RECENT_ROWS", 3)
    store.append([make_record(f"old-{number}") for number in range(20)])
    [large] = files_of(store)
    for key in "abc":
        store.append([make_record(key)])
    # Of rows of equal rank, the last appended counts, merged or not.
    repeated = make_record("a", minutes=1, test_score=0.25)
    store.append([repeated])
    assert store.num_written == 5
    assert store.compact_recent() == 4
    assert store.num_written == 0
    assert large in files_of(store)
    assert len(files_of(store)) == 2
    assert len(store.load("pocket/quick")) == 23
    assert store.load("pocket/quick")["a"] == repeated
    for number in range(12):
        store.append([make_record(f"new-{number}")])
    assert store.compact_recent() > 10
    assert len(store.load("pocket/quick")) == 35


class TestCompaction:
    def test_a_table_is_merged_into_one_file_with_every_distinct_row(
        self, store: ResultsStore
    ) -> None:
        attempts = [
            make_record("a", minutes=number, status=Status.LOST, attempts=number)
            for number in (1, 2, 3)
        ]
        first = attempts[0]
        for record in [*attempts, first]:
            store.append([record], [make_point(epoch=record.attempts)])
        assert store.compact() == 8
        assert len(files_of(store)) == len(files_of(store, "curves")) == 1
        assert store._read_rows(RECORDS).num_rows == 3
        assert store.compact() == 0

    def test_only_what_was_read_is_deleted(
        self, store: ResultsStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.append([make_record("a")])
        store.append([make_record("b")])
        write = store.folder.write

        def write_beside_a_writer(path: str, content: Any) -> None:
            if path.startswith("records"):
                ResultsStore(store.uri).append([make_record("c")])
            write(path, content)

        monkeypatch.setattr(store.folder, "write", write_beside_a_writer)
        assert store.compact() == 2
        assert set(ResultsStore(store.uri).load("pocket/quick")) == {"a", "b", "c"}

    def test_a_listing_that_misses_old_and_merged_files_is_repeated(
        self, store: ResultsStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A listing while files come and go may show none of them."""
        for key in "ab":
            store.append([make_record(key)])
        names = store.folder.names
        listings = []

        def names_during_a_compaction(directory: str = "") -> list[str]:
            listings.append(directory)
            if len(listings) > 1:
                return names(directory)
            before = set(names(directory))
            assert ResultsStore(store.uri).compact() == 2
            return sorted(before & set(names(directory)))

        monkeypatch.setattr(store.folder, "names", names_during_a_compaction)
        assert set(store.load("pocket/quick")) == {"a", "b"}
        assert len(listings) == 2

    def test_endless_compactions_are_reported(
        self, store: ResultsStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answers = iter(range(10_000))
        monkeypatch.setattr(store, "_last_compaction", lambda: next(answers))
        with pytest.raises(UserError, match="compacted again and again"):
            store.records()

    def test_old_temporary_files_go_and_fresh_ones_stay(
        self, store: ResultsStore
    ) -> None:
        store.append([make_record()])
        for directory in (
            ".",
            "live",
            "records",
            "requests/fake-1234abcd",
            "models/0123456789abcdef0123",
        ):
            place = Path(store.uri) / directory
            place.mkdir(parents=True, exist_ok=True)
            for name in (".tmp-old.parquet", ".tmp-fresh.parquet"):
                (place / name).write_bytes(b"half")
            os.utime(place / ".tmp-old.parquet", (0, 0))
        assert len(store.records()) == 1
        store.compact()
        assert {path.name for path in Path(store.uri).rglob(".tmp-*")} == {
            ".tmp-fresh.parquet"
        }


@pytest.mark.slow
def test_compaction_survives_a_crash_at_every_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    operations: list[str] = []
    for store, operations in after_crashes(tmp_path, monkeypatch, ResultsStore.compact):
        for _ in range(2):  # before and after another compaction
            assert set(store.load("pocket/quick")) == set("abc"), operations
            assert len(store.records()) == 3, operations
            assert len(store.curves()) == 3, operations
            store.compact()
    # A table's merged file and the note of the compaction take a write, a rename and a
    # directory each; then three files are deleted.
    operations_of_table = 3 + 3 + 3
    num_tables = 2
    assert len(operations) == num_tables * operations_of_table


def test_append_is_all_or_nothing_at_every_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def append(store: ResultsStore) -> None:
        store.append([make_record("d"), make_record("e")], [make_point("d")])

    is_added = []
    for store_after, _ in after_crashes(tmp_path, monkeypatch, append):
        new_keys = set(store_after.load("pocket/quick")) - set("abc")
        assert new_keys in (set(), {"d", "e"})
        if new_keys:
            assert len(store_after.curves(trial_key="d")) == 1
        is_added.append(bool(new_keys))
    assert is_added == sorted(is_added)
    assert is_added[0] is False
    assert is_added[-1] is True


WRITER = """
import sys, time
from pathlib import Path
from orca_ray.results.store import ResultsStore
from tests.results.factories import make_point, make_record
role, uri = sys.argv[1:]
store = ResultsStore(uri, create=True)
stop = Path(uri).with_name("stop")
appended = 0
while not stop.exists():
    time.sleep(0.05)  # else files come faster than a busy machine compacts them
    if role == "compact":
        store.compact()
    else:
        key = f"{role}-{appended}"
        store.append([make_record(key)], [make_point(key)])
        appended += 1
print(appended, flush=True)
"""
"""Program that appends to the store at a URI, or compacts it, until it is stopped."""


@pytest.mark.slow
def test_writers_compactor_and_reader_at_the_same_time(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    # Which of the processes creates the store is not settled either.
    uri = str(tmp_path / "results")
    with ExitStack() as stack:
        processes = {
            role: stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", WRITER, role, uri],
                    stdout=subprocess.PIPE,
                    text=True,
                    cwd=root,
                )
            )
            for role in ("left", "right", "compact")
        }
        for process in processes.values():
            stack.callback(process.kill)
        store = ResultsStore(uri, create=True)
        keys = set[str]()
        compactions = set[str]()
        while len(compactions) < 3 or len(keys) < 20:
            keys_now = set(store.load("pocket/quick"))
            assert keys <= keys_now, "a record that was there is gone"
            keys = keys_now
            compactions.add(str(store._last_compaction()))
            assert all(process.poll() is None for process in processes.values())
        (tmp_path / "stop").touch()
        appended = {
            role: int(process.communicate(timeout=60)[0])
            for role, process in processes.items()
        }
    expected = {
        f"{role}-{index}"
        for role in ("left", "right")
        for index in range(appended[role])
    }
    assert set(store.load("pocket/quick")) == expected
    assert set(store.curves()["trial_key"]) == expected


@pytest.mark.parametrize(
    "flips",
    [
        pytest.param(200, marks=pytest.mark.slow),
        pytest.param(5000, marks=pytest.mark.exhaustive),
    ],
)
@pytest.mark.timeout(3600)
def test_no_flipped_bit_is_silent(tmp_path: Path, flips: int) -> None:
    fuzzer = Fuzzer(Path(make_store(tmp_path / "results").uri))
    checks = [
        fuzzer.check(flip) for flip in itertools.islice(fuzzer.flips(seed=flips), flips)
    ]
    assert [check for check in checks if check.outcome not in (SAME, REPORTED)] == []
    assert sum(check.outcome == REPORTED for check in checks) > flips / 2


@pytest.mark.parametrize("is_dense", [True, False])
def test_texts_that_differ_in_one_letter_have_different_hashes(is_dense: bool) -> None:
    """Words of 8 bytes are hashed; each of the 27 bytes counts."""
    text = "a" * 27
    texts = [text]
    texts += [text[:place] + "b" + text[place + 1 :] for place in range(len(text))]
    if not is_dense:  # a text of another length lies between
        texts.insert(5, "c")
    halves = hash_texts(pa.chunked_array([texts]))
    assert len(set(halves[0].tolist())) == len(texts)
    assert len(set(halves[1].tolist())) == len(texts)


def test_names_have_the_checksum_and_files_of_older_versions_are_read_without(
    store: ResultsStore,
) -> None:
    for key in "ab":
        store.append([make_record(key)], [make_point(key)])
    store.compact()
    store.append([make_record("c")])
    for path in (*files_of(store), *files_of(store, "curves")):
        digest = footer_digest(pa.py_buffer(path.read_bytes()))
        assert path.name.endswith(f".f{digest}.parquet")
        path.rename(path.with_name(f"{path.name.partition('.')[0]}.parquet"))
    assert set(ResultsStore(store.uri).load("pocket/quick")) == set("abc")
