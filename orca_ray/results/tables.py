"""The tables of a results store: conversion to and from Parquet, validation, and the choice among duplicate rows."""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from orca_ray.errors import UserError
from orca_ray.results.artefacts import MAX_BYTES, ArtefactRow
from orca_ray.results.logs import LogRow
from orca_ray.results.record import PHASES, PROTOCOLS, CurvePoint, Record, Status, SuggestionRow

_MAX_BRACKETS = 100
_DISTINCT = ("trial_key", "payload", "text")
"""Columns of nearly distinct values."""
_SUCCESSES = tuple(status.value for status in Status if not status.failed)
_LAST_TIME = pa.scalar(datetime.max.replace(tzinfo=UTC), Record.SCHEMA.field("started_at").type)
_FIRST_TIME = pa.scalar(datetime.min.replace(tzinfo=UTC), Record.SCHEMA.field("started_at").type)


def _record_problems(table: Any) -> Iterator[tuple[str, Any, str]]:
    """Yield, for each checked column: its name, a boolean mask of invalid rows, and what is allowed, in words.

    Columns that ``table`` does not have are skipped.
    """
    for name, allowed in (("phase", PHASES), ("protocol", PROTOCOLS), ("status", tuple(Status))):
        if name in table.column_names:
            yield name, _none_of(table[name], allowed), ", ".join(allowed)
    for name in ("validation_score", "test_score"):
        if name in table.column_names:
            infinite = pc.invert(pc.is_finite(table[name].fill_null(0.0)))
            if pc.any(infinite).as_py():
                infinite = pc.and_(infinite, pc.invert(_none_of(table["status"], _SUCCESSES)))
            yield name, infinite, "finite numbers in trials that did not fail"
    yield from _time_problems(table, "started_at", "finished_at")
    if "hyperparameters" in table.column_names:
        yield "hyperparameters", _no_objects(table["hyperparameters"]), "JSON objects"


def _time_problems(table: Any, *names: str) -> Iterator[tuple[str, Any, str]]:
    for name in names:
        if name in table.column_names:
            outside = pc.or_(pc.less(table[name], _FIRST_TIME), pc.greater(table[name], _LAST_TIME))
            yield name, outside, "times in the years 1 to 9999"


def _no_objects(column: Any) -> Any:
    """Return a mask of the values of a text column that are no JSON objects."""
    return _none_of(column, [text for text in pc.unique(column).to_pylist() if _is_json_object(text)])


def _none_of(column: Any, allowed: Collection[str]) -> Any:
    """Return a mask of the values of a text column, which may be dictionary-encoded, that are not ``allowed``."""
    values = pa.array(list(allowed), pa.string())

    def none(chunk: Any) -> Any:
        if not pa.types.is_dictionary(chunk.type):
            return pc.invert(pc.is_in(chunk, values))
        return pc.invert(pc.is_in(chunk.dictionary, values)).take(chunk.indices)

    return pa.chunked_array([none(chunk) for chunk in column.chunks], pa.bool_())


def _artefact_problems(table: Any) -> Iterator[tuple[str, Any, str]]:
    if "payload" in table.column_names:
        too_large = pc.greater(pc.binary_length(table["payload"]), MAX_BYTES)
        yield "payload", too_large, f"JSON objects of at most {MAX_BYTES} bytes"


def _journal_problems(table: Any) -> Iterator[tuple[str, Any, str]]:
    yield "number", pc.less(table["number"], 0), "integers from 0 on"
    yield "values", _no_objects(table["values"]), "JSON objects"
    texts = pc.unique(table["known"].drop_null()).to_pylist()
    wrong = pc.and_(table["known"].is_valid(), _none_of(table["known"], [t for t in texts if _are_ranges(t)]))
    yield "known", wrong, "JSON lists of ranges [first, last]"
    yield from _time_problems(table, "suggested_at")


def _are_ranges(text: str) -> bool:
    try:
        ranges = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(ranges, list) and all(
        isinstance(each, list) and len(each) == 2 and all(isinstance(number, int) for number in each) for each in ranges
    )


def _is_json_object(text: str) -> bool:
    if text.count("[") + text.count("{") > _MAX_BRACKETS:
        return False
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


@dataclass(frozen=True)
class Table:
    """A kind of table in the store: the directory of its files, its Arrow schema, and the checks of its rows."""

    directory: str
    schema: Any
    order: tuple[str, ...]
    """Columns by which compacted files are sorted, so that row groups hold narrow ranges of values. Except in records,
    they identify a row: of several with equal values, the last one appended counts (`current`)."""
    file_rows: int
    """Number of rows from which on a file is not merged with others."""
    group_rows: int
    """Number of rows in a row group of a file, the unit that a reader skips or reads."""
    later: Mapping[int, frozenset[str]] = field(default_factory=dict)
    """Columns that schema versions after the first added, by version."""
    problems: Callable[[Any], Iterable[tuple[str, Any, str]]] = lambda table: ()

    @property
    def layouts(self) -> list[set[str]]:
        """Names of the columns in each version of the schema, newest version first."""
        layouts = [set(self.schema.names)]
        for version in sorted(self.later, reverse=True):
            layouts.append(layouts[-1] - self.later[version])
        return layouts


