"""Records and artefacts with their columns, and stores of older versions.

A store of an older version is read as it is; the first write raises the version.
"""

import base64
import dataclasses
import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca_ray.results import store as store_module
from orca_ray.results.artefacts import (
    MAX_BYTES,
    MAX_TRIAL_BYTES,
    Artefact,
    ArtefactRow,
    Image,
    Images,
    Quantised,
    parse_payload,
    rounded,
    within_limits,
)
from orca_ray.results.marker import MARKER, SCHEMA_VERSION
from orca_ray.results.parquet import MAX_TABLE_BYTES, encode
from orca_ray.results.record import Record, Status
from orca_ray.results.store import ResultsStore
from orca_ray.results.tables import ARTEFACTS, RECORDS, from_rows
from tests.results.factories import decode, files_of, make_point, make_record

INDIA = timezone(timedelta(hours=5, minutes=30))
NOTHING: dict[str, Any] = {
    field.name: None
    for field in dataclasses.fields(Record)
    if "None" in str(field.type)
}
"""None in every field that may be None."""
EXTREMES = [
    make_record(
        error="",
        notes="\0\r\n ü🙂",
        seed=-(2**63),
        num_parameters=2**63 - 1,
        wall_seconds=math.inf,
        phase="search",
        protocol="paper",
        validation_score=5e-324,
        test_score=-1.7e308,
        hyperparameters='{"ü": [null, 1e400]}',
        started_at=datetime(1, 1, 1, tzinfo=UTC),
        finished_at=datetime(2200, 1, 1, 0, 0, 0, 1, tzinfo=INDIA),
        align_plateaued=True,
        align_reused=False,
        cpus=-0.0,
    ),
    make_record(
        status=Status.FAILED_NAN,
        validation_score=math.inf,
        finished_at=datetime(9999, 12, 30, tzinfo=UTC),
    ),
    *(make_record(status=status, **NOTHING) for status in Status),
]


def test_records_come_back_equal_from_parquet() -> None:
    written = from_rows((record.to_row() for record in EXTREMES), RECORDS)
    table = decode(encode(written), RECORDS)
    records = [Record.from_row(row) for row in table.to_pylist()]
    assert records == EXTREMES
    assert {record.finished_at.tzinfo for record in records} == {UTC}


def test_two_statuses_are_successes() -> None:
    successes = [status for status in Status if not status.failed]
    assert successes == [Status.COMPLETED, Status.STOPPED_EARLY]


@given(text=st.text())
def test_any_text_of_a_message_can_be_kept(text: str) -> None:
    record = make_record(error=f"\udcff{text}", notes=f"\udcff{text}")
    table = from_rows([record.to_row()], RECORDS)
    stored = Record.from_row(table.to_pylist()[0])
    assert stored.error is not None
    assert stored.error.startswith("?")
    assert len(stored.error) == len(text) + 1
    assert stored.notes == stored.error


def test_the_reproducible_part_of_a_record_leaves_out_time_and_place() -> None:
    first = make_record()
    later = make_record(
        minutes=9,
        wall_seconds=540.0,
        executor="ray",
        node="there",
        attempts=2,
        peak_memory_mib=3.0,
        align_seconds=9.0,
        align_reused=True,
        samples_per_second=9.0,
    )
    assert first.reproducible_fields() == later.reproducible_fields()
    assert (
        first.reproducible_fields()
        != make_record(test_score=0.5000001).reproducible_fields()
    )
    assert set(first.to_row()) - set(first.reproducible_fields()) == Record.RUN_COLUMNS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"phase": "final"}, "phase is one of search, confirm"),
        ({"protocol": "heldout"}, "protocol is one of held-out, paper"),
        ({"started_at": datetime(2026, 1, 1)}, "started_at needs a time zone"),
        ({"test_score": float("nan")}, "completed needs a finite test_score"),
        (
            {"status": Status.STOPPED_EARLY, "validation_score": float("inf")},
            "finite validation_score",
        ),
    ],
)
def test_impossible_records_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_record(**changes)


NEW = sorted(RECORDS.later)
"""Columns that old files lack."""
FACTS: dict[str, Any] = {
    "metric_version": 2,
    "processor": "a processor",
    "cpus": 1,
    "gpus": 0.5,
    "training_loss": 0.3,
}


