"""The results store: append-only Parquet files, the only truth about what has run."""

import json
import logging
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

import orca_ray
from orca_ray.errors import UserError
from orca_ray.results.folder import LocalFolder, open_folder
from orca_ray.results.record import CurvePoint, Record
from orca_ray.results.tables import (
    CURVES,
    RECORDS,
    Table,
    current_curves,
    current_records,
    decode,
    distinct,
    encode,
    from_rows,
    to_frame,
)

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

MARKER = "orca-ray-results.json"
SCHEMA_VERSION = 2
"""Raised when a table changes. Older versions are read for ever; the first write makes a store one of this version, so
that an older orca-ray refuses it as a whole rather than stumbles over single files."""

_COMPACTION = "compaction.json"
_FORMAT = "orca-ray results"
_STALE_SECONDS = 3600.0
_READ_ATTEMPTS = 100


class ResultsStore:
    """Records and learning curves of every trial, in a directory or under a URI.

    The layout is ``orca-ray-results.json`` (says that this is a store, and its version), ``records/*.parquet`` and
    ``curves/*.parquet``. Each `append` adds one file a table and changes none, so any number of processes and machines
    may append, read and compact at the same time without locks: a reader sees each file whole or not at all, and rows
    that are there twice (a repeated append, a compaction that was killed) count once. A store of an older version is
    read as it is, and raised to this one by the first append or compaction.

    Args:
        uri: a local path, or any URI of `pyarrow.fs` (``s3://bucket/prefix``, ``file:///…``).
        create: make the store when nothing, or an empty directory, is there.

    Raises:
        UserError: here and in every method, when the place is not a results store, cannot be reached, has no space
            left, or holds a damaged file (which the message names).
    """

    def __init__(self, uri: str | Path, *, create: bool = False) -> None:
        self._folder = open_folder(uri)
        kind = self._folder.kind()
        if kind == "file":
            raise UserError(f"{self._folder.name} is a file, not a results store: give a directory with --results.")
        if self._read_json(MARKER) is None:
            self._begin(create)
        self._version = 0
        self._check_marker()

    @property
    def uri(self) -> str:
        """What opens this store again, from any process: an absolute path, or the URI."""
        return self._folder.uri

    @property
    def local_path(self) -> Path | None:
        """The directory of a local store, else None."""
        return self._folder.path if isinstance(self._folder, LocalFolder) else None

    def __repr__(self) -> str:
        return f"ResultsStore({self._folder.name!r})"

    def append(self, records: Sequence[Record], curves: Sequence[CurvePoint] = ()) -> None:
        """Add records and points of learning curves: one new file a table, curves first.

        When this returns, both are on disk and survive a power cut. When it raises, no record was added; points without
        their record are harmless, and appending the same again is, too.
        """
        stamp = f"{time.time_ns():020d}-{uuid.uuid4().hex}"
        for table, items in ((CURVES, curves), (RECORDS, records)):
            if items:
                self._claim()
                content = encode(from_rows((item.to_row() for item in items), table))
                self._folder.write(f"{table.directory}/{stamp}.parquet", content)

    def records(self, benchmark: str | None = None, sweep: str | None = None) -> "pd.DataFrame":
        """Return the records, one row a (sweep, trial key), in the order in which the trials finished.

        Of several rows for one trial, one that completed or was stopped early wins over failed ones, then the one that
        finished last. Columns are the fields of `Record`; ``status`` is a string, a missing number NaN or ``<NA>``.
        """
        table = _matching(self._table(RECORDS), benchmark=benchmark, sweep=sweep)
        return to_frame(current_records(table))

    def load(self, sweep: str) -> dict[str, Record]:
        """Return the records of a sweep by trial key, chosen as in `records`."""
        table = current_records(_matching(self._table(RECORDS), sweep=sweep))
        return {row["trial_key"]: Record.from_row(row) for row in table.to_pylist()}

    def curves(self, sweep: str | None = None, trial_key: str | None = None) -> "pd.DataFrame":
        """Return the learning curves, one row an epoch of a stage of a trial (the one appended last), in that order."""
        table = _matching(self._table(CURVES), sweep=sweep, trial_key=trial_key)
        return to_frame(current_curves(table))

    def compact(self) -> int:
        """Merge the files of each table into one and return how many files were removed.

        Every distinct row is kept, superseded attempts included. Safe against a crash at any point and beside readers,
        writers and other compactions: the merged file is there before the files it replaces are deleted, and only files
        that were read are deleted.
        """
        removed = 0
        for table in (CURVES, RECORDS):
            self._folder.sweep_temporary(table.directory, _STALE_SECONDS)
            removed += self._compact_table(table)
        return removed

    def _compact_table(self, table: Table) -> int:
        parts = dict(self._files(table))
        if len(parts) < 2:
            return 0
        self._claim()
        merged = encode(distinct(pa.concat_tables(parts.values())))
        # The newest stamp of the parts keeps the order of rows right against files appended meanwhile.
        name = f"{max(parts).partition('-')[0]}-{uuid.uuid4().hex}.parquet"
        self._folder.write(f"{table.directory}/{name}", merged)
        # Told before the first deletion, so that a reader who may have missed both old and new files looks again.
        self._write_json(_COMPACTION, {"id": uuid.uuid4().hex})
        for part in parts:
            self._folder.delete(f"{table.directory}/{part}")
        logger.info("compacted %d files of %s/%s", len(parts), self._folder.name, table.directory)
        return len(parts)

    def _table(self, table: Table) -> Any:
        """Return every row that was appended before this call, in the order of appending."""
        known: dict[str, Any] = {}
        for _ in range(_READ_ATTEMPTS):
            before = self._read_json(_COMPACTION)
            known = dict(self._files(table, known))
            # A listing is not atomic: while a compaction deletes, it can miss both an old file and the merged one. The
            # merged one was there before the compaction was told, so a listing between two equal tellings missed none.
            if self._read_json(_COMPACTION) == before:
                return pa.concat_tables([table.schema.empty_table(), *known.values()])
        raise UserError(f"{self._folder.name} is compacted again and again: stop what does it, then try again.")

    def _files(self, table: Table, known: dict[str, Any] | None = None) -> Iterator[tuple[str, Any]]:
        """Yield name and content of the files of a table, oldest first; ``known`` ones are not read again."""
        for name in self._folder.names(table.directory):
            if not name.endswith(".parquet"):
                continue
            if known and name in known:
                yield name, known[name]
                continue
            path = f"{table.directory}/{name}"
            try:
                content = self._folder.read(path)
            except FileNotFoundError:  # replaced by a compaction since the listing
                continue
            yield name, decode(content, table, f"{self._folder.name}/{path}")

    def _begin(self, create: bool) -> None:
        names = self._folder.names() if self._folder.kind() == "directory" else []
        if MARKER in names:  # another process made the store since we looked
            return
        if names:
            raise UserError(
                f"{self._folder.name} is not a results store: it has files but no {MARKER}. "
                "Give another directory with --results, or an empty one."
            )
        if not create:
            raise UserError(
                f"no results at {self._folder.name}: run `orca-sweep benchmark NAME` first, or name another place "
                "with --results."
            )
        self._folder.create()
        self._write_json(
            MARKER, {"format": _FORMAT, "schema_version": SCHEMA_VERSION, "created_by": orca_ray.__version__}
        )

    def _claim(self) -> None:
        """Raise the marker of an older store to this version, before the first file of this version is there."""
        if self._version == SCHEMA_VERSION:
            return
        marker = self._check_marker()  # again: another process may have raised it, even beyond what we can write
        if self._version < SCHEMA_VERSION:
            self._write_json(MARKER, {**marker, "schema_version": SCHEMA_VERSION, "raised_by": orca_ray.__version__})
            self._version = SCHEMA_VERSION
            logger.info("raised %s to schema version %d", self._folder.name, SCHEMA_VERSION)

    def _check_marker(self) -> dict[str, Any]:
        """Return the marker and note its version. Raises `UserError` for a damaged one, or one of a newer version."""
        marker = self._read_json(MARKER) or {}
        version = marker.get("schema_version")
        if marker.get("format") != _FORMAT or not isinstance(version, int):
            raise UserError(
                f"{self._folder.name}/{MARKER} is damaged, so this may not be a results store. Restore the file with "
                f'{{"format": "{_FORMAT}", "schema_version": {SCHEMA_VERSION}}} if you know that it is one.'
            )
        if version > SCHEMA_VERSION:
            raise UserError(
                f"{self._folder.name} was written by a newer orca-ray (schema {version}, this one reads up to "
                f"{SCHEMA_VERSION}; created by {marker.get('created_by', 'unknown')}): upgrade orca-ray."
            )
        self._version = version
        return marker

    def _read_json(self, path: str) -> dict[str, Any] | None:
        """Return a small JSON file: None when it is not there, empty when it is damaged."""
        try:
            content = self._folder.read(path).to_pybytes()
        except FileNotFoundError:
            return None
        try:
            value = json.loads(content)
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}

    def _write_json(self, path: str, value: dict[str, Any]) -> None:
        self._folder.write(path, pa.py_buffer(json.dumps(value, indent=1).encode() + b"\n"))


def _matching(table: Any, **wanted: str | None) -> Any:
    for column, value in wanted.items():
        if value is not None:
            table = table.filter(pc.equal(table[column], value))
    return table
