"""The results store: Parquet files with results of trials and journals of searches.

A file is never changed after it was written.
"""

import contextlib
import functools
import json
import logging
import re
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from orca_ray.errors import UserError
from orca_ray.results import live, models, parquet, tables
from orca_ray.results.artefacts import ArtefactRow
from orca_ray.results.folder import TEMPORARY, open_folder
from orca_ray.results.live import Fences
from orca_ray.results.logs import LogRow
from orca_ray.results.marker import MARKER, Marker
from orca_ray.results.parquet import MemoryPart, ParquetPart, Part
from orca_ray.results.record import CurvePoint, Record, SuggestionRow
from orca_ray.results.scan import StoreSnapshot, invalid_rows_text, matches
from orca_ray.results.tables import ARTEFACTS, CURVES, JOURNAL, LOGS, RECORDS, Table

logger = logging.getLogger(__name__)
_Method = TypeVar("_Method", bound=Callable[..., Any])

_TABLES = (JOURNAL, CURVES, ARTEFACTS, LOGS, RECORDS)
"""The tables in the order in which `ResultsStore.append` writes their files."""
_COMPACTION = "compaction.json"
"""File with a random identifier, which every compaction rewrites."""
_BESIDE_TABLES = {
    MARKER,
    _COMPACTION,
    live.DIRECTORY,
    live.REQUESTS,
    models.DIRECTORY,
    "checkpoints",
    "imported",
    "staged",
}
"""Files and directories of a store beside the tables."""
SMALL_BYTES = 4 * 2**20
"""Files up to this size are read as a whole.

In larger files, row groups and columns are read as needed.
"""
_STALE_SECONDS = 3600.0
"""Age in seconds from which on the writer of a temporary file must have been killed."""
_READ_ATTEMPTS = 100
"""Number of attempts at reading a table while compactions replace its files."""
_STAMP = re.compile(r"0\d{19}(?=-)")
"""Matches the time stamp, in nanoseconds, with which the names of files start."""
_MAX_CONNECTIONS = 16
"""Number of files that a compaction reads or deletes at a time.

An object store answers each request slowly.
"""
MAX_FILES = 12
"""Number of files of a table above which `ResultsStore.compact_recent` merges."""
_RECENT_ROWS = 1000
"""Number of rows up to which `ResultsStore.compact_recent` always merges a file."""


def _retry_if_replaced(read: _Method) -> _Method:
    """Decorate a method to be called again if a compaction deletes a file under it.

    The new call lists the files anew.
    """

    @functools.wraps(read)
    def method(*args: Any, **options: Any) -> Any:
        for _ in range(_READ_ATTEMPTS):
            with contextlib.suppress(parquet.ReplacedError):
                return read(*args, **options)
        return read(*args, **options)

    return cast(_Method, method)


