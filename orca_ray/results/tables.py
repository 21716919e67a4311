"""The tables of a results store: Parquet files, checks of their rows, and the choice
among duplicate rows.
"""

import contextlib
import functools
import hashlib
import json
import operator
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from orca_ray.errors import UserError, printable
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

MAX_TABLE_BYTES = 2**30
"""Largest size in memory of the table in one file; a Parquet file of a few KB can
expand to far more.
"""
_MAX_BRACKETS = 100
_DIGEST = re.compile(r"\.f([0-9a-f]{16})\.parquet$")
"""In the name of a file: `footer_digest` of the content; files that older versions
wrote lack it.
"""
_DISTINCT = ("trial_key", "payload", "text")
"""Columns of nearly distinct values."""
SUCCESSES = tuple(status.value for status in Status if not status.failed)
_LAST_TIME = pa.scalar(
    datetime.max.replace(tzinfo=UTC), Record.SCHEMA.field("started_at").type
)
_FIRST_TIME = pa.scalar(
    datetime.min.replace(tzinfo=UTC), Record.SCHEMA.field("started_at").type
)


def _record_problems(table: Any) -> Iterator[tuple[str, Any, str]]:
    """Yield, for each checked column: its name, a boolean mask of invalid rows, and
    what is allowed, in words.

    Columns that ``table`` does not have are skipped.
    """
    for name, allowed in (
        ("phase", PHASES),
        ("protocol", PROTOCOLS),
        ("status", tuple(Status)),
    ):
        if name in table.column_names:
            yield name, none_of(table[name], allowed), ", ".join(allowed)
    for name in ("validation_score", "test_score"):
        if name in table.column_names:
            infinite = pc.invert(pc.is_finite(table[name].fill_null(0.0)))
            if pc.any(infinite).as_py():
                infinite = pc.and_(
                    infinite, pc.invert(none_of(table["status"], SUCCESSES))
                )
            yield name, infinite, "finite numbers in trials that did not fail"
    yield from _time_problems(table, "started_at", "finished_at")
    if "hyperparameters" in table.column_names:
        yield "hyperparameters", _no_objects(table["hyperparameters"]), "JSON objects"


def _time_problems(table: Any, *names: str) -> Iterator[tuple[str, Any, str]]:
    for name in names:
        if name in table.column_names:
            outside = pc.or_(
                pc.less(table[name], _FIRST_TIME), pc.greater(table[name], _LAST_TIME)
            )
            yield name, outside, "times in the years 1 to 9999"


def _no_objects(column: Any) -> Any:
    """Return a mask of the values of a text column that are no JSON objects."""
    return none_of(
        column,
        [text for text in pc.unique(column).to_pylist() if _is_json_object(text)],
    )


def none_of(column: Any, allowed: Collection[str]) -> Any:
    """Return a mask of the values of a text column, which may be dictionary-encoded,
    that are not ``allowed``.
    """
    values = pa.array(list(allowed), pa.string())

    def none(chunk: Any) -> Any:
        if not pa.types.is_dictionary(chunk.type):
            return pc.invert(pc.is_in(chunk, values))
        return (
            pc.invert(pc.is_in(chunk.dictionary, values))
            .take(chunk.indices)
            .fill_null(True)
        )

    return pa.chunked_array([none(chunk) for chunk in column.chunks], pa.bool_())


def _artefact_problems(table: Any) -> Iterator[tuple[str, Any, str]]:
    if "payload" in table.column_names:
        too_large = pc.greater(pc.binary_length(table["payload"]), MAX_BYTES)
        yield "payload", too_large, f"JSON objects of at most {MAX_BYTES} bytes"


def _journal_problems(table: Any) -> Iterator[tuple[str, Any, str]]:
    yield "number", pc.less(table["number"], 0), "integers from 0 on"
    yield "values", _no_objects(table["values"]), "JSON objects"
    texts = pc.unique(table["known"].drop_null()).to_pylist()
    wrong = pc.and_(
        table["known"].is_valid(),
        none_of(table["known"], [t for t in texts if _are_ranges(t)]),
    )
    yield "known", wrong, "JSON lists of ranges [first, last]"
    yield from _time_problems(table, "suggested_at")


