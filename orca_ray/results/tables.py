"""The tables of a results store: columns, checks, and the choice among duplicates."""

import json
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from orca_ray.errors import UserError
from orca_ray.results.artefacts import MAX_BYTES, ArtefactRow
from orca_ray.results.logs import LogRow
from orca_ray.results.record import (
    PHASES,
    PROTOCOLS,
    CurvePoint,
    Record,
    Status,
    SuggestionRow,
)

_MAX_BRACKETS = 100
"""Largest number of brackets in JSON text; parsing deeply nested text takes long."""
SUCCESSES = tuple(status.value for status in Status if not status.failed)
"""Statuses of trials that have a usable score."""
_TIME_TYPE = Record.SCHEMA.field("started_at").type
_FIRST_TIME = pa.scalar(datetime.min.replace(tzinfo=UTC), _TIME_TYPE)
"""Earliest time that Python's `datetime` can hold."""
_LAST_TIME = pa.scalar(datetime.max.replace(tzinfo=UTC), _TIME_TYPE)
"""Latest time that Python's `datetime` can hold."""


@dataclass(frozen=True)
class ColumnCheck:
    """Result of the check of one column of a table."""

    column: str
    is_wrong: Any
    """Boolean mask of the rows with an invalid value."""
    allowed: str
    """The allowed values, in words."""


def _check_records(table: Any) -> Iterator[ColumnCheck]:
    """Yield the results of the checks of the columns of records that ``table`` has."""
    for name, allowed in (
        ("phase", PHASES),
        ("protocol", PROTOCOLS),
        ("status", tuple(Status)),
    ):
        if name in table.column_names:
            yield ColumnCheck(name, none_of(table[name], allowed), ", ".join(allowed))
    for name in ("validation_score", "test_score"):
        if name in table.column_names:
            yield ColumnCheck(
                name,
                _is_infinite_success(table, name),
                "finite numbers in trials that did not fail",
            )
    yield from _check_times(table, "started_at", "finished_at")
    if "hyperparameters" in table.column_names:
        yield ColumnCheck(
            "hyperparameters", _is_no_object(table["hyperparameters"]), "JSON objects"
        )


def _is_infinite_success(table: Any, name: str) -> Any:
    """Return a mask of the rows of successful trials with a score that is not finite.

    The column ``status`` is read only if there are such scores.
    """
    infinite = pc.invert(pc.is_finite(table[name].fill_null(0.0)))
    if not pc.any(infinite).as_py():
        return infinite
    return pc.and_(infinite, pc.invert(none_of(table["status"], SUCCESSES)))


def _check_times(table: Any, *names: str) -> Iterator[ColumnCheck]:
    """Yield the checks of columns of times; columns that ``table`` lacks are skipped.

    Python has no value for a time that is too early or too late.
    """
    for name in names:
        if name in table.column_names:
            is_early = pc.less(table[name], _FIRST_TIME)
            is_late = pc.greater(table[name], _LAST_TIME)
            yield ColumnCheck(
                name, pc.or_(is_early, is_late), "times in the years 1 to 9999"
            )


def _is_no_object(column: Any) -> Any:
    """Return a mask of the values of a text column that are no JSON objects."""
    texts = pc.unique(column).to_pylist()
    return none_of(column, [text for text in texts if _is_json_object(text)])


def none_of(column: Any, allowed: Collection[str]) -> Any:
    """Return a mask of the values of a text column that are not ``allowed``.

    The column may be dictionary-encoded.
    """
    values = pa.array(list(allowed), pa.string())

    def none_in(chunk: Any) -> Any:
        if not pa.types.is_dictionary(chunk.type):
            return pc.invert(pc.is_in(chunk, values))
        is_wrong = pc.invert(pc.is_in(chunk.dictionary, values))
        return is_wrong.take(chunk.indices).fill_null(True)

    return pa.chunked_array([none_in(chunk) for chunk in column.chunks], pa.bool_())


