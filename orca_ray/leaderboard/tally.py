"""Counts the records of a benchmark in one pass over the store: trials, hours and last times by groups of equal values.

All that a leaderboard shows of trials that it does not score comes from this table, which is small however many trials
there are.
"""

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from orca_ray.results.scan import Scan, encoded

KEYS = (
    "sweep", "protocol", "task", "method", "body", "phase", "status", "device", "data_fingerprint", "metric",
    "metric_version",
)  # fmt: skip
"""Columns of records whose values a group shares; a metric's version is 1 in records from before it was stored."""
_MOST_SECONDS = 1e9
_SUMS = {"count": "sum", "microseconds": "sum", "attempts": "sum", "finished_at": "max"}


def tally(scan: Scan, benchmark: str) -> pd.DataFrame:
    """Return groups of the current records of a benchmark.

    Columns are `KEYS`, ``seed`` (of confirm trials; -1 for search trials), ``count`` (number of records),
    ``microseconds`` (sum of wall times, each times the share of a GPU where that is known), ``attempts`` (sum) and
    ``finished_at`` (last).
    """
    columns = [*KEYS, "seed", "wall_seconds", "gpus", "attempts", "finished_at"]
    groups = [_groups(table) for _, table in scan.batches(columns, {"benchmark": [benchmark]})]
    if not groups:
        return pd.DataFrame(columns=[*KEYS, "seed", *_SUMS])
    merged = pd.concat(groups).groupby([*KEYS, "seed"], sort=False).agg(_SUMS).reset_index()
    return merged.assign(finished_at=pd.to_datetime(merged["finished_at"], unit="us", utc=True))


def _groups(table: Any) -> pd.DataFrame:
    columns = {name: encoded(table[name]) for name in KEYS}
    phase, phases = columns["phase"]
    confirm = np.array([name == "confirm" for name in phases])[phase]
    gpus = np.nan_to_num(table["gpus"].to_numpy(), nan=1.0)
    seconds = np.nan_to_num(table["wall_seconds"].to_numpy()) * np.where(gpus > 0, gpus, 1.0)
    # Whole microseconds have the same sum in any order of the files.
    seconds = np.clip(seconds, 0, _MOST_SECONDS)
    values = pa.table({
        **{name: codes for name, (codes, _) in columns.items()},
        "seed": np.where(confirm, table["seed"].to_numpy(), -1),
        "microseconds": np.rint(seconds * 1e6).astype(np.int64),
        "attempts": table["attempts"],
        "finished_at": table["finished_at"].cast(pa.int64()),
    })  # fmt: skip
    sums = [("microseconds", "sum"), ("attempts", "sum"), ("finished_at", "max"), ("finished_at", "count")]
    # In a sorted file, most columns have one value in a row group.
    varied = [name for name, (codes, _) in columns.items() if codes.min() != codes.max()]
    found = values.group_by([*varied, "seed"], use_threads=False).aggregate(sums)
    groups = {
        name: np.array(names, dtype=object)[
            found[name].to_numpy() if name in varied else np.repeat(codes[0], len(found))
        ]
        for name, (codes, names) in columns.items()
    }
    groups["metric_version"] = np.array([1 if each is None else each for each in groups["metric_version"]])
    groups["seed"] = found["seed"].to_numpy()
    for name, column in (("count", "finished_at_count"), ("finished_at", "finished_at_max")):
        groups[name] = found[column].to_numpy()
    for name in ("microseconds", "attempts"):
        groups[name] = found[f"{name}_sum"].to_numpy()
    return pd.DataFrame(groups)
