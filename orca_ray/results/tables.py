"""The tables of a results store: conversion to and from Parquet, validation, and the choice among duplicate rows."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from orca_ray.errors import UserError, printable
from orca_ray.results.artefacts import MAX_BYTES, ArtefactRow
from orca_ray.results.record import PHASES, PROTOCOLS, CurvePoint, Record, Status

MAX_TABLE_BYTES = 2**30
"""Largest size in memory of the table in one file; a Parquet file of a few KB can expand to far more."""
_MAX_BRACKETS = 100
_SUCCESSES = tuple(status.value for status in Status if not status.failed)
_LAST_TIME = pa.scalar(datetime.max.replace(tzinfo=UTC), Record.SCHEMA.field("started_at").type)
_FIRST_TIME = pa.scalar(datetime.min.replace(tzinfo=UTC), Record.SCHEMA.field("started_at").type)


def _record_problems(table: Any) -> Iterator[tuple[str, Any, str]]:
    """Yield, for each checked column: its name, a boolean mask of invalid rows, and what is allowed, in words."""
    for name, allowed in (("phase", PHASES), ("protocol", PROTOCOLS), ("status", tuple(Status))):
        yield name, pc.invert(pc.is_in(table[name], pa.array(allowed, pa.string()))), ", ".join(allowed)
    succeeded = pc.is_in(table["status"], pa.array(_SUCCESSES))
    for name in ("validation_score", "test_score"):
        finite = pc.is_finite(table[name].fill_null(0.0))
        yield name, pc.and_(succeeded, pc.invert(finite)), "finite numbers in trials that did not fail"
    for name in ("started_at", "finished_at"):
        outside = pc.or_(pc.less(table[name], _FIRST_TIME), pc.greater(table[name], _LAST_TIME))
        yield name, outside, "times in the years 1 to 9999"
    valid = [text for text in pc.unique(table["hyperparameters"]).to_pylist() if _is_json_object(text)]
    wrong = pc.invert(pc.is_in(table["hyperparameters"], pa.array(valid, pa.string())))
    yield "hyperparameters", wrong, "JSON objects"


def _artefact_problems(table: Any) -> Iterator[tuple[str, Any, str]]:
    too_large = pc.greater(pc.binary_length(table["payload"]), MAX_BYTES)
    yield "payload", too_large, f"JSON objects of at most {MAX_BYTES} bytes"


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


RECORDS = Table("records", Record.SCHEMA, Record.LATER, _record_problems)
CURVES = Table("curves", CurvePoint.SCHEMA)
ARTEFACTS = Table("artefacts", ArtefactRow.SCHEMA, problems=_artefact_problems)


def encode(table: Any) -> Any:
    """Return an Arrow table as a buffer with the content of a Parquet file; checksums reveal damage when it is read."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def decode(content: Any, kind: Table, where: str) -> Any:
    """Return the Arrow table in the Parquet file ``content``; columns that are newer than the file are null.

    Raises UserError if the file (``where`` in the message) is truncated, does not have the columns of ``kind``, is too
    large in memory, or has invalid rows.
    """
    try:
        metadata = pq.read_metadata(pa.BufferReader(content))
        schema = metadata.schema.to_arrow_schema()
        _check_columns(schema, kind, where)
        declared = sum(metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups))
        _check_size(max(declared, 8 * metadata.num_rows * metadata.num_columns), metadata.num_rows, where)
        # Dictionary encoding stores equal strings once, so that memory is safe until the expanded size is checked.
        text = [name for name in schema.names if _is_text(schema.field(name))]
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True, read_dictionary=text)
        found = file.read(use_threads=False)
        _check_size(sum(map(_expanded_bytes, found.columns)), len(found), where)
        for column in kind.schema:
            if column.name not in found.column_names:
                found = found.append_column(column, pa.nulls(len(found), column.type))
        found = found.select(kind.schema.names).cast(kind.schema)
        found.validate(full=True)
    except UserError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(
            f"{where} is truncated or damaged ({str(error).splitlines()[0]}). "
            "Restore it from a copy, or move it out of the directory: the trials it held will then run again."
        ) from error
    for name, wrong, allowed in kind.problems(found):
        if (row := pc.index(wrong, True).as_py()) >= 0:
            scalar = found[name][row]
            value = str(scalar.value if pa.types.is_timestamp(scalar.type) else scalar.as_py())
            raise UserError(
                f"{where} is damaged: row {row + 1} has {name} {value[:80]!r}; allowed are "
                f"{allowed}. Move the file out of the directory: the trials it held will then run again."
            )
    return found


def _check_columns(schema: Any, kind: Table, where: str) -> None:
    columns = set(schema.names)
    odd = min((sorted(columns ^ layout) for layout in kind.layouts), key=len)
    if not odd:
        odd = [name for name in schema.names if _is_text(schema.field(name)) != _is_text(kind.schema.field(name))]
    if odd or len(schema.names) > len(columns):
        found = f"it differs in the columns {', '.join(map(printable, odd))}"
        raise UserError(f"{where} is not a file of this results store: {found}. Move it out of the directory.")


def _is_text(column: Any) -> bool:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _check_size(num_bytes: int, rows: int, where: str) -> None:
    if num_bytes > MAX_TABLE_BYTES:
        allowed = f"a file of a results store may take {MAX_TABLE_BYTES / 2**30:g} GiB. Move it out of the directory."
        raise UserError(f"{where} holds {rows} rows, which take {num_bytes / 2**30:.1f} GiB of memory; {allowed}")


def _expanded_bytes(column: Any) -> int:
    """Return the size in bytes of a column without dictionary encoding."""
    chunks = [chunk for chunk in column.chunks if pa.types.is_dictionary(chunk.type)]
    sizes = (pc.sum(pc.binary_length(chunk.dictionary).take(chunk.indices)).as_py() or 0 for chunk in chunks)
    return int(column.nbytes + sum(sizes))


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


def current_records(table: Any) -> Any:
    """Return one row per (sweep, trial key), by the rules of `ResultsStore.records`; of equal rows, the last one."""
    frame = to_frame(table.select(["sweep", "trial_key", "status", "finished_at"]))
    frame["succeeded"] = frame["status"].isin(_SUCCESSES)
    frame = frame.sort_values(["succeeded", "finished_at"], kind="stable")
    frame = frame.drop_duplicates(["sweep", "trial_key"], keep="last")
    frame = frame.sort_values(["finished_at", "trial_key"], kind="stable")
    return table.take(pa.array(frame.index.to_numpy(), pa.int64()))


def current_artefacts(table: Any) -> Any:
    """Return the last row of each (sweep, trial key, kind, name), sorted by these columns."""
    return _last_of_each(table, ["sweep", "trial_key", "kind", "name"])


def current_curves(table: Any) -> Any:
    """Return the last row of each (sweep, trial key, stage, epoch), sorted by these columns."""
    return _last_of_each(table, ["sweep", "trial_key", "stage", "epoch"])


def _last_of_each(table: Any, columns: list[str]) -> Any:
    frame = to_frame(table.select(columns))
    frame = frame.drop_duplicates(keep="last").sort_values(columns, kind="stable")
    return table.take(pa.array(frame.index.to_numpy(), pa.int64()))
