"""Reads the current records of a store by column and predicate, one row group at a
time.

A leaderboard needs few columns of many rows, and many columns of few rows. A scan
therefore first finds out which row of each trial counts, from a hash of 128 bits of the
trial's key, and then reads the columns that are asked for. During the scan, a record
takes about 25 bytes of memory.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from orca_ray.errors import shorten
from orca_ray.results.record import Record
from orca_ray.results.tables import (
    RECORDS,
    SUCCESSES,
    MemoryPart,
    Part,
    ReplacedError,
    invalid_rows,
    none_of,
)

_KEY = ["sweep", "trial_key"]
_NARROW = [*_KEY, "status", "phase", "protocol", "test_score", "finished_at"]
_SUCCEEDED = 2**60
"""Added to the time of a trial that did not fail, in microseconds; times of the years 1
to 9999 are below 2**58.
"""
MAX_WARNINGS = 20
"""Number of trials with contradictory scores that warnings name; further ones are only
counted.
"""


class StoreSnapshot:
    """View of the current records of a store: one row per (sweep, trial key), as in
    `ResultsStore.records`.

    Rows with invalid values are left out. A position is the number of a row in the
    store.
    """

    def __init__(self, parts: Sequence[Part], warnings: Sequence[str] = ()) -> None:
        self.warnings = list(warnings)
        """Sentences about what is left out because it is damaged, invalid or
        contradictory.
        """
        self._parts = list(parts)
        self._starts = np.cumsum([0, *(sum(part.group_rows) for part in self._parts)])
        total = int(self._starts[-1])
        self._counts = np.zeros(total, dtype=bool)
        hashes = np.zeros((2, total), np.uint64)
        ranks = np.zeros(total, np.int64)
        for index, part in enumerate(self._parts):
            try:
                self._examine(index, part, hashes, ranks)
            except ReplacedError:
                raise
            except ValueError as error:
                self.warnings.append(f"left out: {error}")
                self._counts[self._starts[index] : self._starts[index + 1]] = False
        self._drop_superseded(hashes, ranks)

    @classmethod
    def of_frame(cls, records: pd.DataFrame) -> "StoreSnapshot":
        """Return a snapshot of the records in a data frame that `ResultsStore.records`
        returned.
        """
        return cls(
            [
                MemoryPart(
                    pa.Table.from_pandas(records, Record.SCHEMA, preserve_index=False)
                )
            ]
        )

    def batches(
        self, columns: Sequence[str], wanted: Mapping[str, Collection[str]]
    ) -> Iterator[tuple[NDArray[np.int64], Any]]:
        """Yield the current rows with ``wanted`` values in batches: row positions, and
        an Arrow table of ``columns``.

        ``wanted`` has the allowed values by column name. Text columns may be
        dictionary-encoded.
        """
        for start, part, group in self._groups(wanted):
            if not self._counts[start : start + part.group_rows[group]].any():
                continue
            table = part.read(
                [group], list(dict.fromkeys([*columns, *wanted])), expand=False
            )
            keep = self._counts[start : start + len(table)] & matches(table, wanted)
            if keep.any():
                yield (
                    start + np.flatnonzero(keep),
                    table.select(columns).filter(pa.array(keep)),
                )

    def take(self, positions: NDArray[np.int64], columns: Sequence[str]) -> Any:
        """Return an Arrow table of ``columns`` for the rows at ``positions``, which
        must be ascending.
        """
        found = []
        for start, part, group in self._groups({}):
            first, last = np.searchsorted(
                positions, [start, start + part.group_rows[group]]
            )
            if first < last:
                table = part.read([group], columns, expand=False).take(
                    pa.array(positions[first:last] - start)
                )
                found.append(
                    table.cast(
                        pa.schema([Record.SCHEMA.field(name) for name in columns])
                    )
                )
        empty = pa.schema([Record.SCHEMA.field(name) for name in columns]).empty_table()
        return pa.concat_tables([empty, *found])

    def values(self, column: str) -> list[str]:
        """Return the distinct values of a text column in the current records, sorted."""
        found: set[str] = set()
        for _, table in self.batches([column], {}):
            found.update(pc.unique(table[column].cast(pa.string())).to_pylist())
        return sorted(found)

    def _groups(
        self, wanted: Mapping[str, Collection[str]]
    ) -> Iterator[tuple[int, Part, int]]:
        """Yield position of the first row, part and index of each row group that may
        hold wanted rows.
        """
        for part, start in zip(self._parts, self._starts[:-1], strict=True):
            starts = start + np.cumsum([0, *part.group_rows])
            for group in part.groups_with(wanted):
                yield int(starts[group]), part, group

    def _examine(
        self,
        index: int,
        part: Part,
        hashes: NDArray[np.uint64],
        ranks: NDArray[np.int64],
    ) -> None:
        """Fill hashes and ranks of the rows of a part, and find its valid rows."""
        start = int(self._starts[index])
        wrong: dict[tuple[str, str], tuple[int, str]] = {}
        for group, num_rows in enumerate(part.group_rows):
            rows = slice(start, start + num_rows)
            table = part.read([group], _NARROW, expand=False)
            valid = np.ones(num_rows, dtype=bool)
            for name, _, value, allowed, mask in invalid_rows(table, RECORDS):
                bad = mask.to_numpy().astype(bool)
                number, example = wrong.get((name, allowed), (0, value))
                wrong[name, allowed] = (number + int((bad & valid).sum()), example)
                valid &= ~bad
            succeeded = ~none_of(table["status"], SUCCESSES).to_numpy()
            finished = table["finished_at"].cast(pa.int64()).to_numpy()
            ranks[rows] = finished + succeeded * np.int64(_SUCCEEDED)
            hashes[:, rows] = hashed(table["sweep"]) * _MULTIPLIER ^ hashed(
                table["trial_key"]
            )
            self._counts[rows] = valid
            start += num_rows
        for (name, allowed), (number, value) in wrong.items():
            self.warnings.append(
                invalid_rows_text(number, part.where, name, value, allowed)
            )

    def _drop_superseded(
        self, hashes: NDArray[np.uint64], ranks: NDArray[np.int64]
    ) -> None:
        """Clear the rows of trials that have a row that counts instead, and name trials
        with different scores.
        """
        first = np.sort(hashes[0])
        repeated = np.unique(first[1:][first[1:] == first[:-1]])
        if not len(repeated):
            return
        rows = np.flatnonzero(pd.Series(hashes[0]).isin(repeated))
        rows = rows[self._counts[rows]]
        frame = pd.DataFrame(
            {"first": hashes[0][rows], "second": hashes[1][rows], "rank": ranks[rows]},
            index=rows,
        )
        frame["succeeded"] = frame["rank"] >= _SUCCEEDED - 2**58
        frame["attempts"] = self.take(rows, ["attempts"])["attempts"].to_numpy()
        frame = frame.sort_values(["succeeded", "attempts", "rank"], kind="stable")
        key = ["first", "second"]
        self._counts[frame.index[frame.duplicated(key, keep="last")]] = False
        succeeded = frame[frame["succeeded"]]
        again = np.sort(
            succeeded.index[succeeded.duplicated(key, keep=False)].to_numpy()
        )
        spread = (
            self.take(again, [*_KEY, "test_score"])
            .to_pandas()
            .groupby(_KEY)["test_score"]
            .agg(["min", "max"])
        )
        contradictory = spread[spread["min"] < spread["max"]]
        for sweep, key, low, high in (
            contradictory.head(MAX_WARNINGS).reset_index().itertuples(index=False)
        ):
            contradiction = (
                f"trial {key} of {sweep} has records with different test scores, {low}"
                f" to {high}"
            )
            self.warnings.append(
                f"{contradiction}: the one that was attempted last counts"
            )
        if len(contradictory) > MAX_WARNINGS:
            more = len(contradictory) - MAX_WARNINGS
            self.warnings.append(
                f"{more} more trial(s) have records with different test scores"
            )


def invalid_rows_text(
    number: int, where: str, name: str, value: str, allowed: str
) -> str:
    """Return a warning that ``number`` records of the file ``where`` are left out
    because of an invalid value.
    """
    return (
        f"{number} record(s) of {where} left out: {name} {shorten(repr(value), 80)};"
        f" allowed are {allowed}"
    )


def matches(table: Any, wanted: Mapping[str, Collection[str]]) -> NDArray[np.bool_]:
    """Return a mask [N] of the rows of an Arrow table whose values in all columns of
    ``wanted`` are allowed by it.
    """
    keep = np.ones(len(table), dtype=bool)
    for name, values in wanted.items():
        keep &= ~none_of(table[name], values).to_numpy()
    return keep


_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_SEEDS = np.array([[0x243F6A8885A308D3], [0x13198A2E03707344]], dtype=np.uint64)


def hashed(column: Any) -> NDArray[np.uint64]:
    """Return a 128-bit hash of each of the N texts in a column, as an array [2, N] of
    64-bit halves.

    The array is [2, 1] if the column is dictionary-encoded and its dictionary has only
    one text.
    """
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    if pa.types.is_dictionary(array.type):
        found = _hashed(array.dictionary)
        return found if found.shape[1] == 1 else found[:, array.indices.to_numpy()]
    return _hashed(array)


def _hashed(array: Any) -> NDArray[np.uint64]:
    offsets = np.frombuffer(
        array.buffers()[1], np.int32, len(array) + 1, 4 * array.offset
    ).astype(np.int64)
    data = np.frombuffer(array.buffers()[2] or b"", np.uint8)
    lengths = np.diff(offsets)
    result = _SEEDS ^ lengths.astype(np.uint64)
    for length in np.unique(
        lengths[lengths > 0]
    ).tolist():  # keys of trials have one length
        rows = (
            slice(None)
            if (lengths == length).all()
            else np.flatnonzero(lengths == length)
        )
        starts = offsets[:-1][rows]
        dense = length >= 8 and starts[-1] - starts[0] == length * (len(starts) - 1)
        for place in range(
            0, length, 8
        ):  # words of 8 bytes, of which the last two may overlap
            place = max(0, min(place, length - 8))
            width = min(8, length)
            if dense:  # a view without a copy
                word = np.ndarray(
                    len(starts), np.uint64, data, int(starts[0]) + place, (length,)
                )
            else:
                words = np.zeros((len(starts), 8), np.uint8)
                words[:, :width] = data[
                    starts[:, None] + np.arange(place, place + width)
                ]
                word = words.view(np.uint64)[:, 0]
            mixed = result[:, rows]  # for all rows, this is a view
            mixed ^= word
            mixed *= _MULTIPLIER
            mixed ^= mixed >> np.uint64(32)
            result[:, rows] = mixed
    return result