RECORDS = Table(
    "records",
    Record.SCHEMA,
    ("benchmark", "sweep", "protocol", "phase", "task", "method", "body", "seed", "finished_at"),
    2**19,
    2**17,
    Record.LATER,
    _record_problems,
)
CURVES = Table("curves", CurvePoint.SCHEMA, ("sweep", "trial_key", "stage", "epoch"), 2**22, 2**14)
ARTEFACTS = Table(
    "artefacts",
    ArtefactRow.SCHEMA,
    ("sweep", "trial_key", "kind", "name"),
    2**12,  # at most 256 MiB
    2**6,
    problems=_artefact_problems,
)
JOURNAL = Table(
    "journal",
    SuggestionRow.SCHEMA,
    ("sweep", "task", "method", "number", "trial_key"),
    2**19,
    2**14,
    problems=_journal_problems,
)
LOGS = Table("logs", LogRow.SCHEMA, ("sweep", "trial_key", "written_at"), 2**14, 2**8)


def encode(table: Any, group_rows: int = 2**17) -> Any:
    """Return an Arrow table as a buffer with the content of a Parquet file; checksums reveal damage when it is read.

    Row groups are small, so that a reader can skip those without the rows that it wants; `FilePart.read` does. Columns
    of nearly distinct values are not dictionary-encoded, because they would be expanded by a reader.
    """
    sink = pa.BufferOutputStream()
    dictionaries = [each.name for each in table.schema if is_text(each) and each.name not in _DISTINCT]
    pq.write_table(
        table,
        sink,
        compression="zstd",
        write_page_checksum=True,
        row_group_size=group_rows,
        use_dictionary=dictionaries,
    )
    return sink.getvalue()


def check_invalid(table: Any, kind: Table, where: str) -> None:
    """Raise UserError if a row of the file ``where`` has an invalid value."""
    for name, row, value, allowed, _ in invalid_rows(table, kind):
        raise UserError(
            f"{where} is damaged: row {row + 1} has {name} {value[:80]!r}; allowed are "
            f"{allowed}. Move the file out of the directory: the trials it held will then run again."
        )


def invalid_rows(table: Any, kind: Table) -> Iterator[tuple[str, int, str, str, Any]]:
    """Yield, for each column with invalid values: name, first row with one, that value, what is allowed, and a mask."""
    for name, wrong, allowed in kind.problems(table):
        if (row := pc.index(wrong, True).as_py()) >= 0:
            scalar = table[name][row]
            yield name, row, str(scalar.value if pa.types.is_timestamp(scalar.type) else scalar.as_py()), allowed, wrong


def from_rows(rows: Iterable[dict[str, Any]], kind: Table) -> Any:
    """Return an Arrow table with the schema of ``kind``; each row is a dict by column name."""
    return pa.Table.from_pylist(list(rows), schema=kind.schema)


def to_frame(table: Any) -> pd.DataFrame:
    """Return an Arrow table as a pandas DataFrame; integers and booleans keep their type despite missing values."""
    return table.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}.get)  # type: ignore[no-any-return]


def distinct(table: Any) -> Any:
    """Drop duplicates: of rows that are equal in every column, only the last is kept."""
    frame = to_frame(table)
    return table.filter(pa.array(~frame.duplicated(keep="last").to_numpy()))


def ordered(table: Any, kind: Table) -> Any:
    """Return the rows in the order of compacted files; equal ones keep their order."""
    return table.take(pc.sort_indices(table, [(name, "ascending") for name in kind.order]))


def current_records(table: Any) -> Any:
    """Return one row per (sweep, trial key), by the rules of `ResultsStore.records`; of equal rows, the last one."""
    frame = to_frame(table.select(["sweep", "trial_key", "status", "finished_at"]))
    frame["succeeded"] = frame["status"].isin(_SUCCESSES)
    frame = frame.sort_values(["succeeded", "finished_at"], kind="stable")
    frame = frame.drop_duplicates(["sweep", "trial_key"], keep="last")
    frame = frame.sort_values(["finished_at", "trial_key"], kind="stable")
    return table.take(pa.array(frame.index.to_numpy(), pa.int64()))


def current(table: Any, kind: Table) -> Any:
    """Return the last of the rows that are equal in the columns ``kind.order``, sorted by these columns."""
    columns = list(kind.order)
    frame = to_frame(table.select(columns))
    frame = frame.drop_duplicates(keep="last").sort_values(columns, kind="stable")
    return table.take(pa.array(frame.index.to_numpy(), pa.int64()))


def is_text(column: Any) -> bool:
    """Return whether a field of a schema holds text, dictionary-encoded or not."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
