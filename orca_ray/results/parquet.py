"""Parquet files of the results store: written with checksums, read with checks."""

import contextlib
import functools
import hashlib
import operator
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from orca_ray.errors import UserError, printable
from orca_ray.results.tables import Table

MAX_TABLE_BYTES = 2**30
"""Largest size in memory of the table in one file.

A Parquet file of a few KB can expand to far more.
"""
_DIGEST = re.compile(r"\.f([0-9a-f]{16})\.parquet$")
"""Matches the `footer_digest` in the name of a file.

Files that older versions wrote lack it.
"""
_DISTINCT = ("trial_key", "payload", "text")
"""Columns of nearly distinct values, which are not dictionary-encoded."""
_EXPANDING = (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())
"""Types of which dictionary-encoded values take more memory once they are expanded."""


def encode(table: Any, group_rows: int = 2**17) -> Any:
    """Return the content of a Parquet file with the rows of an Arrow table.

    The content is a buffer; pages have checksums. Row groups have ``group_rows`` rows,
    so that readers can skip groups without wanted rows (`ParquetPart`). Columns of
    nearly distinct values are not dictionary-encoded, because a reader would expand
    them.
    """
    sink = pa.BufferOutputStream()
    options = {
        "compression": "zstd",
        "write_page_checksum": True,
        "row_group_size": group_rows,
    }
    repeated_texts = [
        field.name
        for field in table.schema
        if is_text(field) and field.name not in _DISTINCT
    ]
    pq.write_table(table, sink, use_dictionary=repeated_texts, **options)
    return sink.getvalue()


def footer_digest(content: Any) -> str:
    """Return a checksum of the footer of a Parquet file, 16 hex digits.

    Parquet itself has checksums of pages only. ``content`` is a `pyarrow.Buffer`. The
    store writes the digits into the name of the file; `ParquetPart` checks them.
    """
    return hashlib.blake2b(_footer(pa.BufferReader(content)), digest_size=8).hexdigest()


def _footer(source: Any) -> Any:
    """Return the end of an open Parquet file: the footer, its size, and a magic number.

    The last two take 4 bytes each.
    """
    source.seek(max(0, source.size() - 8))
    length = int.from_bytes(source.read(4), "little") + 8
    source.seek(max(0, source.size() - length))
    return source.read_buffer()


def is_text(column: Any) -> bool:
    """Return whether a column, or a field of a schema, holds text.

    The text may be dictionary-encoded.
    """
    kind = (
        column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    )
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


class ReplacedError(UserError):
    """A file was deleted while it was read, because a compaction has merged it."""


class MemoryPart:
    """Part of a table of the store that is in memory, with one row group."""

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
        """Return ``columns`` (None: all) of the table.

        ``groups`` and ``expand`` have no effect.
        """
        return self.table if columns is None else self.table.select(columns)


class ParquetPart:
    """A Parquet file that holds rows of a table.

    Its row groups and columns are read as needed. Raises UserError about ``where``, the
    name of the file, if it is damaged or lacks the columns of ``kind``.
    """

    def __init__(self, source: Any, kind: Table, where: str) -> None:
        self._kind = kind
        self.where = where
        with self._damage():
            footer = _footer(source)
            match = _DIGEST.search(where)
            if match and match[1] != footer_digest(footer):
                raise ValueError("the footer does not have the checksum in the name")
            metadata = pq.read_metadata(pa.BufferReader(footer))
            self.schema = metadata.schema.to_arrow_schema()
            _check_columns(self.schema, kind, where)
            # Dictionary encoding stores equal strings once, so that memory is safe
            # until the expanded size is checked.
            texts = [field.name for field in self.schema if is_text(field)]
            options = {"page_checksum_verification": True, "read_dictionary": texts}
            self._file = pq.ParquetFile(source, metadata=metadata, **options)
        groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
        self._bytes = [group.total_byte_size for group in groups]
        self._source = source
        self.group_rows = [group.num_rows for group in groups]

    def groups_with(self, wanted: Mapping[str, Collection[str]]) -> list[int]:
        """Return the numbers of the row groups that may hold ``wanted`` values.

        The minima and maxima of the columns show whether a row group may hold them.
        """
        if not wanted:
            return list(range(len(self.group_rows)))
        conditions = (
            ds.field(name).isin(list(values)) for name, values in wanted.items()
        )
        condition = functools.reduce(operator.and_, conditions)
        with self._damage():
            fragment = ds.ParquetFileFormat().make_fragment(self._source)
            groups = fragment.subset(condition, schema=self.schema).row_groups
            return [group.id for group in groups]

    def read(
        self,
        groups: Iterable[int],
        columns: Sequence[str] | None = None,
        *,
        expand: bool = True,
    ) -> Any:
        """Return ``columns`` (None: all) of row groups as an Arrow table.

        Columns that the file lacks, because it is older, are null. With ``expand``,
        columns have the types of the schema; without, text may be dictionary-encoded.
        """
        schema = self._kind.schema
        groups = list(groups)
        columns = schema.names if columns is None else list(columns)
        with self._damage():
            table = self._read_present(groups, columns, expand=expand)
            for name in columns:
                if name not in self.schema.names:
                    field = schema.field(name)
                    nulls = pa.nulls(len(table), field.type)
                    table = table.append_column(field, nulls)
            target = pa.schema(
                [
                    _target(schema.field(name), table.field(name), expand)
                    for name in columns
                ]
            )
            table = table.select(columns).cast(target)
            table.validate(full=True)
            return table

    def _read_present(
        self, groups: list[int], columns: list[str], *, expand: bool
    ) -> Any:
        """Return the ``columns`` that the file has, after a check of their memory."""
        num_rows = sum(self.group_rows[index] for index in groups)
        num_bytes = 8 * num_rows * len(columns)  # about 8 bytes per value
        if expand:
            declared = sum(self._bytes[index] for index in groups)
            num_bytes = max(declared, num_bytes)
        _check_size(num_bytes, num_rows, self.where)
        present = [name for name in columns if name in self.schema.names]
        table = self._file.read_row_groups(groups, columns=present, use_threads=False)
        if len(table) != num_rows:  # Arrow skips a page whose type it does not know
            raise ValueError(f"{len(table)} of {num_rows} rows are readable")
        if expand:
            expanded = sum(encoded_text_bytes(column) for column in table.columns)
            _check_size(table.nbytes + expanded, num_rows, self.where)
        return table

    @contextlib.contextmanager
    def _damage(self) -> Iterator[None]:
        """Context manager: explain errors of reading the file.

        They are raised as ReplacedError if the file was deleted, else as UserError.
        """
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
                " Restore it from a copy, or move it out of the directory:"
                f" {self._kind.without_file}."
            ) from error


