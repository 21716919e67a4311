"""Valid records, points and suggestions, of which tests change fields, and a clock."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from orca_ray.results.parquet import ParquetPart
from orca_ray.results.record import CurvePoint, Record, Status, SuggestionRow
from orca_ray.results.store import ResultsStore
from orca_ray.results.tables import Table, check_invalid

START = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def make_record(key: str = "k0", *, minutes: float = 1.0, **changes: Any) -> Record:
    """Return a completed confirm record that finished ``minutes`` after `START`."""
    values: dict[str, Any] = {
        "trial_key": key,
        "sweep": "pocket/quick",
        "benchmark": "pocket",
        "task": "pocket/digits",
        "method": "orca",
        "body": "minilm-l6:layers=4",
        "phase": "confirm",
        "protocol": "held-out",
        "seed": 0,
        "hyperparameters": '{"refine.learning_rate":0.0003}',
        "data_fingerprint": "0123456789abcdef",
        "metric": "error",
        "status": Status.COMPLETED,
        "validation_score": 0.25,
        "test_score": 0.5,
        "best_epoch": 3,
        "epochs": 5,
        "distance_before": 2.0,
        "distance_after": 1.0,
        "num_parameters": 7_000_000_000,
        "num_trainable": 12,
        "wall_seconds": 60.0,
        "align_seconds": 1.5,
        "refine_seconds": 2.5,
        "evaluate_seconds": 0.5,
        "peak_memory_mib": None,
        "executor": "inline",
        "node": "here",
        "device": "cpu",
        "started_at": START,
        "finished_at": START + timedelta(minutes=minutes),
        "attempts": 1,
        "error": None,
        "version": "0.1.0",
        "torch_version": "2.9.0",
    }
    return Record(**(values | changes))


def make_point(key: str = "k0", epoch: int = 1, **changes: Any) -> CurvePoint:
    """Return a refine point of a learning curve."""
    values: dict[str, Any] = {
        "sweep": "pocket/quick",
        "trial_key": key,
        "stage": "refine",
        "epoch": epoch,
        "loss": 1.0 / epoch,
        "distance": None,
        "validation_score": 0.5 / epoch,
        "learning_rate": 1e-4,
        "seconds": 0.25,
    }
    return CurvePoint(**(values | changes))


def make_suggestion(number: int = 0, **changes: Any) -> SuggestionRow:
    """Return an entry of the journal of a search."""
    suggestion = SuggestionRow(
        "pocket/quick",
        "pocket/digits",
        "orca",
        number,
        f"k{number}",
        '{"a":1.5}',
        "[[0,3]]",
        START,
    )
    return replace(suggestion, **changes)


def decode(content: Any, kind: Table) -> Any:
    """Return the Arrow table in the Parquet file ``content``.

    Raises UserError if it is damaged or has invalid rows.
    """
    part = ParquetPart(pa.BufferReader(content), kind, "memory")
    table = part.read(range(len(part.group_rows)))
    check_invalid(table, kind, "memory")
    return table


def files_of(store: ResultsStore, table: str = "records") -> list[Path]:
    """Return the files of a table of a local store."""
    return sorted((Path(store.uri) / table).iterdir())
