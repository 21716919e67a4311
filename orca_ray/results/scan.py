"""Reader of the current records of a store: by column, one row group at a time.

A leaderboard needs few columns of many rows, and many columns of few rows. A scan
therefore first finds out which row of each trial counts, from a hash of 128 bits of the
trial's key, and then reads the columns that are asked for. During the scan, a record
takes about 25 bytes of memory.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from orca_ray.errors import shorten
from orca_ray.results.parquet import MemoryPart, Part, ReplacedError
from orca_ray.results.record import Record
from orca_ray.results.tables import (
    RECORDS,
    SUCCESSES,
    InvalidRows,
    invalid_rows,
    none_of,
)

_KEY = ["sweep", "trial_key"]
"""Columns that identify a trial."""
_NARROW = [*_KEY, "status", "phase", "protocol", "test_score", "finished_at"]
"""Columns that are read of every record."""
_SUCCEEDED = 2**60
"""Number that is added to the rank of a trial that did not fail.

A rank is the time at which a trial finished, in microseconds. Times of the years 1 to
9999 are below 2**58.
"""
MAX_WARNINGS = 20
"""Number of trials with contradictory scores that warnings name.

Further trials are only counted.
"""


class _RowGroup(NamedTuple):
    """A row group of a part of a store."""

    part: Part
    number: int
    """Number of the group in the part, from 0."""
    start: int
    """Position of the first row."""

    @property
    def end(self) -> int:
        """Position after the last row."""
        return self.start + self.part.group_rows[self.number]

    def read(self, columns: Sequence[str]) -> Any:
        """Return an Arrow table; text columns may be dictionary-encoded."""
        return self.part.read([self.number], columns, expand=False)


class StoreSnapshot:
    """View of the current records of a store: one row per (sweep, trial key).

    The rows are those of `ResultsStore.records`. Rows with invalid values are left out.
    A position is the number of a row in the store.
    """

    def __init__(self, parts: Sequence[Part], warnings: Sequence[str] = ()) -> None:
        self.warnings = list(warnings)
        """Sentences about records that are left out, or that contradict each other."""
        self._parts = list(parts)
        # Position of the first row of each part, and then the number of rows.
        self._starts = np.cumsum([0, *(sum(part.group_rows) for part in self._parts)])
        total = int(self._starts[-1])
        # Whether each row is the current one of its trial.
        self._is_current = np.zeros(total, dtype=bool)
        hashes = np.zeros((2, total), np.uint64)
        ranks = np.zeros(total, np.int64)
        for index, part in enumerate(self._parts):
            try:
                self._examine(index, part, hashes, ranks)
            except ReplacedError:
                raise
            except ValueError as error:
                self.warnings.append(f"left out: {error}")
                self._is_current[self._starts[index] : self._starts[index + 1]] = False
        self._drop_superseded(hashes, ranks)

    @classmethod
    def of_frame(cls, records: pd.DataFrame) -> "StoreSnapshot":
        """Return a snapshot of the records in a frame of `ResultsStore.records`."""
        table = pa.Table.from_pandas(records, Record.SCHEMA, preserve_index=False)
        return cls([MemoryPart(table)])

    def batches(
        self, columns: Sequence[str], wanted: Mapping[str, Collection[str]]
    ) -> Iterator[tuple[NDArray[np.int64], Any]]:
        """Yield the current rows with ``wanted`` values in batches.

        A batch has the row positions, and an Arrow table of ``columns``. ``wanted`` has
        the allowed values by column name. Text columns may be dictionary-encoded.
        """
        for group in self._groups(wanted):
            is_current = self._is_current[group.start : group.end]
            if not is_current.any():
                continue
            columns_to_read = list(dict.fromkeys([*columns, *wanted]))
            table = group.read(columns_to_read)
            keep = is_current & matches(table, wanted)
            if keep.any():
                positions = group.start + np.flatnonzero(keep)
                yield positions, table.select(columns).filter(pa.array(keep))

    def take(self, positions: NDArray[np.int64], columns: Sequence[str]) -> Any:
        """Return an Arrow table of ``columns`` for rows at ascending ``positions``."""
        schema = pa.schema([Record.SCHEMA.field(name) for name in columns])
        tables = [schema.empty_table()]
        for group in self._groups({}):
            first, last = np.searchsorted(positions, [group.start, group.end])
            if first < last:
                rows = pa.array(positions[first:last] - group.start)
                table = group.read(columns)
                tables.append(table.take(rows).cast(schema))
        return pa.concat_tables(tables)

    def values(self, column: str) -> list[str]:
        """Return the sorted distinct values of a text column in the current records."""
        values: set[str] = set()
        for _, table in self.batches([column], {}):
            values.update(pc.unique(table[column].cast(pa.string())).to_pylist())
        return sorted(values)

    def _groups(self, wanted: Mapping[str, Collection[str]]) -> Iterator[_RowGroup]:
        """Yield the row groups, without those that cannot hold ``wanted`` values."""
        for part, start in zip(self._parts, self._starts[:-1], strict=True):
            starts = start + np.cumsum([0, *part.group_rows])
            for group in part.groups_with(wanted):
                yield _RowGroup(part, group, int(starts[group]))

    def _examine(
        self,
        index: int,
        part: Part,
        hashes: NDArray[np.uint64],
        ranks: NDArray[np.int64],
    ) -> None:
        """Fill ``hashes`` and ``ranks`` of a part's rows; find its valid rows."""
        start = int(self._starts[index])
        examples: dict[str, InvalidRows] = {}
        num_invalid = Counter[str]()
        for group, num_rows in enumerate(part.group_rows):
            rows = slice(start, start + num_rows)
            table = part.read([group], _NARROW, expand=False)
            valid = np.ones(num_rows, dtype=bool)
            for invalid in invalid_rows(table, RECORDS):
                is_wrong = invalid.is_wrong.to_numpy().astype(bool)
                examples.setdefault(invalid.column, invalid)
                num_invalid[invalid.column] += int((is_wrong & valid).sum())
                valid &= ~is_wrong
            succeeded = ~none_of(table["status"], SUCCESSES).to_numpy()
            finished = table["finished_at"].cast(pa.int64()).to_numpy()
            ranks[rows] = finished + succeeded * np.int64(_SUCCEEDED)
            sweep_hashes = hash_texts(table["sweep"])
            hashes[:, rows] = sweep_hashes * _MULTIPLIER ^ hash_texts(
                table["trial_key"]
            )
            self._is_current[rows] = valid
            start += num_rows
        for column, invalid in examples.items():
            self.warnings.append(
                invalid_rows_text(num_invalid[column], part.where, invalid)
            )

    def _drop_superseded(
        self, hashes: NDArray[np.uint64], ranks: NDArray[np.int64]
    ) -> None:
        """Mark rows as not current if another row of the same trial takes precedence.

        A warning is added for trials that have different scores.
        """
        # Only rows with a repeated first half of the hash can be of the same trial.
        # They are few, and only they are compared in full.
        first_halves = np.sort(hashes[0])
        repeated = np.unique(first_halves[1:][first_halves[1:] == first_halves[:-1]])
        if not len(repeated):
            return
        rows = np.flatnonzero(pd.Series(hashes[0]).isin(repeated))
        rows = rows[self._is_current[rows]]
        frame = pd.DataFrame(
            {"first": hashes[0][rows], "second": hashes[1][rows], "rank": ranks[rows]},
            index=rows,
        )
        # Times before 1970 are negative, but above -2**58.
        frame["succeeded"] = frame["rank"] >= _SUCCEEDED - 2**58
        frame["attempts"] = self.take(rows, ["attempts"])["attempts"].to_numpy()
        frame = frame.sort_values(["succeeded", "attempts", "rank"], kind="stable")
        key = ["first", "second"]
        self._is_current[frame.index[frame.duplicated(key, keep="last")]] = False
        succeeded = frame[frame["succeeded"]]
        is_repeated = succeeded.duplicated(key, keep=False)
        self._warn_of_contradictions(np.sort(succeeded.index[is_repeated].to_numpy()))

    def _warn_of_contradictions(self, positions: NDArray[np.int64]) -> None:
        """Warn of trials that have different scores in the rows at ``positions``."""
        scores = self.take(positions, [*_KEY, "test_score"]).to_pandas()
        spread = scores.groupby(_KEY)["test_score"].agg(["min", "max"])
        contradictory = spread[spread["min"] < spread["max"]]
        named = contradictory.head(MAX_WARNINGS).reset_index()
        for sweep, trial_key, low, high in named.itertuples(index=False):
            self.warnings.append(
                f"trial {trial_key} of {sweep} has records with different test scores,"
                f" {low} to {high}: the one that was attempted last counts"
            )
        num_unnamed = len(contradictory) - len(named)
        if num_unnamed:
            self.warnings.append(
                f"{num_unnamed} more trial(s) have records with different test scores"
            )


