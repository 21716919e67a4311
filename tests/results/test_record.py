import dataclasses
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orca_ray.results.record import Record, Status
from orca_ray.results.tables import RECORDS, encode, from_rows
from tests.results.factories import decode, make_record

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
INTEGER = st.integers(-(2**63), 2**63 - 1)
REAL = st.floats(allow_nan=False)
SCORE = st.none() | st.floats(allow_nan=False, allow_infinity=False)
TIME = st.datetimes(timezones=st.just(UTC)) | st.datetimes(
    datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(timezone(timedelta(hours=5, minutes=30)))
)
BY_FIELD: dict[str, st.SearchStrategy[Any]] = {
    "phase": st.sampled_from(["search", "confirm"]),
    "protocol": st.sampled_from(["held-out", "paper"]),
    "validation_score": SCORE,
    "test_score": SCORE,
    "hyperparameters": st.dictionaries(TEXT, SCORE | TEXT, max_size=3).map(json.dumps),
}
BY_TYPE: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXT,
    str | None: st.none() | TEXT,
    int: INTEGER,
    int | None: st.none() | INTEGER,
    bool | None: st.none() | st.booleans(),
    float: REAL,
    float | None: st.none() | REAL,
    datetime: TIME,
    Status: st.sampled_from(list(Status)),
}


RECORDS_OF_ANY_VALUES = st.builds(
    Record, **{each.name: BY_FIELD.get(each.name, BY_TYPE[each.type]) for each in dataclasses.fields(Record)}
)


@pytest.mark.slow
@settings(max_examples=25)
@given(records=st.lists(RECORDS_OF_ANY_VALUES, max_size=4))
def test_records_come_back_equal_from_parquet(records: list[Record]) -> None:
    table = decode(encode(from_rows((r.to_row() for r in records), RECORDS)), RECORDS)
    assert [Record.from_row(row) for row in table.to_pylist()] == records
    assert all(Record.from_row(row).started_at.tzinfo is UTC for row in table.to_pylist())


@given(text=st.text())
def test_any_text_of_a_message_can_be_kept(text: str) -> None:
    record = make_record(error=f"\udcff{text}", notes=f"\udcff{text}")
    table = from_rows([record.to_row()], RECORDS)
    kept = Record.from_row(table.to_pylist()[0])
    assert kept.error is not None
    assert kept.error.startswith("?")
    assert len(kept.error) == len(text) + 1
    assert kept.notes == kept.error


def test_deterministic_part_holds_all_but_time_and_place() -> None:
    first = make_record()
    later = make_record(
        minutes=9, wall_seconds=540.0, executor="ray", node="there", attempts=2, peak_memory_mib=3.0, align_seconds=9.0,
        align_reused=True, samples_per_second=9.0,
    )  # fmt: skip
    assert first.reproducible() == later.reproducible()
    assert first.reproducible() != make_record(test_score=0.5000001).reproducible()
    assert set(first.to_row()) - set(first.reproducible()) == Record.RUN_COLUMNS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"phase": "final"}, "phase is one of search, confirm"),
        ({"protocol": "heldout"}, "protocol is one of held-out, paper"),
        ({"started_at": datetime(2026, 1, 1)}, "started_at needs a time zone"),
        ({"test_score": float("nan")}, "completed needs a finite test_score"),
        ({"status": Status.STOPPED_EARLY, "validation_score": float("inf")}, "finite validation_score"),
    ],
)
def test_impossible_records_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_record(**changes)


def test_a_failed_trial_may_have_any_score() -> None:
    assert [status for status in Status if not status.failed] == [Status.COMPLETED, Status.STOPPED_EARLY]
    assert make_record(status=Status.FAILED_NAN, validation_score=float("inf")).validation_score == float("inf")


def test_none_in_a_required_column_is_refused() -> None:
    row = make_record().to_row() | {"task": None}
    with pytest.raises((pa.ArrowException, ValueError)):
        encode(from_rows([row], RECORDS))
