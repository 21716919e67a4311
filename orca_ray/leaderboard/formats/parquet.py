"""A Parquet table with one row for each score of the board, by seed, and for each published score."""

import pyarrow as pa
import pyarrow.parquet as pq

from orca_ray.leaderboard.format import KIND, SCHEMA, VERSION, BoardReport, Format, score_rows

_PUBLISHED = ("kind", "quantity", "std", "n", "published", "published_metric", "setting", "flag", "source", "note")
_TYPES = {"std": pa.float64(), "n": pa.int64()}


def _render(report: BoardReport) -> bytes:
    rows = [{**row, "kind": "own"} for row in score_rows(report.board)]
    for each in report.published_scores:
        names = ("task", "method", "metric", "protocol", "score", *_PUBLISHED)
        rows.append({"benchmark": each.benchmark, **{name: getattr(each, name) for name in names}})
    schema = pa.schema([*SCHEMA, *((name, _TYPES.get(name, pa.string())) for name in _PUBLISHED)])
    table = pa.Table.from_pylist(rows, schema=schema.with_metadata({KIND: str(VERSION)}))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())


def _same(one: bytes, other: bytes) -> bool:
    """Compare the rows: the bytes of a Parquet file depend on the version of pyarrow that wrote it."""
    try:
        tables = [pq.read_table(pa.BufferReader(each)) for each in (one, other)]
    except pa.ArrowException:
        return False
    return bool(tables[0].equals(tables[1]))


FORMAT = Format("parquet", ".parquet", _render, same=_same)
