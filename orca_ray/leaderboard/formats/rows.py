"""Parquet and CSV: one row for each score of the board, in full precision.

There is a row for each seed, and for each published score.
"""

import csv
import io

import pyarrow as pa
import pyarrow.parquet as pq

from orca_ray.errors import csv_cell
from orca_ray.leaderboard.format import (
    FACTS,
    KIND,
    SCHEMA,
    VERSION,
    BoardReport,
    Format,
    score_rows,
)
from orca_ray.results.parquet import read_bounded

_PUBLISHED = (
    "kind",
    "quantity",
    "std",
    "n",
    "published",
    "published_metric",
    "setting",
    "flag",
    "source",
    "note",
)
"""Columns that rows of the published scores have in addition to `SCHEMA`."""
_TYPES = {"std": pa.float64(), "n": pa.int64()}
"""Types of additional columns that hold no text."""
_ADDITIONAL = [(name, _TYPES.get(name, pa.string())) for name in (*_PUBLISHED, *FACTS)]
_SCHEMA = pa.schema([*SCHEMA, *_ADDITIONAL])
"""Columns of the files."""


def _rows(report: BoardReport) -> list[dict[str, object]]:
    """Return the scores of a report as rows with columns of `_SCHEMA`.

    Own scores have the ``kind`` "own"; the published scores follow.
    """
    facts = {key: report.read_facts(cell) for key, cell in report.board.cells.items()}
    rows = [
        {**row, "kind": "own", **facts.get((row["task"], row["method"]), {})}
        for row in score_rows(report.board)
    ]
    names = (
        "benchmark",
        "task",
        "method",
        "metric",
        "metric_version",
        "data_fingerprint",
        "protocol",
        "score",
        *_PUBLISHED,
    )
    rows += [
        {name: getattr(published, name) for name in names}
        for published in report.published_scores
    ]
    return rows


def _parquet(report: BoardReport) -> bytes:
    schema = _SCHEMA.with_metadata({KIND: str(VERSION)})
    table = pa.Table.from_pylist(_rows(report), schema=schema)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())


def _csv(report: BoardReport) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, _SCHEMA.names, lineterminator="\n")
    writer.writeheader()
    for row in _rows(report):
        writer.writerow(
            {name: "" if cell is None else csv_cell(cell) for name, cell in row.items()}
        )
    return stream.getvalue().rstrip("\n")


def _same(content: bytes, other: bytes) -> bool:
    """Return whether two Parquet files have the same rows.

    Their bytes may differ, as these depend on the version of pyarrow that wrote them.
    """
    try:
        schema = pq.read_schema(pa.BufferReader(content))
        if schema != pq.read_schema(pa.BufferReader(other)):
            return False
        table = read_bounded(content, schema.names)
        other_table = read_bounded(other, schema.names)
    except (pa.ArrowException, ValueError, OSError):
        return False
    return bool(table.equals(other_table))


FORMATS = (
    Format("csv", ".csv", _csv),
    Format("parquet", ".parquet", _parquet, same=_same),
)