Part = MemoryPart | ParquetPart


def _target(declared: Any, present: Any, expand: bool) -> Any:
    """Return the field to which a column of a file is cast.

    ``declared`` is the field of the table's schema, ``present`` that of the file.
    Without ``expand``, dictionary-encoded text stays encoded.
    """
    is_encoded = (
        pa.types.is_dictionary(present.type)
        and present.type.value_type == declared.type
    )
    if is_encoded and not expand:
        return pa.field(declared.name, present.type, declared.nullable)
    return declared


def _check_columns(schema: Any, kind: Table, where: str) -> None:
    """Raise UserError if a file's schema is not that of the table ``kind``."""
    present = set(schema.names)
    declared = set(kind.schema.names)
    unknown = present - declared
    missing = declared - kind.later - present
    differing = sorted(unknown | missing)
    if not differing:
        differing = [
            name
            for name in schema.names
            if is_text(schema.field(name)) != is_text(kind.schema.field(name))
        ]
    has_repeated_names = len(schema.names) > len(present)
    if differing or has_repeated_names:
        raise UserError(
            f"{where} is not a file of this results store: it differs in the columns"
            f" {', '.join(map(printable, differing))}. Move it out of the directory."
        )


def _check_size(num_bytes: int, num_rows: int, where: str) -> None:
    """Raise UserError if the rows of a file would take too much memory."""
    if num_bytes > MAX_TABLE_BYTES:
        raise UserError(
            f"{where} holds {num_rows} rows, which take {num_bytes / 2**30:.1f} GiB of"
            f" memory; a file of a results store may take {MAX_TABLE_BYTES / 2**30:g}"
            " GiB. Move it out of the directory."
        )


def read_bounded(content: bytes, names: Sequence[str]) -> Any:
    """Return the columns ``names`` of a Parquet file that is in memory.

    Columns that the file lacks are left out. Raises ValueError or `pa.ArrowException`
    if the file is damaged, or if the table would take more than `MAX_TABLE_BYTES`.
    """
    source = pa.BufferReader(content)
    schema = pq.read_schema(source)
    present = [name for name in names if name in schema.names]
    texts = [name for name in present if is_text(schema.field(name))]
    file = pq.ParquetFile(source, read_dictionary=texts)
    metadata = file.metadata
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    declared = sum(group.total_byte_size for group in groups)
    # Dictionary encoding stores equal texts once, so that memory is safe until the
    # expanded size is checked.
    num_bytes = max(declared, 8 * metadata.num_rows * max(1, len(present)))
    if num_bytes <= MAX_TABLE_BYTES:
        table = file.read(columns=present, use_threads=False)
        table.validate(full=True)
        expanded = sum(encoded_text_bytes(column) for column in table.columns)
        num_bytes = table.nbytes + expanded
        if num_bytes <= MAX_TABLE_BYTES:
            return table
    raise ValueError(
        f"{metadata.num_rows:,} rows take {num_bytes / 2**30:.1f} GiB of memory, more"
        f" than {MAX_TABLE_BYTES / 2**30:g} GiB"
    )


def encoded_text_bytes(column: Any) -> int:
    """Return the bytes that dictionary-encoded text takes once it is expanded.

    ``column`` is an array or a column. Values that are not such text count 0.
    """
    if isinstance(column, pa.ChunkedArray):
        return sum(map(encoded_text_bytes, column.chunks))
    kind = column.type
    if pa.types.is_nested(kind):
        return sum(map(encoded_text_bytes, _nested_arrays(column)))
    if not pa.types.is_dictionary(kind) or kind.value_type not in _EXPANDING:
        return 0
    lengths = pc.binary_length(column.dictionary).take(column.indices)
    return int(pc.sum(lengths, min_count=0).as_py())


def _nested_arrays(array: Any) -> list[Any]:
    """Return the values of lists, keys and values of maps, or fields of structs."""
    if isinstance(array, pa.MapArray):
        return [array.keys, array.items]
    if not hasattr(array, "flatten"):
        return []
    inner = array.flatten()
    return inner if isinstance(inner, list) else [inner]
