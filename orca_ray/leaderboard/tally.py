"""Counts the records of a benchmark in one pass over the store: trials, hours and last times by groups of equal values.

All that a leaderboard shows of trials that it does not score comes from this table, which is small however many trials
there are.
"""

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from orca_ray.results.scan import StoreSnapshot
from orca_ray.results.tables import RECORDS

KEYS = (
    "sweep", "protocol", "task", "method", "body", "phase", "status", "device", "data_fingerprint", "metric",
    "metric_version",
)  # fmt: skip
"""Columns of records whose values a group shares; a metric's version is 1 in records from before it was stored."""
_MOST_SECONDS = 1e9
_TYPES = {name: RECORDS.schema.field(name).type for name in ("metric_version", "seed", "attempts", "finished_at")}
_TYPES |= {"count": pa.int64(), "microseconds": pa.int64()}
_SUMS = {"count": "sum", "microseconds": "sum", "attempts": "sum", "finished_at": "max"}


def tally(scan: StoreSnapshot, benchmark: str) -> pd.DataFrame:
    """Return groups of the current records of a benchmark.

    Columns are `KEYS`, ``seed`` (of confirm trials; -1 for search trials), ``count`` (number of records),
    ``microseconds`` (sum of wall times, each times the share of a GPU where that is known), ``attempts`` (sum) and
    ``finished_at`` (last).
    """
    columns = [*KEYS, "seed", "wall_seconds", "gpus", "attempts", "finished_at"]
    groups = [_groups(table) for _, table in scan.batches(columns, {"benchmark": [benchmark]})]
    if not groups:
        return pd.DataFrame(columns=[*KEYS, "seed", *_SUMS])
    return _grouped(pa.concat_tables(groups)).to_pandas()  # type: ignore[no-any-return]


def _groups(table: Any) -> Any:
    gpus = np.nan_to_num(table["gpus"].to_numpy(), nan=1.0)
    seconds = np.nan_to_num(table["wall_seconds"].to_numpy()) * np.where(gpus > 0, gpus, 1.0)
    confirm = pc.equal(table["phase"].cast(pa.string()), "confirm")
    columns = {
        **{name: table[name] for name in KEYS},
        "metric_version": table["metric_version"].fill_null(1),
        "seed": pc.if_else(confirm, table["seed"], -1),
        "count": np.ones(len(table), np.int64),
        # Whole microseconds have the same sum in any order of the files.
        "microseconds": np.rint(np.clip(seconds, 0, _MOST_SECONDS) * 1e6).astype(np.int64),
        "attempts": table["attempts"],
        "finished_at": table["finished_at"],
    }
    # Text that is dictionary-encoded is grouped five times faster than when it is expanded.
    found = _grouped(pa.table(columns).unify_dictionaries())
    return found.cast(pa.schema([(name, _TYPES.get(name, pa.string())) for name in columns]))


def _grouped(table: Any) -> Any:
    found = table.group_by([*KEYS, "seed"], use_threads=False).aggregate(list(_SUMS.items()))
    return found.rename_columns([*KEYS, "seed", *_SUMS])
