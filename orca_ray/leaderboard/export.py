"""Scores of a board as a plain table, which the formats for programs hold and can be read back from."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from orca_ray.errors import UserError, printable, quoted
from orca_ray.leaderboard.board import Board
from orca_ray.paths import open_regular

KIND = "orca-ray board"
VERSION = 1
"""Version of the columns of exported scores, and of the JSON document."""
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("benchmark", "sweep", "protocol", "task", "metric")),
        ("metric_version", pa.int64()),
        ("data_fingerprint", pa.string()),
        ("method", pa.string()),
        ("seed", pa.int64()),
        ("score", pa.float64()),
        ("trial_key", pa.string()),
    ]
)
"""Columns of exported scores. A (task, method) without a score has one row, without ``seed`` and ``score``."""
SUFFIXES = (".json", ".parquet")
_MAX_BYTES = 1 << 30


def score_rows(board: Board) -> list[dict[str, Any]]:
    """Return the scores of a board as rows with the columns of `SCHEMA`, sorted by task, method and seed."""
    common = {"benchmark": board.benchmark, "sweep": board.sweep, "protocol": board.protocol}
    scores: dict[tuple[str, str], list[tuple[int | None, float | None]]] = {}
    for task, method, seed, score in board.scores.itertuples(index=False):
        scores.setdefault((str(task), str(method)), []).append((int(seed), float(score)))
    rows = []
    for task, info in board.infos.items():
        of_task = {name: getattr(info, name) for name in ("metric", "metric_version", "data_fingerprint")}
        for method in sorted(board.methods):
            cell = board.cells.get((task, method))
            for seed, score in scores.get((task, method), [(None, None)]):
                key = None if cell is None or seed is None else cell.trial_keys.get(seed)
                row = {"task": task, "method": method, "seed": seed, "score": score, "trial_key": key}
                rows.append({**common, **of_task, **row})
    return rows


def score_frame(board: Board) -> pd.DataFrame:
    """Return `score_rows` as a table, as `read_scores` returns it."""
    return _frame(pa.Table.from_pylist(score_rows(board), schema=SCHEMA))


def _frame(table: Any) -> pd.DataFrame:
    return table.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)  # type: ignore[no-any-return]


def read_scores(path: Path) -> pd.DataFrame:
    """Return the scores in a board that was exported as JSON or Parquet, with the columns of `SCHEMA`.

    Raises UserError if the file is not such a board.
    """
    with open_regular(path) as stream:
        content = stream.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise UserError(f"{path} has more than {_MAX_BYTES >> 30} GiB: that is no board")
    try:
        table = _from_json(content) if path.suffix == ".json" else pq.read_table(pa.BufferReader(content))
        if "kind" in table.column_names:  # a Parquet file also holds published scores
            table = table.filter(pc.equal(table["kind"], "own"))
        table = table.select(SCHEMA.names).cast(SCHEMA)
        if table["task"].null_count or table["method"].null_count:
            raise ValueError("a row names no task or method")
    except (ValueError, KeyError, TypeError, RecursionError, pa.ArrowException) as error:
        why = printable(str(error).splitlines()[0] if str(error) else type(error).__name__)
        raise UserError(
            f"{path} is no board of scores ({why}): write one with `orca-sweep leaderboard NAME -o FILE{path.suffix}`"
        ) from error
    return _frame(table)


def _from_json(content: bytes) -> Any:
    document = json.loads(content)
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise ValueError(f'it has no "kind": {quoted(KIND)}')
    if document.get("version") != VERSION:
        raise ValueError(f"it has version {quoted(document.get('version'))}, and this orca-ray reads {VERSION}")
    rows: Sequence[dict[str, Any]] = document["scores"]
    return pa.Table.from_pylist(list(rows), schema=SCHEMA)
