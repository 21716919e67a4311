"""Collects the rows of a running sweep, and writes them to the results store in batches."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from orca_ray.errors import UserError
from orca_ray.results.artefacts import ArtefactRow
from orca_ray.results.record import CurvePoint, Record
from orca_ray.results.store import ResultsStore

logger = logging.getLogger(__name__)

MAX_RECORDS = 50
"""Number of waiting records from which on all rows are written at once."""
MAX_SECONDS = 2.0
"""Seconds after a write at which `Writer.flush_due` writes again."""
MAX_NEW_FILES = 40
"""Number of files that the store may gain before its newest ones are merged."""


class Writer:
    """Buffer of rows, written to a store at most every few seconds: thousands of short trials share a few files.

    Rows that are added later than `MAX_SECONDS` after the last write are written at once, so a sweep of long trials
    stores each record when its trial ends. An exception while rows are written keeps them for the next flush. Small
    files of the store are merged now and then. Not thread-safe.

    ``before`` is called before and after each write; if it raises, the rows still wait, and no ``then`` is called.
    ``clock`` returns seconds.
    """

    def __init__(
        self,
        store: ResultsStore,
        *,
        before: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._before, self._clock = store, before or (lambda: None), clock
        self._rows: dict[str, list[Any]] = {}
        self._then: list[Callable[[], None]] = []
        self._flushed_at = clock() - MAX_SECONDS

    def add(self, *, then: Callable[[], None] | None = None, **rows: Sequence[Any]) -> None:
        """Add rows, by the names of the arguments of `ResultsStore.append`, e.g. ``records=[record]``.

        ``then`` is called when the rows are durable, e.g. to delete a checkpoint. Raises UserError as `flush` does.
        """
        for name, values in rows.items():
            self._rows.setdefault(name, []).extend(values)
        if then is not None:
            self._then.append(then)
        if len(self._rows.get("records", ())) >= MAX_RECORDS:
            self.flush()
        self.flush_due()

    def flush_due(self) -> None:
        """Write the waiting rows if the last write was `MAX_SECONDS` ago or longer."""
        if self._rows and self._clock() - self._flushed_at >= MAX_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write all waiting rows now. Raises UserError if the store fails; the rows then wait for the next flush."""
        rows, then = self._rows, self._then
        self._before()
        if any(rows.values()):
            self._store.append(**rows)
            self._before()  # a driver that lost the lease meanwhile must not delete checkpoints
        self._rows, self._then = {}, []
        self._flushed_at = self._clock()
        for call in then:
            call()
        if self._store.num_written >= MAX_NEW_FILES:
            try:
                self._store.compact_recent()
            except UserError as error:  # e.g. a damaged file of another sweep: the rows are stored all the same
                logger.warning("the store cannot be compacted now: %s", error)


def copy_trials(store: ResultsStore, records: Sequence[Record], sweep: str) -> None:
    """Add records of other sweeps to ``sweep``, with their learning curves and artefacts, as last attempts."""
    if not records:
        return
    own = store.curves(sweep, [record.trial_key for record in records]).groupby("trial_key")["attempt"].max()
    earlier = {key: int(number) for key, number in own.fillna(0).items()}
    curves: list[CurvePoint] = []
    artefacts: list[ArtefactRow] = []
    for origin in dict.fromkeys(record.sweep for record in records):
        keys = [record.trial_key for record in records if record.sweep == origin]
        for row in _rows(store.curves(origin, keys)):
            if (before := earlier.get(row["trial_key"])) is not None:
                row["attempt"] = before + (row["attempt"] or 1)
            curves.append(CurvePoint(**row | {"sweep": sweep}))
        artefacts += [ArtefactRow(**row | {"sweep": sweep}) for row in _rows(store.artefacts(origin, keys))]
    copies = [
        replace(record, sweep=sweep, attempts=record.attempts + earlier.get(record.trial_key, 0)) for record in records
    ]
    store.append(copies, curves, artefacts)


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return frame.astype(object).where(frame.notna(), None).to_dict("records")  # type: ignore[return-value]
