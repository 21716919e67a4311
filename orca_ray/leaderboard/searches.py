"""The search trials of a board's sweep, from which it says whether searching helped."""

import pandas as pd
import pyarrow as pa

from orca_ray.leaderboard.board import Board
from orca_ray.results.record import Record
from orca_ray.results.scan import StoreSnapshot

MAX_SEARCH_TRIALS = 20_000
"""Number of search trials up to which they are read."""
_COLUMNS = ["task", "method", "body", "trial_key", "started_at", "validation_score"]


def read_searches(scan: StoreSnapshot, board: Board) -> pd.DataFrame | None:
    """Return ``task``, ``method``, ``number`` and ``score`` of each search trial of a board's sweep, tasks and methods.

    See `numbered`. Returns None if there are more trials than `MAX_SEARCH_TRIALS`.
    """
    wanted = {"benchmark": [board.benchmark], "sweep": [board.sweep], "protocol": [board.protocol], "phase": ["search"]}
    schema, found, num = pa.schema([Record.SCHEMA.field(name) for name in _COLUMNS]), [], 0
    for _, table in scan.batches(_COLUMNS, {**wanted, "task": board.tasks}):
        num += len(table)
        if num > MAX_SEARCH_TRIALS:
            return None
        found.append(table.cast(schema))
    rows = numbered(pa.concat_tables([schema.empty_table(), *found]).to_pandas(), board)
    return rows[["task", "method", "number", "score"]]


def numbered(trials: pd.DataFrame, board: Board) -> pd.DataFrame:
    """Return the search trials of a board's tasks and methods in the order of their starts, with two more columns.

    ``score`` is the validation score, and ``number`` the place in the search. ``method`` is that of the board.
    """
    rows = trials.assign(method=board.labels(trials), score=trials["validation_score"].astype("float64"))
    rows = rows[rows["task"].isin(board.tasks) & rows["method"].isin(board.methods)]
    rows = rows.sort_values(["started_at", "trial_key"], kind="stable")
    return rows.assign(number=rows.groupby(["task", "method"]).cumcount())
