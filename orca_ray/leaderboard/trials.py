"""Search trials of a board: their numbers and scores, and counts of trials by status."""

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from orca_ray.leaderboard.board import Board
from orca_ray.results.scan import StoreSnapshot
from orca_ray.results.tables import RECORDS

KEYS = (
    "sweep", "protocol", "task", "method", "body", "phase", "status", "device", "data_fingerprint", "metric",
    "metric_version",
)  # fmt: skip
"""Columns whose values are equal within a group of `tally`; ``metric_version`` is 1 in records from before it was
stored."""
_TYPES = {name: RECORDS.schema.field(name).type for name in ("metric_version", "seed", "attempts", "finished_at")}
_TYPES |= {"count": pa.int64(), "microseconds": pa.int64()}
_SUMS = {"count": "sum", "microseconds": "sum", "attempts": "sum", "finished_at": "max"}


def tally(scan: StoreSnapshot, benchmark: str) -> pd.DataFrame:
    """Return the current records of a benchmark in groups: a frame with counts and sums, one row per group.

    Columns are `KEYS`, ``seed`` (of confirm trials; -1 for search trials), ``count`` (number of records),
    ``microseconds`` (sum of wall times, each times the trial's number or share of GPUs where this is known and not 0),
    ``attempts`` (sum) and ``finished_at`` (last).
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
        "microseconds": np.rint(np.clip(seconds, 0, 1e9) * 1e6).astype(np.int64),
        "attempts": table["attempts"],
        "finished_at": table["finished_at"],
    }
    # Text that is dictionary-encoded is grouped five times faster than when it is expanded.
    found = _grouped(pa.table(columns).unify_dictionaries())
    return found.cast(pa.schema([(name, _TYPES.get(name, pa.string())) for name in columns]))


def _grouped(table: Any) -> Any:
    found = table.group_by([*KEYS, "seed"], use_threads=False).aggregate(list(_SUMS.items()))
    return found.rename_columns([*KEYS, "seed", *_SUMS])


MAX_SEARCH_TRIALS = 20_000
"""Largest number of search trials of a board that `read_searches` returns."""
_COLUMNS = ["task", "method", "body", "trial_key", "started_at", "validation_score", "hyperparameters"]


def read_searches(scan: StoreSnapshot, board: Board) -> pd.DataFrame | None:
    """Return the search trials of a board's sweep, tasks and methods, in the order of their starts.

    Columns are ``task``, ``method`` (as on the board), ``number`` (place in the search), ``score`` (on validation) and
    ``hyperparameters`` (a JSON object). Returns None if there are more trials than `MAX_SEARCH_TRIALS`.
    """
    wanted = {"benchmark": [board.benchmark], "sweep": [board.sweep], "protocol": [board.protocol], "phase": ["search"]}
    found, num = [np.empty(0, np.int64)], 0
    for positions, _ in scan.batches(["task"], {**wanted, "task": board.tasks}):
        num += len(positions)
        if num > MAX_SEARCH_TRIALS:
            return None
        found.append(positions)
    trials: pd.DataFrame = scan.take(np.concatenate(found), _COLUMNS).to_pandas()
    rows = trials.assign(method=board.labels(trials), score=trials["validation_score"].astype("float64"))
    rows = rows[rows["method"].isin(board.methods)].sort_values(["started_at", "trial_key"], kind="stable")
    rows = rows.assign(number=rows.groupby(["task", "method"]).cumcount())
    return rows[["task", "method", "number", "score", "hyperparameters"]]