def _check_artefacts(table: Any) -> Iterator[ColumnCheck]:
    if "payload" in table.column_names:
        too_large = pc.greater(pc.binary_length(table["payload"]), MAX_BYTES)
        allowed = f"JSON objects of at most {MAX_BYTES} bytes"
        yield ColumnCheck("payload", too_large, allowed)


def _check_journal(table: Any) -> Iterator[ColumnCheck]:
    """Yield the results of the checks of the columns of suggestions."""
    yield ColumnCheck("number", pc.less(table["number"], 0), "integers from 0 on")
    yield ColumnCheck("values", _is_no_object(table["values"]), "JSON objects")
    texts = pc.unique(table["known"].drop_null()).to_pylist()
    ranges = [text for text in texts if _are_ranges(text)]
    is_wrong = pc.and_(table["known"].is_valid(), none_of(table["known"], ranges))
    yield ColumnCheck("known", is_wrong, "JSON lists of ranges [first, last]")
    yield from _check_times(table, "suggested_at")


def _are_ranges(text: str) -> bool:
    """Return whether ``text`` is a JSON list of pairs of integers."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, list) and all(_is_range(item) for item in value)


def _is_range(value: object) -> bool:
    if not isinstance(value, list) or len(value) != 2:
        return False
    first, last = value
    return isinstance(first, int) and isinstance(last, int)


def _is_json_object(text: str) -> bool:
    if text.count("[") + text.count("{") > _MAX_BRACKETS:
        return False
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


@dataclass(frozen=True)
class Table:
    """A kind of table in the store: directory, Arrow schema, and checks of the rows."""

    directory: str
    schema: Any
    order: tuple[str, ...]
    """Columns by which compacted files are sorted.

    Row groups then hold narrow ranges of values. Except in records, these columns
    identify a row: if several rows are equal in these columns, only the one appended
    last counts (`current_rows`).
    """
    file_rows: int
    """Number of rows from which on a file is not merged with others."""
    group_rows: int
    """Number of rows in a row group of a file, the unit that a reader skips or reads.
    """
    without_file: str
    """What follows when a file of the table is removed, for error messages."""
    later: frozenset[str] = frozenset()
    """Columns that older files lack, and that are null then."""
    check: Callable[[Any], Iterable[ColumnCheck]] = lambda table: ()
    """Checks the columns of an Arrow table that has some or all of them."""


RECORDS = Table(
    directory="records",
    schema=Record.SCHEMA,
    order=(
        "benchmark",
        "sweep",
        "protocol",
        "phase",
        "task",
        "method",
        "body",
        "seed",
        "finished_at",
    ),
    file_rows=2**19,
    group_rows=2**17,
    without_file="the trials it held will then run again",
    later=frozenset({"metric_version", "processor", "cpus", "gpus", "training_loss"}),
    check=_check_records,
)
CURVES = Table(
    directory="curves",
    schema=CurvePoint.SCHEMA,
    order=("sweep", "trial_key", "stage", "epoch"),
    file_rows=2**22,
    group_rows=2**14,
    without_file="the learning curves it held are then missing",
    later=frozenset({"attempt"}),
)
ARTEFACTS = Table(
    directory="artefacts",
    schema=ArtefactRow.SCHEMA,
    order=("sweep", "trial_key", "kind", "name"),
    file_rows=2**12,  # artefacts, which take at most 256 MiB
    group_rows=2**6,
    without_file="the artefacts it held are then missing",
    check=_check_artefacts,
)
JOURNAL = Table(
    directory="journal",
    schema=SuggestionRow.SCHEMA,
    order=("sweep", "task", "method", "number", "trial_key"),
    file_rows=2**19,
    group_rows=2**14,
    without_file="searches then go on without the suggestions it held",
    check=_check_journal,
)
LOGS = Table(
    directory="logs",
    schema=LogRow.SCHEMA,
    order=("sweep", "trial_key", "attempt", "written_at"),
    file_rows=2**14,
    group_rows=2**8,
    without_file="the logs it held are then missing",
)


@dataclass(frozen=True)
class InvalidRows:
    """Rows of a table with an invalid value in one column."""

    column: str
    first_row: int
    """Number of the first invalid row, from 0."""
    value: str
    """The invalid value in the first invalid row."""
    allowed: str
    """The allowed values, in words."""
    is_wrong: Any
    """Boolean mask of the invalid rows."""


def check_invalid(table: Any, kind: Table, where: str) -> None:
    """Raise UserError if a row of ``table`` has an invalid value.

    ``where`` is the name of the file that the table was read from.
    """
    for invalid in invalid_rows(table, kind):
        raise UserError(
            f"{where} is damaged: row {invalid.first_row + 1} has {invalid.column}"
            f" {invalid.value[:80]!r}; allowed are {invalid.allowed}. Move the file out"
            f" of the directory: {kind.without_file}."
        )


def invalid_rows(table: Any, kind: Table) -> Iterator[InvalidRows]:
    """Yield the invalid rows of each column that has invalid values."""
    for check in kind.check(table):
        row = pc.index(check.is_wrong, True).as_py()
        if row < 0:
            continue
        scalar = table[check.column][row]
        # Python has no value for a time out of range.
        is_time = pa.types.is_timestamp(scalar.type)
        value = scalar.value if is_time else scalar.as_py()
        yield InvalidRows(check.column, row, str(value), check.allowed, check.is_wrong)


def from_rows(rows: Iterable[dict[str, Any]], kind: Table) -> Any:
    """Return an Arrow table of ``rows``, which are dicts by column name."""
    return pa.Table.from_pylist(list(rows), schema=kind.schema)


def to_frame(table: Any) -> pd.DataFrame:
    """Return an Arrow table as a pandas DataFrame.

    Integers and booleans keep their type despite missing values.
    """
    return table.to_pandas(  # type: ignore[no-any-return]
        types_mapper={pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}.get
    )


def sort_distinct(rows: Any, kind: Table) -> Any:
    """Return the rows sorted by ``kind.order``, without exact duplicates."""
    is_repeated = to_frame(rows).duplicated(keep="last").to_numpy()
    rows = rows.filter(pa.array(~is_repeated))
    order = [(name, "ascending") for name in kind.order]
    return rows.take(pc.sort_indices(rows, order))


def current_records(table: Any) -> Any:
    """Return one row per trial, chosen by the rules in `ResultsStore.records`.

    A trial is a (sweep, trial key). On a tie, the last row counts.
    """
    frame = to_frame(
        table.select(["sweep", "trial_key", "status", "attempts", "finished_at"])
    )
    frame["succeeded"] = frame["status"].isin(SUCCESSES)
    frame = frame.sort_values(["succeeded", "attempts", "finished_at"], kind="stable")
    frame = frame.drop_duplicates(["sweep", "trial_key"], keep="last")
    frame = frame.sort_values(["finished_at", "trial_key"], kind="stable")
    return table.take(pa.array(frame.index.to_numpy(), pa.int64()))


def current_rows(table: Any, kind: Table) -> Any:
    """Return the last row for each combination of values in ``kind.order``, sorted.

    If ``kind`` is `CURVES`, only rows of each trial's last attempt are returned.
    """
    columns = list(kind.order)
    frame = to_frame(table.select(columns))
    if kind is CURVES:
        frame = frame[_is_last_attempt(table)]
    frame = frame.drop_duplicates(keep="last").sort_values(columns, kind="stable")
    return table.take(pa.array(frame.index.to_numpy(), pa.int64()))


def _is_last_attempt(curves: Any) -> "pd.Series[bool]":
    """Return a mask of the points of learning curves that are of the last attempt."""
    frame = to_frame(curves.select(["sweep", "trial_key", "attempt"]))
    attempts = frame["attempt"].fillna(0)
    if attempts.nunique() <= 1:
        return pd.Series(True, index=frame.index)
    last = attempts.groupby([frame["sweep"], frame["trial_key"]]).transform("max")
    return attempts == last
