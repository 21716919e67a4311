"""The tables of a store: Parquet in and out of memory, and which of several rows for one thing counts."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from orca_ray.errors import UserError
from orca_ray.results.record import CurvePoint, Record, Status

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Table:
    """A table of the store: the directory its files are in, and its columns."""

    directory: str
    schema: Any
    later: Mapping[int, frozenset[str]] = field(default_factory=dict)
    """Columns that files of older versions of the schema lack, by the version that brought them."""

    @property
    def layouts(self) -> list[set[str]]:
        """The columns of a file, by version of the schema, the newest first."""
        layouts = [set(self.schema.names)]
        for version in sorted(self.later, reverse=True):
            layouts.append(layouts[-1] - self.later[version])
        return layouts


RECORDS = Table("records", Record.SCHEMA, Record.LATER)
CURVES = Table("curves", CurvePoint.SCHEMA)

_SUCCESSES = tuple(status.value for status in Status if not status.failed)


def encode(table: Any) -> Any:
    """Return the Parquet file of a table as a buffer, with checksums so that damage is noticed on reading."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def decode(content: Any, kind: Table, where: str) -> Any:
    """Return the table in a Parquet file, with nulls in columns that are younger than the file.

    Raises `UserError` naming ``where`` for a truncated or foreign file.
    """
    try:
        found = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True).read(use_threads=False)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(
            f"{where} is truncated or damaged ({str(error).splitlines()[0]}). "
            "Restore it from a copy, or move it out of the directory: the trials it held will then run again."
        ) from error
    columns = set(found.column_names)
    if columns not in kind.layouts:
        odd = min((sorted(columns ^ layout) for layout in kind.layouts), key=len)
        raise UserError(
            f"{where} is not a file of this results store: it differs in the columns {', '.join(odd)}. "
            "Move it out of the directory."
        )
    for column in kind.schema:
        if column.name not in columns:
            found = found.append_column(column, pa.nulls(len(found), column.type))
    try:
        return found.select(kind.schema.names).cast(kind.schema)
    except (pa.ArrowException, ValueError) as error:
        raise UserError(
            f"{where} is not a file of this results store ({error}). Move it out of the directory."
        ) from error


def from_rows(rows: Iterable[dict[str, Any]], kind: Table) -> Any:
    """Build a table from rows."""
    return pa.Table.from_pylist(list(rows), schema=kind.schema)


def to_frame(table: Any) -> "pd.DataFrame":
    """Return a table as pandas; whole numbers and truth values that may be missing stay what they are."""
    import pandas as pd

    return table.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}.get)  # type: ignore[no-any-return]


def distinct(table: Any) -> Any:
    """Drop rows that are equal in every column, keeping the last of each."""
    frame = to_frame(table)
    return table.filter(pa.array(~frame.duplicated(keep="last").to_numpy()))


def current_records(table: Any) -> Any:
    """Keep one row a (sweep, trial key): a trial that succeeded before one that failed, then the one finished last.

    The rows of ``table`` come in the order in which they were appended, which settles what is left; the result is in
    the order in which the trials finished.
    """
    frame = to_frame(table.select(["sweep", "trial_key", "status", "finished_at"]))
    frame["succeeded"] = frame["status"].isin(_SUCCESSES)
    frame = frame.sort_values(["succeeded", "finished_at"], kind="stable")
    frame = frame.drop_duplicates(["sweep", "trial_key"], keep="last")
    frame = frame.sort_values(["finished_at", "trial_key"], kind="stable")
    return table.take(pa.array(frame.index.to_numpy(), pa.int64()))


def current_curves(table: Any) -> Any:
    """Keep one row a (sweep, trial key, stage, epoch), the one appended last, in that order of columns."""
    frame = to_frame(table.select(["sweep", "trial_key", "stage", "epoch"]))
    frame = frame.drop_duplicates(keep="last").sort_values(list(frame.columns), kind="stable")
    return table.take(pa.array(frame.index.to_numpy(), pa.int64()))
