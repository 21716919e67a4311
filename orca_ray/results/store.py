"""The results store: Parquet files of results of trials and suggestions of searches,
which are never changed.
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
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from orca_ray.errors import UserError
from orca_ray.results import live, models, tables
from orca_ray.results.artefacts import ArtefactRow
from orca_ray.results.folder import TEMPORARY, open_folder
from orca_ray.results.live import Fences
from orca_ray.results.logs import LogRow
from orca_ray.results.marker import MARKER, Marker
from orca_ray.results.record import CurvePoint, Record, SuggestionRow
from orca_ray.results.scan import StoreSnapshot, invalid_rows_text, matches
from orca_ray.results.tables import (
    ARTEFACTS,
    CURVES,
    JOURNAL,
    LOGS,
    RECORDS,
    MemoryPart,
    ParquetPart,
    Part,
    Table,
)

logger = logging.getLogger(__name__)
_Method = TypeVar("_Method", bound=Callable[..., Any])

_TABLES = (JOURNAL, CURVES, ARTEFACTS, LOGS, RECORDS)
_COMPACTION = "compaction.json"
_OTHERS = {
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
"""Files up to this size are read as a whole; of larger ones, row groups and columns are
read as needed.
"""
_STALE_SECONDS = 3600.0
_READ_ATTEMPTS = 100
_STAMP = re.compile(r"0\d{19}(?=-)")
_MAX_CONNECTIONS = 16
"""Number of files that compaction reads or deletes at a time, because an object store
answers each request slowly.
"""
MAX_FILES = 12
"""Number of files of a table above which `ResultsStore.compact_recent` merges the
newest of them.
"""
_RECENT_ROWS = 1000


def _repeated(read: _Method) -> _Method:
    """Return a method that calls ``read`` again, which lists the files anew, if a
    compaction deletes one of them.
    """

    @functools.wraps(read)
    def method(*args: Any, **options: Any) -> Any:
        for _ in range(_READ_ATTEMPTS):
            with contextlib.suppress(tables.ReplacedError):
                return read(*args, **options)
        return read(*args, **options)

    return cast(_Method, method)


class ResultsStore:
    """Records, learning curves, artefacts, logs and suggestions of all trials, in a
    directory or under a URI.

    A store holds a marker file ``orca-ray-results.json``, which contains the schema
    version, and the tables ``records/*.parquet``, ``curves/*.parquet``,
    ``artefacts/*.parquet``, ``logs/*.parquet`` and ``journal/*.parquet``, beside the
    files of running sweeps (``live/``, ``requests/``; see `live` and `requests`). Each
    `append` adds one file per table, with a checksum in its name, and changes no other
    file. Any number of processes and machines may append, read and compact at the same
    time without locks: a reader sees only complete files, and duplicate rows count
    once.

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
        """The folder of the store, for the files beside the tables: those of running
        sweeps and of requests.
        """
        self.uri = self.folder.uri
        """URI or absolute path, with which any process can open this store again."""
        self._marker = Marker(self.folder, create=create)
        self.num_written = 0
        """Number of files that this instance has added since `compact_recent` was last
        called.
        """
        self._fences = Fences(self.folder)
        self._suffix = ""
        self._latest = 0

    def __repr__(self) -> str:
        return f"ResultsStore({self.folder.name!r})"

    def append_as(self, sweep: str, number: int) -> None:
        """Append rows as the driver of ``sweep`` with a lease number from now on; later
        ones of lower numbers are void.

        See `live`. Call it as soon as the lease is taken, before anything is read. 0:
        append without a lease again.
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
        # Not before any file that was seen, whatever the clocks of machines say: "the
        # row appended last" then is the one whose writer knew the others.
        self._latest = max(time.time_ns(), self._latest + 1)
        name = f"{self._latest:020d}-{uuid.uuid4().hex}{self._suffix}"
        rows: tuple[Sequence[Any], ...] = (
            suggestions,
            curves,
            artefacts,
            logs,
            records,
        )
        for table, items in zip(_TABLES, rows, strict=True):
            if items:
                self._marker.claim()
                content = tables.encode(
                    tables.from_rows((item.to_row() for item in items), table)
                )
                self.folder.write(
                    f"{table.directory}/{name}.f{tables.footer_digest(content)}.parquet",
                    content,
                )
                self.num_written += 1

    def records(
        self, benchmark: str | None = None, sweep: str | None = None
    ) -> pd.DataFrame:
        """Return the records, one row per (sweep, trial key), in the order in which the
        trials finished.

        A trial that ran several times has several rows in the files. Rows of completed
        and early-stopped runs take precedence over rows of failed runs; among equals,
        the row of the last attempt is returned. Columns are the fields of `Record`;
        ``status`` is a string, and a missing number is NaN or ``<NA>``.
        """
        return tables.to_frame(
            tables.current_records(
                self._table(RECORDS, benchmark=benchmark, sweep=sweep)
            )
        )

    def load(self, sweep: str) -> dict[str, Record]:
        """Return the records of a sweep by trial key: one per trial, chosen as in
        `records`.
        """
        found = tables.current_records(self._table(RECORDS, sweep=sweep))
        return {row["trial_key"]: Record.from_row(row) for row in found.to_pylist()}

    def select(
        self, wanted: Mapping[str, Collection[str]], key_prefix: str = ""
    ) -> list[Record]:
        """Return the records with ``wanted`` values whose trial key starts with
        ``key_prefix``, one per trial.

        ``wanted`` has the allowed values by name of a text column. Damaged files and
        invalid rows are left out with a warning.
        """
        scan = self.scan()
        for warning in scan.warnings:
            warn_once(warning)
        found = [np.empty(0, np.int64)]
        for positions, table in scan.batches(["trial_key"], wanted):
            starts = pc.starts_with(table["trial_key"].cast(pa.string()), key_prefix)
            found.append(positions[starts.to_numpy()])
        rows = scan.take(np.sort(np.concatenate(found)), Record.SCHEMA.names)
        return [Record.from_row(row) for row in rows.to_pylist()]

    def curves(
        self, sweep: str | None = None, trial_key: str | Collection[str] | None = None
    ) -> pd.DataFrame:
        """Return the learning curves: one row per epoch, sorted by sweep, trial, stage
        and epoch.

        ``sweep`` None: all sweeps. ``trial_key``: one key or several; None: all trials.
        Of a trial's rows, those of its last attempt count, and of rows of one epoch,
        the row appended last. Columns are the fields of `CurvePoint`.
        """
        return tables.to_frame(
            tables.current(
                self._table(CURVES, sweep=sweep, trial_key=trial_key), CURVES
            )
        )

    def artefacts(
        self, sweep: str | None = None, trial_key: str | Collection[str] | None = None
    ) -> pd.DataFrame:
        """Return the artefacts: the row appended last for each sweep, trial, kind and
        name, sorted by these columns.

        Arguments are those of `curves`. Columns are the fields of `ArtefactRow`, all
        strings.
        """
        return tables.to_frame(
            tables.current(
                self._table(ARTEFACTS, sweep=sweep, trial_key=trial_key), ARTEFACTS
            )
        )

    def journal(self, sweep: str) -> list[SuggestionRow]:
        """Return the suggestions of a sweep, sorted by task, method and number: for
        each number, the last appended.
        """
        rows = tables.current(self._table(JOURNAL, sweep=sweep), JOURNAL).to_pylist()
        return [SuggestionRow(**row) for row in rows]

    def logs(
        self, sweep: str | None = None, trial_key: str | Collection[str] | None = None
    ) -> pd.DataFrame:
        """Return the logs by sweep, trial, attempt and time; arguments: see `curves`;
        columns: see `LogRow`.
        """
        return tables.to_frame(
            tables.current(self._table(LOGS, sweep=sweep, trial_key=trial_key), LOGS)
        )

    @_repeated
    def scan(self) -> StoreSnapshot:
        """Return a view of the current records, for leaderboards; it reads only the
        columns that are asked for.

        In contrast to the other methods, damaged files and invalid rows are left out
        with a warning.
        """
        warnings: list[str] = []
        self._warn_of_strangers(
            "",
            set(self.folder.names()) - {table.directory for table in _TABLES} - _OTHERS,
        )
        small = []
        parts = []
        for part in self._parts(RECORDS, warnings):
            if isinstance(part, ParquetPart):
                parts.append(part)
                continue
            where = part.where.removeprefix(f"{self.folder.name}/")
            valid = pa.chunked_array([pa.repeat(True, len(part.table))])
            for name, _, value, allowed, wrong in tables.invalid_rows(
                part.table, RECORDS
            ):
                number = pc.sum(pc.and_(wrong, valid)).as_py()
                warnings.append(invalid_rows_text(number, where, name, value, allowed))
                valid = pc.and_(valid, pc.invert(wrong))
            small.append(part.table.filter(valid))
        merged = pa.concat_tables(
            [RECORDS.schema.empty_table(), *small]
        ).combine_chunks()
        return StoreSnapshot([*parts, MemoryPart(merged)], warnings)

    def compact(self) -> int:
        """Merge the small files of each table into large, sorted ones; return the
        number of files deleted.

        Only exact duplicates of rows are dropped. A crash at any point loses nothing,
        and other processes may read, append or compact meanwhile: only files that were
        merged are deleted, after the merged files are written.
        """
        removed = 0
        for table in _TABLES:
            self.folder.sweep_temporary(table.directory, _STALE_SECONDS)
            names, void = self._listed(table, settled=True)
            for path in void:
                self.folder.delete(path)
            removed += len(void) + self._merge(table, dict(self._read(table, names)))
        for directory in ("", live.DIRECTORY):
            self.folder.sweep_temporary(directory, _STALE_SECONDS)
        for directory in (live.REQUESTS, models.DIRECTORY):
            self.folder.sweep_temporary(directory, _STALE_SECONDS, recursive=True)
        return removed

    def compact_recent(self) -> int:
        """Merge the newest files of each table that has more than `MAX_FILES`; return
        the number of files deleted.

        An older file is merged only if the newer ones have half as many rows, so that
        the time per row that a sweep spends on merging grows with the logarithm of its
        number of rows. Merging is as safe as in `compact`.
        """
        self.num_written = 0
        many = [
            table
            for table in _TABLES
            if len(self.folder.names(table.directory)) > MAX_FILES
        ]
        return sum(self._merge(table, self._recent(table)) for table in many)

    def _recent(self, table: Table) -> dict[str, Part]:
        found: dict[str, Part] = {}
        rows = 0
        for name, part in self._read(
            table, reversed(self._listed(table, settled=True)[0])
        ):
            size = sum(part.group_rows)
            if size > max(_RECENT_ROWS, 2 * rows):
                break
            found[name] = part
            rows += size
        return dict(sorted(found.items()))

    def _merge(self, table: Table, parts: Mapping[str, Part]) -> int:
        parts = {
            name: part
            for name, part in parts.items()
            if sum(part.group_rows) < table.file_rows
        }
        if len(parts) < 2:
            return 0
        self._marker.claim()
        with ThreadPoolExecutor(_MAX_CONNECTIONS) as pool:
            merged = tables.compacted(
                pa.concat_tables(pool.map(_whole, parts.values())), table
            )
        # Names start with a time stamp. That of the newest merged file keeps the order
        # with files appended meanwhile.
        stamp = max(parts).partition("-")[0]
        for number, start in enumerate(range(0, len(merged), table.file_rows)):
            content = tables.encode(
                merged.slice(start, table.file_rows), table.group_rows
            )
            name = f"{stamp}-{number:04d}{uuid.uuid4().hex}.f{tables.footer_digest(content)}.parquet"
            self.folder.write(f"{table.directory}/{name}", content)
        # Written before the first deletion: it makes a concurrent reader, which may
        # miss old and new files, list again.
        compaction = json.dumps({"id": uuid.uuid4().hex}, indent=1).encode() + b"\n"
        self.folder.write(_COMPACTION, pa.py_buffer(compaction))
        with ThreadPoolExecutor(_MAX_CONNECTIONS) as pool:
            list(
                pool.map(
                    self.folder.delete, [f"{table.directory}/{part}" for part in parts]
                )
            )
        logger.info(
            "compacted %d files of %s/%s", len(parts), self.folder.name, table.directory
        )
        return len(parts)

    @_repeated
    def _table(self, table: Table, **wanted: str | Collection[str] | None) -> Any:
        """Return the rows appended before this call that have the ``wanted`` values
        (None: any), oldest first.
        """
        given = {name: value for name, value in wanted.items() if value is not None}
        values = {
            name: [value] if isinstance(value, str) else value
            for name, value in given.items()
        }
        found = [table.schema.empty_table()]
        for part in self._parts(table):
            for group in part.groups_with(values):
                # The columns with the wanted values are read first: most row groups
                # that may hold some hold none.
                if (
                    values
                    and not (
                        keep := matches(
                            part.read([group], list(values), expand=False), values
                        )
                    ).any()
                ):
                    continue
                rows = part.read([group])
                if isinstance(part, ParquetPart):
                    tables.check_invalid(rows, table, part.where)
                found.append(rows.filter(pa.array(keep)) if values else rows)
        return pa.concat_tables(found)

    def _parts(self, table: Table, warnings: list[str] | None = None) -> list[Part]:
        """Return the files of a table that were there before this call, oldest first;
        small ones are read into memory.

        A damaged file is an error, or is left out with a sentence that is added to
        ``warnings``.
        """
        known: dict[str, Part | UserError] = {}
        for _ in range(_READ_ATTEMPTS):
            before = self._last_compaction()
            names, _ = self._listed(table, settled=False)
            known = dict(self._read(table, names, known, strict=warnings is None))
            # A listing is not atomic: while a compaction deletes, it can miss both an
            # old file and the merged one. The merged file exists before `_COMPACTION`
            # changes; a listing during which that did not change is complete.
            if self._last_compaction() == before:
                break
        else:
            advice = "stop the process that does it, then retry."
            raise UserError(
                f"{self.folder.name} is compacted again and again: {advice}"
            )
        if warnings is not None:
            damaged = (part for part in known.values() if isinstance(part, UserError))
            warnings += [
                f"left out: {error}".replace(f"{self.folder.name}/", "")
                for error in damaged
            ]
        return [part for part in known.values() if not isinstance(part, UserError)]

    def _listed(self, table: Table, *, settled: bool) -> tuple[list[str], set[str]]:
        """Return the names of the files of a table that count, oldest first, and the
        paths of those that never will.

        ``settled``: without the names of undecided files (`Fences.judge`).
        """
        names = self.folder.names(table.directory)
        self._latest = max(
            [
                self._latest,
                *(int(found[0]) for name in names if (found := _STAMP.match(name))),
            ]
        )
        self._warn_of_strangers(
            f"{table.directory}/",
            {name for name in names if not name.endswith(".parquet")},
        )
        lost, undecided = self._fences.judge(
            f"{table.directory}/{name}" for name in names
        )
        out = lost | undecided if settled else lost
        return [
            name for name in names if f"{table.directory}/{name}" not in out
        ], lost - undecided

    def _read(
        self,
        table: Table,
        names: Iterable[str],
        known: Mapping[str, Any] | None = None,
        *,
        strict: bool = True,
    ) -> Iterator[tuple[str, Any]]:
        """Yield name and content of the files ``names`` of a table; ``known`` holds
        files that are read already.

        The error of a damaged file is raised if ``strict``, else yielded.
        """
        for name in names:
            if known and name in known:
                yield name, known[name]
            elif name.endswith(".parquet"):
                try:
                    yield (
                        name,
                        self._open(table, f"{table.directory}/{name}", strict=strict),
                    )
                except FileNotFoundError:  # replaced by a compaction since the listing
                    pass
                except UserError as error:
                    if strict:
                        raise
                    yield name, error

    def _warn_of_strangers(self, place: str, names: Iterable[str]) -> None:
        """Warn once about ``names`` without a suffix, as directories have, and Parquet
        files that no reader opens.
        """
        for name in sorted(names):
            if name.endswith(".parquet") or "." not in name:
                found = (
                    f"{self.folder.name}/{place}{name} is no part of this results"
                    " store, and is not read"
                )
                warn_once(f"{found}: move it out of the directory")

    def _open(self, table: Table, path: str, *, strict: bool) -> Part:
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
        """Return the content of the file that every compaction rewrites; None before
        the first.
        """
        try:
            return bytes(self.folder.read(_COMPACTION))
        except FileNotFoundError:
            return None


def check_writable(results: ResultsStore | str) -> None:
    """Raise UserError if there is a directory at a path or URI, or of a store, in which
    no file can be written.
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


def _whole(part: Part) -> Any:
    return pa.concat_tables(part.read([group]) for group in range(len(part.group_rows)))
