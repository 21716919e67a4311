"""Stores that an older orca-ray wrote: read as they are, raised by the first write, refused by the older one after."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from orca_ray.results.marker import MARKER, SCHEMA_VERSION
from orca_ray.results.record import Record, Status
from orca_ray.results.store import ResultsStore
from orca_ray.results.tables import RECORDS, encode, from_rows
from tests.results.factories import files_of, make_point, make_record

NEW = sorted(frozenset.union(*Record.LATER.values()))
FACTS: dict[str, Any] = {
    "align_epochs": 4, "align_plateaued": True, "align_reused": False, "notes": "a class was left out",
    "precision": "bfloat16", "micro_batch": 16, "samples_per_second": 120.5, "tokens_per_second": 3856.0,
    "model_flop_utilisation": 0.25, "deterministic": True, "align_chosen": 15,
    "metric_version": 2, "processor": "a processor", "cpus": 1.0, "gpus": 0.5,
}  # fmt: skip


def write_version(number: int, path: Path, *records: Record) -> None:
    """Write a file of records as an older version of the schema had them."""
    later = [name for version, names in Record.LATER.items() if version > number for name in names]
    table = from_rows((record.to_row() for record in records), RECORDS).drop_columns(later)
    assert table.num_columns == {1: 35, 2: 45}[number]
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(encode(table))


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A store of version 1 with a completed and a failed trial."""
    path = tmp_path / "results"
    ResultsStore(path, create=True).append([], [make_point("a")])
    (path / MARKER).write_text('{"format": "orca-ray results", "schema_version": 1, "created_by": "0.1.0"}')
    failed = make_record("b", status=Status.FAILED_OOM, test_score=None, error="no memory", minutes=2)
    write_version(1, path / "records" / f"{1:020d}-one.parquet", make_record("a"), failed)
    return path


def version(path: Path) -> Any:
    return json.loads((path / MARKER).read_text())["schema_version"]


def test_an_old_store_is_read_with_nulls_and_left_as_it_is(old: Path) -> None:
    before = {file: file.read_bytes() for file in old.rglob("*") if file.is_file()}
    store = ResultsStore(old)
    assert store.load("pocket/quick")["a"] == make_record("a")
    frame = store.records()
    assert list(frame.columns) == Record.SCHEMA.names
    assert frame[NEW].isna().all(axis=None)
    assert len(store.curves()) == 1
    assert {file: file.read_bytes() for file in old.rglob("*") if file.is_file()} == before


def test_old_and_new_files_are_read_together(old: Path) -> None:
    store = ResultsStore(old)
    store.append([make_record("c", minutes=3, **FACTS)])
    frame = ResultsStore(old).records().set_index("trial_key")
    assert frame.loc["c", NEW].to_dict() == FACTS
    assert frame.loc[["a", "b"], NEW].isna().all(axis=None)
    assert [str(frame[name].dtype) for name in ("align_epochs", "align_reused")] == ["Int64", "boolean"]
    # A process of the older version that still runs may add a file of its own.
    write_version(1, old / "records" / f"{2:020d}-two.parquet", make_record("d", minutes=4))
    write_version(2, old / "records" / f"{3:020d}-three.parquet", make_record("e", minutes=5, align_epochs=4))
    loaded = store.load("pocket/quick")
    assert set(loaded) == {"a", "b", "c", "d", "e"}
    assert (loaded["e"].align_epochs, loaded["e"].align_chosen) == (4, None)


@pytest.mark.parametrize("mixed", [True, False])
def test_compaction_keeps_old_rows_and_writes_the_new_columns(old: Path, mixed: bool) -> None:
    store = ResultsStore(old)
    if mixed:
        store.append([make_record("c", minutes=3, **FACTS)])
    again = make_record("a")
    write_version(1, old / "records" / f"{2:020d}-two.parquet", again)  # the same row twice counts once
    before = store.load("pocket/quick")
    assert store.compact() > 0
    (merged,) = files_of(store)
    assert pq.read_schema(merged).names == Record.SCHEMA.names
    assert pq.read_metadata(merged).num_rows == len(before) == (3 if mixed else 2)
    assert ResultsStore(old).load("pocket/quick") == before
    assert version(old) == SCHEMA_VERSION


def test_the_first_write_raises_the_version_before_any_file_is_there(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, written = ResultsStore(old), []
    write = store.folder.write

    def note(path: str, content: Any) -> None:
        written.append(path.partition("/")[0])
        write(path, content)

    monkeypatch.setattr(store.folder, "write", note)
    store.append([make_record("c")], [make_point("c")])
    store.append([make_record("d")])
    assert written == [MARKER, "curves", "records", "records"]
    assert json.loads((old / MARKER).read_text())["created_by"] == "0.1.0"
    assert version(old) == SCHEMA_VERSION