class ResultsStore:
    """Records, learning curves, artefacts, logs and suggestions of all trials.

    A store is in a directory or under a URI. A store holds a marker file
    ``orca-ray-results.json``, which contains the schema version, and the tables
    ``records/*.parquet``, ``curves/*.parquet``, ``artefacts/*.parquet``,
    ``logs/*.parquet`` and ``journal/*.parquet``, beside the files of running sweeps
    (``live/``, ``requests/``; see `live` and `requests`). Each `append` adds one file
    per table, with a checksum in its name, and changes no other file. Any number of
    processes and machines may append, read and compact at the same time without locks:
    a reader sees only complete files, and duplicate rows count once.

    Args:
        uri: a local path, or any URI of `pyarrow.fs` (``s3://bucket/prefix``,
            ``file:///…``).
        create: create the store if ``uri`` does not exist or is an empty directory; if
            False, that is an error.

    Every method may raise UserError: ``uri`` is no results store, cannot be reached, is
        full, or holds a damaged file.
    """

    def __init__(self, uri: str | Path, *, create: bool = False) -> None:
        self.folder = open_folder(uri)
        """The folder of the store, for files beside the tables."""
        self.uri = self.folder.uri
        """URI or absolute path, with which any process can open this store again."""
        self._marker = Marker(self.folder, create=create)
        self.num_written = 0
        """Number of files that this instance has added since `compact_recent`."""
        self._fences = Fences(self.folder)
        self._suffix = ""
        self._latest = 0

    def __repr__(self) -> str:
        return f"ResultsStore({self.folder.name!r})"

    def append_as(self, sweep: str, number: int) -> None:
        """From now on, append rows as the driver of ``sweep`` with this lease number.

        Rows that are appended later under lower numbers do not count (see `live`). Call
        it as soon as the lease is taken, before anything is read. ``number`` 0: append
        without a lease again.
        """
        if number:
            # Records first: the other rows of a record in the list are written before
            # it, so they are in the list too.
            self._fences.seal(
                sweep, number, [table.directory for table in reversed(_TABLES)]
            )
        self._suffix = live.suffix(sweep, number) if number else ""

    def append(
        self,
        records: Sequence[Record] = (),
        curves: Sequence[CurvePoint] = (),
        artefacts: Sequence[ArtefactRow] = (),
        suggestions: Sequence[SuggestionRow] = (),
        logs: Sequence[LogRow] = (),
    ) -> None:
        """Add rows, in one new file per table; the file of records is written last.

        After the return, all rows survive a power cut. After an exception, no record
        was added, but other rows may have been; all rows may be appended again.
        """
        # The name sorts after those of all files that were seen, even if the clocks of
        # machines differ: the writer of "the row appended last" knew the other rows.
        self._latest = max(time.time_ns(), self._latest + 1)
        name = f"{self._latest:020d}-{uuid.uuid4().hex}{self._suffix}"
        rows_of_tables: tuple[Sequence[Any], ...] = (
            suggestions,
            curves,
            artefacts,
            logs,
            records,
        )
        for table, rows in zip(_TABLES, rows_of_tables, strict=True):
            if rows:
                self._marker.upgrade()
                arrow = tables.from_rows((row.to_row() for row in rows), table)
                self._write_file(table, name, parquet.encode(arrow))
                self.num_written += 1

    def check_version(self) -> None:
        """Raise NewerStoreError if a newer orca-ray has changed the store's version.

        Raises UserError if the marker is damaged or cannot be read.
        """
        self._marker.check()

    def _write_file(self, table: Table, name: str, content: Any) -> None:
        """Write a file of a table; its name gets a checksum."""
        digest = parquet.footer_digest(content)
        self.folder.write(f"{table.directory}/{name}.f{digest}.parquet", content)

    def records(
        self, benchmark: str | None = None, sweep: str | None = None
    ) -> pd.DataFrame:
        """Return the records, one per trial, in the order in which the trials finished.

        A trial is a (sweep, trial key). A trial that ran several times has several rows
        in the files. Rows of completed and early-stopped runs take precedence over rows
        of failed runs; among equals, the row of the last attempt is returned. Columns
        are the fields of `Record`; ``status`` is a string, and a missing number is NaN
        or ``<NA>``.
        """
        rows = self._read_rows(RECORDS, benchmark=benchmark, sweep=sweep)
        return tables.to_frame(tables.current_records(rows))

    def load(self, sweep: str) -> dict[str, Record]:
        """Return the records of a sweep by trial key, chosen as in `records`."""
        rows = tables.current_records(self._read_rows(RECORDS, sweep=sweep)).to_pylist()
        return {row["trial_key"]: Record.from_row(row) for row in rows}

    def select(
        self, wanted: Mapping[str, Collection[str]], key_prefix: str = ""
    ) -> list[Record]:
        """Return the records with ``wanted`` values, one per trial.

        Their trial keys start with ``key_prefix``. ``wanted`` has the allowed values by
        the name of a text column. Damaged files and invalid rows are left out with a
        warning.
        """
        scan = self.scan()
        for warning in scan.warnings:
            warn_once(warning)
        matching = [np.empty(0, np.int64)]
        for positions, table in scan.batches(["trial_key"], wanted):
            keys = table["trial_key"].cast(pa.string())
            has_prefix = pc.starts_with(keys, key_prefix).to_numpy()
            matching.append(positions[has_prefix])
        rows = scan.take(np.sort(np.concatenate(matching)), Record.SCHEMA.names)
        return [Record.from_row(row) for row in rows.to_pylist()]

    def curves(
        self, sweep: str | None = None, trial_key: str | Collection[str] | None = None
    ) -> pd.DataFrame:
        """Return the learning curves: one row per epoch.

        Rows are sorted by sweep, trial, stage and epoch. ``sweep`` None: all sweeps.
        ``trial_key``: one key or several; None: all trials. Only rows of a trial's last
        attempt are returned. If an epoch has several rows, the one appended last is
        returned. Columns are the fields of `CurvePoint`.
        """
        return self._current_frame(CURVES, sweep, trial_key)

    def artefacts(
        self, sweep: str | None = None, trial_key: str | Collection[str] | None = None
    ) -> pd.DataFrame:
        """Return the artefacts, sorted by sweep, trial, kind and name.

        If several rows are equal in these columns, the one appended last is returned.
        Arguments are those of `curves`. Columns are the fields of `ArtefactRow`, all
        strings.
        """
        return self._current_frame(ARTEFACTS, sweep, trial_key)

    def journal(self, sweep: str) -> list[SuggestionRow]:
        """Return the suggestions of a sweep, sorted by task, method and number.

        If several rows have the same number, the one appended last is returned.
        """
        rows = tables.current_rows(
            self._read_rows(JOURNAL, sweep=sweep), JOURNAL
        ).to_pylist()
        return [SuggestionRow(**row) for row in rows]

    def logs(
        self, sweep: str | None = None, trial_key: str | Collection[str] | None = None
    ) -> pd.DataFrame:
        """Return the logs, sorted by sweep, trial, attempt and time.

        Arguments are those of `curves`. Columns are the fields of `LogRow`.
        """
        return self._current_frame(LOGS, sweep, trial_key)

    def _current_frame(
        self, table: Table, sweep: str | None, trial_key: str | Collection[str] | None
    ) -> pd.DataFrame:
        rows = self._read_rows(table, sweep=sweep, trial_key=trial_key)
        return tables.to_frame(tables.current_rows(rows, table))

    @_retry_if_replaced
    def scan(self) -> StoreSnapshot:
        """Return a view of the current records, for leaderboards.

        The view reads only the columns that are asked for. In contrast to the other
        methods, damaged files and invalid rows are left out with a warning.
        """
        warnings: list[str] = []
        directories = {table.directory for table in _TABLES}
        self._warn_of_foreign_files(
            "", set(self.folder.names()) - directories - _BESIDE_TABLES
        )
        large_parts = []
        small_tables = [RECORDS.schema.empty_table()]
        for part in self._open_parts(RECORDS, warnings):
            if isinstance(part, ParquetPart):
                large_parts.append(part)
            else:
                small_tables.append(self._valid_records(part, warnings))
        merged = pa.concat_tables(small_tables).combine_chunks()
        return StoreSnapshot([*large_parts, MemoryPart(merged)], warnings)

    def _valid_records(self, part: MemoryPart, warnings: list[str]) -> Any:
        """Return the valid rows of a part; add sentences on others to ``warnings``."""
        where = part.where.removeprefix(f"{self.folder.name}/")
        valid = pa.chunked_array([pa.repeat(True, len(part.table))])
        for invalid in tables.invalid_rows(part.table, RECORDS):
            # Rows that an earlier column has shown to be invalid are not counted twice.
            num_invalid = pc.sum(pc.and_(invalid.is_wrong, valid)).as_py()
            warnings.append(invalid_rows_text(num_invalid, where, invalid))
            valid = pc.and_(valid, pc.invert(invalid.is_wrong))
        return part.table.filter(valid)

    def compact(self) -> int:
        """Merge the small files of each table; return the number of files deleted.

        The rows of the merged files are sorted. Only exact duplicates of rows are
        dropped. A crash at any point loses nothing, and other processes may read,
        append or compact meanwhile: only files that were merged are deleted, after the
        merged files are written.
        """
        num_deleted = 0
        for table in _TABLES:
            self.folder.delete_temporary(table.directory, _STALE_SECONDS)
            listing = self._list_files(table)
            for path in listing.excluded_paths:
                self.folder.delete(path)
            parts = dict(self._open_files(table, listing.final_names))
            num_deleted += len(listing.excluded_paths) + self._merge(table, parts)
        for directory in ("", live.DIRECTORY):
            self.folder.delete_temporary(directory, _STALE_SECONDS)
        for directory in (live.REQUESTS, models.DIRECTORY):
            self.folder.delete_temporary(directory, _STALE_SECONDS, recursive=True)
        return num_deleted

    def compact_recent(self) -> int:
        """Merge the newest files of large tables; return the number of files deleted.

        A table is large if it has more than `MAX_FILES`. An older file is merged only
        if the newer ones have half as many rows, so that the time per row that a sweep
        spends on merging grows with the logarithm of its number of rows. Merging is as
        safe as in `compact`.
        """
        self.num_written = 0
        large_tables = [
            table
            for table in _TABLES
            if len(self.folder.names(table.directory)) > MAX_FILES
        ]
        return sum(
            self._merge(table, self._find_recent(table)) for table in large_tables
        )

    def _find_recent(self, table: Table) -> dict[str, Part]:
        """Return the newest files of a table that are to be merged, oldest first."""
        recent: dict[str, Part] = {}
        total_rows = 0
        newest_first = reversed(self._list_files(table).final_names)
        for name, part in self._open_files(table, newest_first):
            num_rows = sum(part.group_rows)
            if num_rows > max(_RECENT_ROWS, 2 * total_rows):
                break
            recent[name] = part
            total_rows += num_rows
        return dict(sorted(recent.items()))

    def _merge(self, table: Table, files: Mapping[str, Part]) -> int:
        """Merge the ``files`` that are not large; return how many were deleted."""
        parts = {
            name: part
            for name, part in files.items()
            if sum(part.group_rows) < table.file_rows
        }
        if len(parts) < 2:  # nothing to merge
            return 0
        self._marker.upgrade()
        with ThreadPoolExecutor(_MAX_CONNECTIONS) as pool:
            rows = pa.concat_tables(pool.map(_read_whole, parts.values()))
        merged = tables.sort_distinct(rows, table)
        # Names start with a time stamp. That of the newest merged file keeps the order
        # with files appended meanwhile.
        stamp = max(parts).partition("-")[0]
        for number, start in enumerate(range(0, len(merged), table.file_rows)):
            rows_of_file = merged.slice(start, table.file_rows)
            name = f"{stamp}-{number:04d}{uuid.uuid4().hex}"
            self._write_file(
                table, name, parquet.encode(rows_of_file, table.group_rows)
            )
        # Written before the first deletion: it makes a concurrent reader, which may
        # miss old and new files, list again.
        compaction = json.dumps({"id": uuid.uuid4().hex}, indent=1).encode() + b"\n"
        self.folder.write(_COMPACTION, pa.py_buffer(compaction))
        paths = [f"{table.directory}/{name}" for name in parts]
        with ThreadPoolExecutor(_MAX_CONNECTIONS) as pool:
            list(pool.map(self.folder.delete, paths))
        logger.info(
            "compacted %d files of %s/%s", len(parts), self.folder.name, table.directory
        )
        return len(parts)

    @_retry_if_replaced
    def _read_rows(self, table: Table, **wanted: str | Collection[str] | None) -> Any:
        """Return the rows of a table with ``wanted`` values, oldest first.

        ``wanted`` has the allowed value or values by column name; None: any value.
        Rows that are appended after this call are left out.
        """
        allowed_values = {
            name: [value] if isinstance(value, str) else value
            for name, value in wanted.items()
            if value is not None
        }
        rows = [table.schema.empty_table()]
        for part in self._open_parts(table):
            for group in part.groups_with(allowed_values):
                matching = _matching_rows(part, group, allowed_values)
                if not matching.any():
                    continue
                group_rows = part.read([group])
                if isinstance(part, ParquetPart):
                    tables.check_invalid(group_rows, table, part.where)
                if not matching.all():
                    group_rows = group_rows.filter(pa.array(matching))
                rows.append(group_rows)
        return pa.concat_tables(rows)

    def _open_parts(
        self, table: Table, warnings: list[str] | None = None
    ) -> list[Part]:
        """Return the files of a table, oldest first; small ones are read into memory.

        Files that are added after this call are left out. A damaged file raises
        UserError. With ``warnings``, it is left out, and a sentence about it is added
        to ``warnings``.
        """
        files: dict[str, Part | UserError] = {}
        for _ in range(_READ_ATTEMPTS):
            compaction = self._last_compaction()
            names = self._list_files(table).names
            files = dict(self._open_files(table, names, files, strict=warnings is None))
            # A listing is not atomic: while a compaction deletes, it can miss both an
            # old file and the merged one. The merged file exists before `_COMPACTION`
            # changes. A listing is complete if that file did not change during it.
            if self._last_compaction() == compaction:
                break
        else:
            raise UserError(
                f"{self.folder.name} is compacted again and again: stop the process"
                " that does it, then retry."
            )
        parts = []
        for file in files.values():
            if not isinstance(file, UserError):
                parts.append(file)
            elif warnings is not None:
                problem = f"left out: {file}"
                warnings.append(problem.replace(f"{self.folder.name}/", ""))
        return parts

    def _list_files(self, table: Table) -> "_Listing":
        """List the files of a table, by whether they count (see `Fences`).

        This also stores the latest time stamp in the names, for `append`.
        """
        names = self.folder.names(table.directory)
        for name in names:
            if stamp := _STAMP.match(name):
                self._latest = max(self._latest, int(stamp[0]))
        self._warn_of_foreign_files(
            f"{table.directory}/",
            {name for name in names if not name.endswith(".parquet")},
        )
        path_of = {name: f"{table.directory}/{name}" for name in names}
        fenced = self._fences.find_fenced(path_of.values())
        counted = [name for name in names if path_of[name] not in fenced.excluded]
        return _Listing(
            names=counted,
            final_names=[
                name for name in counted if path_of[name] not in fenced.pending
            ],
            excluded_paths=fenced.excluded - fenced.pending,
        )

    def _open_files(
        self,
        table: Table,
        names: Iterable[str],
        read_before: Mapping[str, Any] | None = None,
        *,
        strict: bool = True,
    ) -> Iterator[tuple[str, Any]]:
        """Yield the name and the `Part` of each of the files ``names`` of a table.

        Files that a compaction has replaced since they were listed are skipped.
        ``read_before`` holds parts of files that were opened before, by name. The error
        of a damaged file is raised if ``strict``, else yielded in place of its part.
        """
        for name in names:
            if read_before and name in read_before:
                yield name, read_before[name]
            elif name.endswith(".parquet"):
                path = f"{table.directory}/{name}"
                try:
                    yield name, self._open_file(table, path, strict=strict)
                except FileNotFoundError:  # replaced by a compaction since the listing
                    pass
                except UserError as error:
                    if strict:
                        raise
                    yield name, error

    def _warn_of_foreign_files(self, place: str, names: Iterable[str]) -> None:
        """Warn once about files and directories that are no part of the store.

        These are names without a suffix, and Parquet files that no reader opens.
        """
        for name in sorted(names):
            if name.endswith(".parquet") or "." not in name:
                warn_once(
                    f"{self.folder.name}/{place}{name} is no part of this results"
                    " store, and is not read: move it out of the directory"
                )

    def _open_file(self, table: Table, path: str, *, strict: bool) -> Part:
        """Return a file of a table as a `Part`; a small file is read into memory.

        With ``strict``, an invalid row of a small file raises UserError.
        """
        where = f"{self.folder.name}/{path}"
        stream = self.folder.open(path)
        if stream.size() > SMALL_BYTES:
            return ParquetPart(stream, table, where)
        with stream:
            part = ParquetPart(pa.BufferReader(stream.read_buffer()), table, where)
        content = part.read(range(len(part.group_rows)))
        if strict:
            tables.check_invalid(content, table, where)
        return MemoryPart(content, where)

    def _last_compaction(self) -> bytes | None:
        """Return the identifier of the last compaction; None before the first."""
        try:
            return bytes(self.folder.read(_COMPACTION))
        except FileNotFoundError:
            return None