def _are_ranges(text: str) -> bool:
    try:
        ranges = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(ranges, list) and all(
        isinstance(each, list)
        and len(each) == 2
        and all(isinstance(number, int) for number in each)
        for each in ranges
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
    """A kind of table in the store: the directory of its files, its Arrow schema, and
    the checks of its rows.
    """

    directory: str
    schema: Any
    order: tuple[str, ...]
    """Columns by which compacted files are sorted, so that row groups hold narrow
    ranges of values. Except in records, these columns identify a row: of rows with
    equal values in them, the last one appended counts (`current`).
    """
    file_rows: int
    """Number of rows from which on a file is not merged with others."""
    group_rows: int
    """Number of rows in a row group of a file, the unit that a reader skips or reads.
    """
    later: frozenset[str] = frozenset()
    """Columns that older files lack, and that are null then."""
    problems: Callable[[Any], Iterable[tuple[str, Any, str]]] = lambda table: ()


_RECORD_ORDER = (
    "benchmark",
    "sweep",
    "protocol",
    "phase",
    "task",
    "method",
    "body",
    "seed",
    "finished_at",
)
_JOURNAL_ORDER = ("sweep", "task", "method", "number", "trial_key")
_ARTEFACT_ORDER = ("sweep", "trial_key", "kind", "name")
_RECORD_LATER = frozenset(
    {"metric_version", "processor", "cpus", "gpus", "training_loss"}
)
RECORDS = Table(
    "records",
    Record.SCHEMA,
    _RECORD_ORDER,
    2**19,
    2**17,
    _RECORD_LATER,
    _record_problems,
)
_CURVE_ORDER = ("sweep", "trial_key", "stage", "epoch")
CURVES = Table(
    "curves", CurvePoint.SCHEMA, _CURVE_ORDER, 2**22, 2**14, frozenset({"attempt"})
)
# 2**12 artefacts take at most 256 MiB.
ARTEFACTS = Table(
    "artefacts",
    ArtefactRow.SCHEMA,
    _ARTEFACT_ORDER,
    2**12,
    2**6,
    problems=_artefact_problems,
)
JOURNAL = Table(
    "journal",
    SuggestionRow.SCHEMA,
    _JOURNAL_ORDER,
    2**19,
    2**14,
    problems=_journal_problems,
)
LOGS = Table(
    "logs", LogRow.SCHEMA, ("sweep", "trial_key", "attempt", "written_at"), 2**14, 2**8
)


def encode(table: Any, group_rows: int = 2**17) -> Any:
    """Return the content of a Parquet file with the rows of an Arrow table, as a
    buffer; pages have checksums.

    Row groups have ``group_rows`` rows, so that readers can skip groups without wanted
    rows (`ParquetPart`). Columns of nearly distinct values are not dictionary-encoded,
    because a reader would expand them.
    """
    sink = pa.BufferOutputStream()
    options = {
        "compression": "zstd",
        "write_page_checksum": True,
        "row_group_size": group_rows,
    }
    texts = [
        each.name
        for each in table.schema
        if is_text(each) and each.name not in _DISTINCT
    ]
    pq.write_table(table, sink, use_dictionary=texts, **options)
    return sink.getvalue()


def footer_digest(content: Any) -> str:
    """Return a checksum, 16 hex digits, of the footer of a Parquet file, because
    Parquet has checksums of pages only.

    ``content`` is a `pyarrow.Buffer`. The store writes the digits into the name of the
    file; `ParquetPart` checks them.
    """
    return hashlib.blake2b(_footer(pa.BufferReader(content)), digest_size=8).hexdigest()


def _footer(source: Any) -> Any:
    """Return the end of an open Parquet file: the footer, and then its size in 4 bytes
    and 4 constant bytes.
    """
    source.seek(max(0, source.size() - 8))
    length = int.from_bytes(source.read(4), "little") + 8
    source.seek(max(0, source.size() - length))
    return source.read_buffer()


def check_invalid(table: Any, kind: Table, where: str) -> None:
    """Raise UserError if a row of ``table``, which was read from the file ``where``,
    has an invalid value.
    """
    for name, row, value, allowed, _ in invalid_rows(table, kind):
        raise UserError(
            f"{where} is damaged: row {row + 1} has {name} {value[:80]!r}; allowed are"
            f" {allowed}. Move the file out of the directory: the trials it held will"
            " then run again."
        )


def invalid_rows(table: Any, kind: Table) -> Iterator[tuple[str, int, str, str, Any]]:
    """Yield, per column with invalid values: name, first invalid row, its value,
    allowed values, mask of such rows.
    """
    for name, wrong, allowed in kind.problems(table):
        if (row := pc.index(wrong, True).as_py()) >= 0:
            scalar = table[name][row]
            yield (
                name,
                row,
                str(
                    scalar.value
                    if pa.types.is_timestamp(scalar.type)
                    else scalar.as_py()
                ),
                allowed,
                wrong,
            )


def from_rows(rows: Iterable[dict[str, Any]], kind: Table) -> Any:
    """Return an Arrow table with the schema of ``kind``; each row is a dict by column
    name.
    """
    return pa.Table.from_pylist(list(rows), schema=kind.schema)


def to_frame(table: Any) -> pd.DataFrame:
    """Return an Arrow table as a pandas DataFrame; integers and booleans keep their
    type despite missing values.
    """
    return table.to_pandas(  # type: ignore[no-any-return]
        types_mapper={pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}.get
    )


def compacted(rows: Any, kind: Table) -> Any:
    """Return the rows sorted by the columns ``kind.order``; of rows that are equal in
    all columns, only the last.
    """
    rows = rows.filter(pa.array(~to_frame(rows).duplicated(keep="last").to_numpy()))
    return rows.take(
        pc.sort_indices(rows, [(name, "ascending") for name in kind.order])
    )


def current_records(table: Any) -> Any:
    """Return one row per (sweep, trial key), chosen by the rules in
    `ResultsStore.records`; on a tie, the last row.
    """
    frame = to_frame(
        table.select(["sweep", "trial_key", "status", "attempts", "finished_at"])
    )
    frame["succeeded"] = frame["status"].isin(SUCCESSES)
    frame = frame.sort_values(["succeeded", "attempts", "finished_at"], kind="stable")
    frame = frame.drop_duplicates(["sweep", "trial_key"], keep="last")
    frame = frame.sort_values(["finished_at", "trial_key"], kind="stable")
    return table.take(pa.array(frame.index.to_numpy(), pa.int64()))


def current(table: Any, kind: Table) -> Any:
    """Return the last row for each combination of values in the columns ``kind.order``,
    sorted by these columns.

    Of learning curves, only rows of each trial's last attempt are returned.
    """
    columns = list(kind.order)
    frame = to_frame(table.select(columns))
    if kind is CURVES:
        attempts = to_frame(table.select(["attempt"]))["attempt"].fillna(0)
        if attempts.nunique() > 1:
            frame = frame[
                attempts
                == attempts.groupby([frame["sweep"], frame["trial_key"]]).transform(
                    "max"
                )
            ]
    frame = frame.drop_duplicates(keep="last").sort_values(columns, kind="stable")
    return table.take(pa.array(frame.index.to_numpy(), pa.int64()))


def is_text(column: Any) -> bool:
    """Return whether ``column``, a column or a field of a schema, holds text,
    dictionary-encoded or not.
    """
    kind = (
        column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    )
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


class ReplacedError(UserError):
    """A file of an object store was deleted while it was read, because a compaction has
    merged it into another one.
    """


class MemoryPart:
    """Part of a table of the store that is in memory, as an Arrow table with one row
    group.
    """

    def __init__(self, table: Any, where: str = "memory") -> None:
        self.table = table
        self.where = where
        self.group_rows = [len(table)]

    def groups_with(self, wanted: Mapping[str, Collection[str]]) -> list[int]:
        """Return [0], the only row group, whatever is ``wanted``."""
        return [0]

    def read(
        self,
        groups: Iterable[int],
        columns: Sequence[str] | None = None,
        *,
        expand: bool = True,
    ) -> Any:
        """Return ``columns`` (None: all) of the table; ``groups`` and ``expand`` have
        no effect.
        """
        return self.table if columns is None else self.table.select(columns)


class ParquetPart:
    """A Parquet file that holds rows of a table. Its row groups and columns are read as
    needed.

    Raises UserError about ``where``, the name of the file, if it is damaged or lacks
    the columns of ``kind``.
    """

    def __init__(self, source: Any, kind: Table, where: str) -> None:
        self._kind = kind
        self.where = where
        with self._damage():
            footer = _footer(source)
            given = _DIGEST.search(where)
            if given and given[1] != footer_digest(footer):
                raise ValueError("the footer does not have the checksum in the name")
            metadata = pq.read_metadata(pa.BufferReader(footer))
            self.schema = metadata.schema.to_arrow_schema()
            _check_columns(self.schema, kind, where)
            # Dictionary encoding stores equal strings once, so that memory is safe
            # until the expanded size is checked.
            text = [
                name for name in self.schema.names if is_text(self.schema.field(name))
            ]
            options = {"page_checksum_verification": True, "read_dictionary": text}
            self._file = pq.ParquetFile(source, metadata=metadata, **options)
        groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
        self._bytes = [group.total_byte_size for group in groups]
        self._source = source
        self.group_rows = [group.num_rows for group in groups]

    def groups_with(self, wanted: Mapping[str, Collection[str]]) -> list[int]:
        """Return the numbers of the row groups that may hold ``wanted`` values, judged
        by their minima and maxima.
        """
        if not wanted:
            return list(range(len(self.group_rows)))
        condition = functools.reduce(
            operator.and_,
            (ds.field(name).isin(list(of)) for name, of in wanted.items()),
        )
        with self._damage():
            fragment = ds.ParquetFileFormat().make_fragment(self._source)
            return [
                group.id
                for group in fragment.subset(condition, schema=self.schema).row_groups
            ]

    def read(
        self,
        groups: Iterable[int],
        columns: Sequence[str] | None = None,
        *,
        expand: bool = True,
    ) -> Any:
        """Return ``columns`` (None: all) of row groups as an Arrow table; columns newer
        than the file are null.

        With ``expand``, columns have the types of the schema; without, text may be
        dictionary-encoded.
        """
        kind = self._kind
        where = self.where
        groups = list(groups)
        columns = kind.schema.names if columns is None else list(columns)
        with self._damage():
            rows = sum(self.group_rows[index] for index in groups)
            declared = sum(self._bytes[index] for index in groups) if expand else 0
            _check_size(max(declared, 8 * rows * len(columns)), rows, where)
            present = [name for name in columns if name in self.schema.names]
            found = self._file.read_row_groups(
                groups, columns=present, use_threads=False
            )
            if len(found) != rows:  # Arrow skips a page whose type it does not know
                raise ValueError(f"{len(found)} of {rows} rows are readable")
            if expand:
                _check_size(
                    found.nbytes + sum(map(encoded_text_bytes, found.columns)),
                    len(found),
                    where,
                )
            for name in columns:
                if name not in present:
                    column = kind.schema.field(name)
                    found = found.append_column(
                        column, pa.nulls(len(found), column.type)
                    )
            target = pa.schema(
                [
                    _target(kind.schema.field(name), found.field(name), expand)
                    for name in columns
                ]
            )
            found = found.select(columns).cast(target)
            found.validate(full=True)
            return found

    @contextlib.contextmanager
    def _damage(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except FileNotFoundError as error:
            raise ReplacedError(
                f"{self.where} was replaced by a compaction while it was read: try"
                " again"
            ) from error
        except (pa.ArrowException, OSError, ValueError) as error:
            raise UserError(
                f"{self.where} is truncated or damaged ({str(error).splitlines()[0]})."
                " Restore it from a copy, or move it out of the directory: the trials"
                " it held will then run again."
            ) from error


Part = MemoryPart | ParquetPart


def _target(wanted: Any, found: Any, expand: bool) -> Any:
    keep = (
        not expand
        and pa.types.is_dictionary(found.type)
        and found.type.value_type == wanted.type
    )
    return pa.field(wanted.name, found.type if keep else wanted.type, wanted.nullable)


def _check_columns(schema: Any, kind: Table, where: str) -> None:
    columns = set(schema.names)
    wanted = set(kind.schema.names)
    odd = sorted((columns - wanted) | (wanted - kind.later - columns))
    if not odd:
        odd = [
            name
            for name in schema.names
            if is_text(schema.field(name)) != is_text(kind.schema.field(name))
        ]
    if odd or len(schema.names) > len(columns):
        found = f"it differs in the columns {', '.join(map(printable, odd))}"
        raise UserError(
            f"{where} is not a file of this results store: {found}. Move it out of the"
            " directory."
        )


def _check_size(num_bytes: int, rows: int, where: str) -> None:
    if num_bytes > MAX_TABLE_BYTES:
        allowed = (
            f"a file of a results store may take {MAX_TABLE_BYTES / 2**30:g} GiB. Move"
            " it out of the directory."
        )
        raise UserError(
            f"{where} holds {rows} rows, which take {num_bytes / 2**30:.1f} GiB of"
            f" memory; {allowed}"
        )


_EXPANDING = (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())


def encoded_text_bytes(column: Any) -> int:
    """Return how many bytes the text in dictionary-encoded parts of an array or column
    takes once it is expanded.
    """
    if isinstance(column, pa.ChunkedArray):
        return sum(map(encoded_text_bytes, column.chunks))
    if pa.types.is_nested(column.type):
        inner = (
            column.flatten() if hasattr(column, "flatten") else []
        )  # values of lists, or fields of structs
        return sum(
            map(encoded_text_bytes, inner if isinstance(inner, list) else [inner])
        )
    if (
        not pa.types.is_dictionary(column.type)
        or column.type.value_type not in _EXPANDING
    ):
        return 0
    return int(
        pc.sum(pc.binary_length(column.dictionary).take(column.indices)).as_py() or 0
    )
