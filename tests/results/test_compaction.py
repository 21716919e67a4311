"""Files of a store that are merged, that a crash leaves, or in which a bit flips."""

import itertools
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from benchmarks.crashes import after_crashes
from benchmarks.fuzz_store import REPORTED, SAME, Fuzzer, make_store
from orca_ray.errors import UserError
from orca_ray.results.record import Status
from orca_ray.results.store import ResultsStore
from orca_ray.results.tables import RECORDS, encode, footer_digest, from_rows
from tests.results.factories import files_of, make_point, make_record


class TestCompaction:
    def test_merges_into_one_file_a_table_and_keeps_every_distinct_row(self, store: ResultsStore) -> None:
        attempts = [make_record("a", minutes=m, status=Status.LOST, attempts=m) for m in (1, 2, 3)]
        for record in [*attempts, attempts[0]]:
            store.append([record], [make_point(epoch=record.attempts)])
        assert store.compact() == 8
        assert len(files_of(store)) == len(files_of(store, "curves")) == 1
        assert store._table(RECORDS).num_rows == 3
        assert store.compact() == 0

    def test_only_what_was_read_is_deleted(self, store: ResultsStore, monkeypatch: pytest.MonkeyPatch) -> None:
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
        """A directory read while files come and go may show neither; that must not look like an empty store."""
        for key in "ab":
            store.append([make_record(key)])
        names, listings = store.folder.names, []

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

    def test_a_file_that_goes_between_listing_and_reading(
        self, store: ResultsStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for key in "ab":
            store.append([make_record(key)])
        read, reads = store.folder.open, []

        def read_after_a_compaction(path: str) -> Any:
            if path.startswith("records"):
                reads.append(path)
                if len(reads) == 2:
                    ResultsStore(store.uri).compact()
            return read(path)

        monkeypatch.setattr(store.folder, "open", read_after_a_compaction)
        assert set(store.load("pocket/quick")) == {"a", "b"}

    def test_endless_compactions_are_reported(self, store: ResultsStore, monkeypatch: pytest.MonkeyPatch) -> None:
        answers = iter(range(10_000))
        monkeypatch.setattr(store, "_last_compaction", lambda: next(answers))
        with pytest.raises(UserError, match="compacted again and again"):
            store.records()

    def test_old_temporary_files_go_and_fresh_ones_stay(self, store: ResultsStore) -> None:
        store.append([make_record()])
        for directory in ("records", "requests/fake-1234abcd", "models/0123456789abcdef0123"):
            place = Path(store.uri) / directory
            place.mkdir(parents=True, exist_ok=True)
            for name in (".tmp-old.parquet", ".tmp-fresh.parquet"):
                (place / name).write_bytes(b"half")
            os.utime(place / ".tmp-old.parquet", (0, 0))
        assert len(store.records()) == 1
        store.compact()
        assert {path.name for path in Path(store.uri).rglob(".tmp-*")} == {".tmp-fresh.parquet"}


@pytest.mark.slow
def test_compaction_survives_a_crash_at_every_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    for after, done in after_crashes(tmp_path, monkeypatch, ResultsStore.compact):
        for _ in range(2):
            assert set(after.load("pocket/quick")) == set("abc"), done
            assert len(after.records()) == len(after.curves()) == 3, done
            after.compact()
    # For each of two tables: merged file and note of the compaction (write, rename, directory), then three deletions.
    assert len(done) == 2 * (3 + 3 + 3)


def test_append_is_all_or_nothing_at_every_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    rows = [make_record("d"), make_record("e")], [make_point("d")]
    for after, _ in after_crashes(tmp_path, monkeypatch, lambda store: store.append(*rows)):
        added = set(after.load("pocket/quick")) - set("abc")
        assert added in (set(), {"d", "e"})
        assert not added or len(after.curves(trial_key="d")) == 1
        seen.append(bool(added))
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (False, True)


WRITER = """
import sys, time
from pathlib import Path
from orca_ray.results.store import ResultsStore
from tests.results.factories import make_point, make_record
role, uri = sys.argv[1:]
store, stop, appended = ResultsStore(uri, create=True), Path(uri).with_name("stop"), 0
while not stop.exists():
    time.sleep(0.05)  # else files come faster than a busy machine compacts them
    if role == "compact":
        store.compact()
    else:
        store.append([make_record(f"{role}-{appended}")], [make_point(f"{role}-{appended}")])
        appended += 1
print(appended, flush=True)
"""


@pytest.mark.slow
def test_writers_compactor_and_reader_at_the_same_time(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    uri = str(tmp_path / "results")  # which of the processes creates it is not settled either
    with ExitStack() as stack:
        processes = {
            role: stack.enter_context(
                subprocess.Popen([sys.executable, "-c", WRITER, role, uri], stdout=subprocess.PIPE, text=True, cwd=root)
            )
            for role in ("left", "right", "compact")
        }
        for process in processes.values():
            stack.callback(process.kill)
        store, seen, compactions = ResultsStore(uri, create=True), set[str](), set[str]()
        while len(compactions) < 3 or len(seen) < 20:
            now = set(store.load("pocket/quick"))
            assert seen <= now, "a record that was there is gone"
            seen = now
            compactions.add(str(store._last_compaction()))
            assert all(process.poll() is None for process in processes.values())
        (tmp_path / "stop").touch()
        appended = {role: int(process.communicate(timeout=60)[0]) for role, process in processes.items()}
    wanted = {f"{role}-{index}" for role in ("left", "right") for index in range(appended[role])}
    assert set(store.load("pocket/quick")) == set(store.curves()["trial_key"]) == wanted


@pytest.mark.parametrize(
    "flips", [pytest.param(200, marks=pytest.mark.slow), pytest.param(5000, marks=pytest.mark.exhaustive)]
)
@pytest.mark.timeout(3600)
def test_no_flipped_bit_is_silent(tmp_path: Path, flips: int) -> None:
    fuzzer = Fuzzer(Path(make_store(tmp_path / "results").uri))
    found = [fuzzer.check(flip) for flip in itertools.islice(fuzzer.flips(seed=flips), flips)]
    assert [each for each in found if each.outcome not in (SAME, REPORTED)] == []
    assert sum(each.outcome == REPORTED for each in found) > flips / 2


def test_every_bit_of_a_footer_is_in_its_checksum() -> None:
    content = bytes(encode(from_rows([make_record().to_row()], RECORDS)))
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    for place in (start, *range(start, len(content) - 8, 97), len(content) - 9, *range(len(content) - 8, len(content))):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        assert footer_digest(pa.py_buffer(changed)) != footer_digest(pa.py_buffer(content)), place
    changed = bytearray(content)
    changed[start - 1] ^= 1  # of a page, which has a checksum of its own
    assert footer_digest(pa.py_buffer(changed)) == footer_digest(pa.py_buffer(content))


def test_names_have_the_checksum_and_files_of_older_versions_are_read_without(store: ResultsStore) -> None:
    for key in "ab":
        store.append([make_record(key)], [make_point(key)])
    store.compact()
    store.append([make_record("c")])
    for path in (*files_of(store), *files_of(store, "curves")):
        assert path.name.endswith(f".f{footer_digest(pa.py_buffer(path.read_bytes()))}.parquet")
        path.rename(path.with_name(f"{path.name.partition('.')[0]}.parquet"))
    assert set(ResultsStore(store.uri).load("pocket/quick")) == set("abc")