def write_old(path: Path, *records: Record) -> None:
    """Write a file of records as an older version of the schema had them."""
    rows = from_rows((record.to_row() for record in records), RECORDS)
    table = rows.drop_columns(NEW)
    assert table.num_columns == 46
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(encode(table))


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A store of version 3 with a completed and a failed trial."""
    path = tmp_path / "results"
    ResultsStore(path, create=True).append([], [make_point("a")])
    (path / MARKER).write_text(
        '{"format": "orca-ray results", "schema_version": 3, "created_by": "0.1.0"}'
    )
    failed = make_record(
        "b", status=Status.FAILED_OOM, test_score=None, error="no memory", minutes=2
    )
    write_old(path / "records" / f"{1:020d}-one.parquet", make_record("a"), failed)
    return path


def test_an_old_store_is_left_as_it_is_until_new_rows_come_and_read_with_nulls(
    old: Path,
) -> None:
    before = read_files(old)
    store = ResultsStore(old)
    assert store.load("pocket/quick")["a"] == make_record("a")
    assert len(store.curves()) == 1
    assert read_files(old) == before

    store.append([make_record("c", minutes=3, **FACTS)])
    frame = ResultsStore(old).records().set_index("trial_key", drop=False)
    assert list(frame.columns) == Record.SCHEMA.names
    assert frame.loc["c", NEW].to_dict() == FACTS
    assert frame.loc[["a", "b"], NEW].isna().all(axis=None)
    assert str(frame["metric_version"].dtype) == "Int64"
    assert str(frame["align_reused"].dtype) == "boolean"

    # A process of the older version that still runs may add a file of its own.
    write_old(old / "records" / f"{2:020d}-two.parquet", make_record("d", minutes=4))
    assert set(store.load("pocket/quick")) == {"a", "b", "c", "d"}


def read_files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("mixed", "num_rows"), [(True, 3), (False, 2)])
def test_compaction_keeps_old_rows_and_writes_the_new_columns(
    old: Path, mixed: bool, num_rows: int
) -> None:
    store = ResultsStore(old)
    if mixed:
        store.append([make_record("c", minutes=3, **FACTS)])
    # The same row twice counts once.
    write_old(old / "records" / f"{2:020d}-two.parquet", make_record("a"))
    before = store.load("pocket/quick")
    assert store.compact() > 0
    (merged,) = files_of(store)
    assert pq.read_schema(merged).names == Record.SCHEMA.names
    assert len(before) == num_rows
    assert pq.read_metadata(merged).num_rows == num_rows
    assert ResultsStore(old).load("pocket/quick") == before
    assert json.loads((old / MARKER).read_text())["schema_version"] == SCHEMA_VERSION


def test_the_first_write_raises_the_version_before_any_file_is_there(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ResultsStore(old)
    write = mock.Mock(wraps=store.folder.write)
    monkeypatch.setattr(store.folder, "write", write)
    store.append([make_record("c")], [make_point("c")])
    store.append([make_record("d")])
    written = [call.args[0].partition("/")[0] for call in write.call_args_list]
    assert written == [MARKER, "curves", "records", "records"]
    marker = json.loads((old / MARKER).read_text())
    assert marker["created_by"] == "0.1.0"
    assert marker["schema_version"] == SCHEMA_VERSION


def make_row(
    key: str = "k0", kind: str = "field", name: str = "first", payload: str = "{}"
) -> ArtefactRow:
    return ArtefactRow("pocket/quick", key, kind, name, payload)


def test_a_payload_is_that_of_the_documentation() -> None:
    values = Quantised.encode([[0.0, 1 / 3], [2 / 3, 1.0]])
    picture = Images(title="Test sample 0", panels=(Image("true", values),))
    assert json.loads(picture.to_json()) == {
        "form": "images",
        "title": "Test sample 0",
        "caption": "",
        "panels": [
            {
                "title": "true",
                "scale": "sequential",
                "values": {
                    "shape": [2, 2],
                    "low": 0.0,
                    "high": 1.0,
                    "data": "AFWq/w==",
                },
            }
        ],
    }
    assert list(base64.b64decode("AFWq/w==")) == [0, 85, 170, 255]


def test_quantised_values_are_off_by_at_most_half_a_step() -> None:
    values = np.random.default_rng(0).normal(size=(7, 5))
    step = (values.max() - values.min()) / 255
    decoded = Quantised.encode(values).decode()
    np.testing.assert_allclose(decoded, values, atol=step / 2 + 1e-12)
    clipped = Quantised.encode([-1.0, 0.5, 9.0], 0.0, 1.0).decode()
    np.testing.assert_allclose(clipped, [0, 128 / 255, 1])
    equal = Quantised.encode([3.0, 3.0]).decode()
    np.testing.assert_array_equal(equal, [3.0, 3.0])


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [np.inf]])
def test_values_that_are_not_finite_are_not_quantised(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        Quantised.encode(values)


def test_numbers_of_payloads_are_rounded() -> None:
    assert rounded(0.123456) == 0.1235
    assert rounded(12345.6) == 12350.0
    assert rounded(float("nan")) is None


def test_large_artefacts_are_refused_and_those_beyond_a_sum_dropped() -> None:
    with pytest.raises(ValueError, match=f"more than {MAX_BYTES}"):
        Artefact("field", "first", "x" * (MAX_BYTES + 1))
    full = [Artefact("field", str(number), "x" * MAX_BYTES) for number in range(6)]
    assert within_limits(full) == full[: MAX_TRIAL_BYTES // MAX_BYTES]
    assert within_limits([]) == []


@pytest.mark.parametrize("payload", ["[]", "{", '{"form":"song"}', "[" * 100_000])
def test_a_foreign_payload_is_refused(payload: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_payload(payload)


def test_artefacts_are_stored_with_their_record(store: ResultsStore) -> None:
    matrix = make_row("a", "confusion_matrix", "test", '{"form":"matrix"}')
    store.append([make_record("a")], artefacts=[make_row("a"), matrix])
    store.append([make_record("b")], artefacts=[make_row("b")])
    frame = store.artefacts(trial_key="a")
    assert [tuple(values) for values in frame.to_numpy()] == [
        ("pocket/quick", "a", "confusion_matrix", "test", '{"form":"matrix"}'),
        ("pocket/quick", "a", "field", "first", "{}"),
    ]
    assert list(store.artefacts(sweep="pocket/quick")["trial_key"]) == ["a", "a", "b"]
    assert store.artefacts(sweep="other").empty


def test_compaction_keeps_files_of_artefacts_small(
    store: ResultsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A merged file never exceeds what a file of a store may take in memory."""
    tables = [
        replace(table, file_rows=2) if table == ARTEFACTS else table
        for table in store_module._TABLES
    ]
    monkeypatch.setattr(store_module, "_TABLES", tables)
    for key in "01234":
        store.append([make_record(key)], artefacts=[make_row(key, payload=f'"{key}"')])
    store.compact()
    assert len(list((Path(store.uri) / "artefacts").glob("*.parquet"))) == 3
    assert list(store.artefacts(trial_key=["3", "1"])["payload"]) == ['"1"', '"3"']
    assert ARTEFACTS.file_rows * MAX_BYTES < MAX_TABLE_BYTES