def invalid_rows_text(number: int, where: str, invalid: InvalidRows) -> str:
    """Return a warning that ``number`` records of the file ``where`` are left out."""
    return (
        f"{number} record(s) of {where} left out: {invalid.column}"
        f" {shorten(repr(invalid.value), 80)}; allowed are {invalid.allowed}"
    )


def matches(table: Any, wanted: Mapping[str, Collection[str]]) -> NDArray[np.bool_]:
    """Return a mask [N] of the rows whose values in all columns are ``wanted``.

    ``wanted`` has the allowed values by column name.
    """
    keep = np.ones(len(table), dtype=bool)
    for name, values in wanted.items():
        keep &= ~none_of(table[name], values).to_numpy()
    return keep


_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
"""2**64 divided by the golden ratio, an odd number: Fibonacci hashing (Knuth)."""
_SEEDS = np.array([[0x243F6A8885A308D3], [0x13198A2E03707344]], dtype=np.uint64)
"""Initial values of the two halves of a hash: the first digits of pi."""


def hash_texts(column: Any) -> NDArray[np.uint64]:
    """Return a 128-bit hash of each of the N texts in a column.

    The hashes are an array [2, N] of 64-bit halves. The array is [2, 1] if the column
    is dictionary-encoded and its dictionary has only one text.
    """
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    if not pa.types.is_dictionary(array.type):
        return _hash_array(array)
    hashes = _hash_array(array.dictionary)
    if hashes.shape[1] == 1:
        return hashes
    return hashes[:, array.indices.to_numpy()]