@dataclass(frozen=True)
class _Listing:
    """The files of a table, by whether they count (see `FencedFiles`)."""

    names: list[str]
    """Names of the files that count now, oldest first."""
    final_names: list[str]
    """Names of the files that count and are not pending; these may be merged."""
    excluded_paths: set[str]
    """Paths of the files that do not count and are not pending; these may be deleted.
    """


def check_writable(results: ResultsStore | str) -> None:
    """Raise UserError if no file can be written in an existing store or directory.

    ``results`` is a store, or its path or URI.
    """
    folder = (
        results.folder if isinstance(results, ResultsStore) else open_folder(results)
    )
    if folder.kind() == "directory":
        path = f"{TEMPORARY}{uuid.uuid4().hex}"
        folder.write(path, pa.py_buffer(b""))
        folder.delete(path)


@functools.cache
def warn_once(text: str) -> None:
    """Log a warning, unless this process has logged it before."""
    logger.warning(text)


def _matching_rows(
    part: Part, group: int, allowed_values: Mapping[str, Collection[str]]
) -> NDArray[np.bool_]:
    """Return a mask of the rows of a row group that have the allowed values.

    Only the columns with allowed values are read: most row groups that may hold
    matching rows hold none.
    """
    if not allowed_values:
        return np.ones(part.group_rows[group], dtype=bool)
    columns = part.read([group], list(allowed_values), expand=False)
    return matches(columns, allowed_values)


def _read_whole(part: Part) -> Any:
    return pa.concat_tables(part.read([group]) for group in range(len(part.group_rows)))
