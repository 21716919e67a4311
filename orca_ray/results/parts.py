"""Parts of a table that are read by row group and column: Parquet files, and rows in memory."""

import contextlib
import functools
import operator
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from orca_ray.errors import UserError, printable
from orca_ray.results.tables import Table, is_text

MAX_TABLE_BYTES = 2**30
"""Largest size in memory of the table in one file; a Parquet file of a few KB can expand to far more."""


class MemoryPart:
    """Rows in an Arrow table."""

    def __init__(self, table: Any, where: str = "memory") -> None:
        self.table, self.where, self.group_rows = table, where, [len(table)]

    def groups_with(self, wanted: Mapping[str, Collection[str]]) -> list[int]:
        """Return the only group."""
        return [0]

    def read(self, groups: Iterable[int], columns: Sequence[str] | None = None, *, expand: bool = True) -> Any:
        """Return columns of the table."""
        return self.table if columns is None else self.table.select(columns)


class ParquetPart:
    """A Parquet file that holds rows of a table. Its row groups and columns are read as needed.

    Raises UserError (``where`` is the file's name in the message) if the file is truncated or damaged, or does not have
    the columns of ``kind``.
    """

    def __init__(self, source: Any, kind: Table, where: str) -> None:
        self._kind, self.where = kind, where
        with self._damage():
            metadata = pq.read_metadata(source)
            self.schema = metadata.schema.to_arrow_schema()
            _check_columns(self.schema, kind, where)
            # Dictionary encoding stores equal strings once, so that memory is safe until the expanded size is checked.
            text = [name for name in self.schema.names if is_text(self.schema.field(name))]
            self._file = pq.ParquetFile(source, page_checksum_verification=True, read_dictionary=text)
        groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
        self._bytes = [group.total_byte_size for group in groups]
        self._source = source
        self.group_rows = [group.num_rows for group in groups]

    def groups_with(self, wanted: Mapping[str, Collection[str]]) -> list[int]:
        """Return the row groups that may hold rows with ``wanted`` values, by the least and largest value of each."""
        if not wanted:
            return list(range(len(self.group_rows)))
        condition = functools.reduce(operator.and_, (ds.field(name).isin(list(of)) for name, of in wanted.items()))
        with self._damage():
            fragment = ds.ParquetFileFormat().make_fragment(self._source)
            return [group.id for group in fragment.subset(condition, schema=self.schema).row_groups]

    def read(self, groups: Iterable[int], columns: Sequence[str] | None = None, *, expand: bool = True) -> Any:
        """Return ``columns`` of row groups as an Arrow table; those that are newer than the file are null.

        With ``expand``, columns have the types of the schema; without, text may be dictionary-encoded.
        """
        kind, where = self._kind, self.where
        groups = list(groups)
        columns = kind.schema.names if columns is None else list(columns)
        with self._damage():
            rows = sum(self.group_rows[index] for index in groups)
            declared = sum(self._bytes[index] for index in groups) if expand else 0
            _check_size(max(declared, 8 * rows * len(columns)), rows, where)
            present = [name for name in columns if name in self.schema.names]
            found = self._file.read_row_groups(groups, columns=present, use_threads=False)
            if expand:
                _check_size(sum(map(_expanded_bytes, found.columns)), len(found), where)
            for name in columns:
                if name not in present:
                    column = kind.schema.field(name)
                    found = found.append_column(column, pa.nulls(len(found), column.type))
            target = pa.schema([_target(kind.schema.field(name), found.field(name), expand) for name in columns])
            found = found.select(columns).cast(target)
            found.validate(full=True)
            return found

    @contextlib.contextmanager
    def _damage(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            raise UserError(
                f"{self.where} is truncated or damaged ({str(error).splitlines()[0]}). "
                "Restore it from a copy, or move it out of the directory: the trials it held will then run again."
            ) from error


Part = MemoryPart | ParquetPart


def _target(wanted: Any, found: Any, expand: bool) -> Any:
    keep = not expand and pa.types.is_dictionary(found.type) and found.type.value_type == wanted.type
    return pa.field(wanted.name, found.type if keep else wanted.type, wanted.nullable)


def _check_columns(schema: Any, kind: Table, where: str) -> None:
    columns = set(schema.names)
    odd = min((sorted(columns ^ layout) for layout in kind.layouts), key=len)
    if not odd:
        odd = [name for name in schema.names if is_text(schema.field(name)) != is_text(kind.schema.field(name))]
    if odd or len(schema.names) > len(columns):
        found = f"it differs in the columns {', '.join(map(printable, odd))}"
        raise UserError(f"{where} is not a file of this results store: {found}. Move it out of the directory.")


def _check_size(num_bytes: int, rows: int, where: str) -> None:
    if num_bytes > MAX_TABLE_BYTES:
        allowed = f"a file of a results store may take {MAX_TABLE_BYTES / 2**30:g} GiB. Move it out of the directory."
        raise UserError(f"{where} holds {rows} rows, which take {num_bytes / 2**30:.1f} GiB of memory; {allowed}")


def _expanded_bytes(column: Any) -> int:
    """Return the size in bytes of a column without dictionary encoding."""
    chunks = [chunk for chunk in column.chunks if pa.types.is_dictionary(chunk.type)]
    sizes = (pc.sum(pc.binary_length(chunk.dictionary).take(chunk.indices)).as_py() or 0 for chunk in chunks)
    return int(column.nbytes + sum(sizes))