def _hash_array(array: Any) -> NDArray[np.uint64]:
    """Return the hashes [2, N] of the texts in an Arrow array."""
    # Buffer 1 of an Arrow array of texts has the int32 offsets, buffer 2 the bytes.
    offsets = np.frombuffer(
        array.buffers()[1], np.int32, len(array) + 1, 4 * array.offset
    ).astype(np.int64)
    data = np.frombuffer(array.buffers()[2] or b"", np.uint8)
    lengths = np.diff(offsets)
    hashes = _SEEDS ^ lengths.astype(np.uint64)
    # Texts of one length are hashed together. Keys of trials have one length.
    for length in np.unique(lengths[lengths > 0]).tolist():
        has_length = lengths == length
        rows = slice(None) if has_length.all() else np.flatnonzero(has_length)
        starts = offsets[:-1][rows]
        for word in _words(data, starts, length):
            mixed = hashes[:, rows]  # for all rows, this is a view
            mixed ^= word
            mixed *= _MULTIPLIER
            mixed ^= mixed >> np.uint64(32)
            hashes[:, rows] = mixed
    return hashes


def _words(
    data: NDArray[np.uint8], starts: NDArray[np.int64], length: int
) -> Iterator[NDArray[np.uint64]]:
    """Yield the words of 8 bytes of texts of one length, as arrays [N].

    ``starts`` [N] are the positions of the texts in ``data``. The last two words may
    overlap. A text of less than 8 bytes is one word, which is filled up with zeros.
    """
    width = min(8, length)
    is_dense = length >= 8 and starts[-1] - starts[0] == length * (len(starts) - 1)
    for offset in range(0, length, 8):
        place = max(0, min(offset, length - 8))
        if is_dense:  # a view without a copy
            first = int(starts[0]) + place
            yield np.ndarray(len(starts), np.uint64, data, first, (length,))
        else:
            padded = np.zeros((len(starts), 8), np.uint8)
            columns = np.arange(place, place + width)
            padded[:, :width] = data[starts[:, None] + columns]
            yield padded.view(np.uint64)[:, 0]
