"""Cells of a board: score, provenance and cost of each method on each task."""

import math
from collections import Counter
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import numpy as np
import pandas as pd

from orca_ray.leaderboard.board import (
    NO_SCORE,
    BoardCell,
    Provenance,
    Score,
    TrialCost,
)
from orca_ray.results.record import Status
from orca_ray.results.scan import StoreSnapshot

_WIDE = [
    "wall_seconds",
    "align_seconds",
    "refine_seconds",
    "evaluate_seconds",
    "peak_memory_mib",
    "num_trainable",
    "num_parameters",
    "gpus",
    "version",
    "torch_version",
    "device",
    "processor",
    "precision",
    "deterministic",
    "started_at",
    "finished_at",
    "notes",
    "body",
    "hyperparameters",
    "data_fingerprint",
    "metric",
    "metric_version",
    "seed",
    "trial_key",
    "test_score",
]
"""Columns of the scored records that cells are made of."""
_MICROSECONDS_PER_HOUR = 3.6e9


def board_cells(
    scan: StoreSnapshot, groups: pd.DataFrame, scored: pd.DataFrame
) -> dict[tuple[str, str], BoardCell]:
    """Return the cells of a board by task and method, as the board names the method.

    ``groups`` are the counts of all trials, in the groups of the tally of
    `orca_ray.leaderboard.selection`; the column ``label`` has the method. ``scored``
    are the records that scores average over.
    """
    scored = scored.sort_values("position")
    records = scan.take(scored["position"].to_numpy("int64"), _WIDE).to_pylist()
    records_of_cells: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for task, method, record in zip(
        scored["task"].tolist(), scored["method"].tolist(), records, strict=True
    ):
        records_of_cells.setdefault((task, method), []).append(record)
    counts_of_cells = _trial_counts(groups)
    return {
        key: _cell(*key, records_of_cells.get(key, []), counts_of_cells[key])
        for key in sorted(counts_of_cells)
    }


@dataclass
class _TrialCounts:
    """Counts of all trials of a cell; see the fields of `Provenance`."""

    statuses: dict[Status, int] = field(
        default_factory=lambda: dict.fromkeys(Status, 0)
    )
    attempts: int = 0
    microseconds: Counter[str] = field(default_factory=Counter)
    """Wall time of all trials by device."""

    def provenance(self, **fields: Any) -> Provenance:
        """Return a provenance with these counts and the other ``fields``."""
        hours = {
            device: total / _MICROSECONDS_PER_HOUR
            for device, total in self.microseconds.items()
        }
        return Provenance(
            statuses=self.statuses, attempts=self.attempts, device_hours=hours, **fields
        )


def _trial_counts(groups: pd.DataFrame) -> dict[tuple[str, str], _TrialCounts]:
    """Return the counts of all trials by task and method.

    ``groups`` are those of `board_cells`.
    """
    key = ["task", "label", "status", "device"]
    sums = groups.groupby(key)[["count", "attempts", "microseconds"]].sum()
    counts: dict[tuple[str, str], _TrialCounts] = {}
    for (
        task,
        label,
        status,
        device,
        count,
        attempts,
        microseconds,
    ) in sums.reset_index().itertuples(index=False):
        cell = counts.setdefault((task, label), _TrialCounts())
        cell.statuses[Status(status)] += count
        cell.attempts += attempts
        cell.microseconds[device] += microseconds
    return counts


def _cell(
    task: str, method: str, rows: list[dict[str, Any]], counts: _TrialCounts
) -> BoardCell:
    """Return a cell from its scored records and the counts of all its trials."""
    if not rows:
        return BoardCell(task, method, NO_SCORE, {}, counts.provenance())
    rows = sorted(rows, key=itemgetter("seed"))
    notes = [
        note
        for row in rows
        if row["notes"]
        for note in row["notes"].split("; ")
        if note
    ]
    provenance = counts.provenance(
        body=rows[0]["body"],
        hyperparameters=rows[0]["hyperparameters"],
        data_fingerprint=rows[0]["data_fingerprint"],
        metric=rows[0]["metric"],
        # Records from before versions were stored have none.
        metric_version=rows[0]["metric_version"] or 1,
        versions=_distinct(rows, "version"),
        torch_versions=_distinct(rows, "torch_version"),
        devices=_distinct(rows, "device"),
        processors=_distinct(rows, "processor"),
        precisions=_distinct(rows, "precision"),
        deterministic=all(row["deterministic"] for row in rows),
        started_at=min(row["started_at"] for row in rows),
        finished_at=max(row["finished_at"] for row in rows),
        notes=tuple(dict.fromkeys(notes)),
    )
    return BoardCell(
        task,
        method,
        _score([row["test_score"] for row in rows]),
        {int(row["seed"]): row["trial_key"] for row in rows},
        provenance,
        _cost(rows),
    )


def _distinct(rows: list[dict[str, Any]], name: str) -> tuple[str, ...]:
    """Return the sorted distinct values of a column, without None."""
    return tuple(sorted({row[name] for row in rows} - {None}))


def _score(scores: list[float]) -> Score:
    """Return mean and deviation of the scores of several seeds."""
    if len(scores) == 1:
        deviation = math.nan
    elif np.ptp(scores) == 0:
        deviation = 0.0  # the formula gives some 1e-17 for equal scores
    else:
        deviation = float(np.std(scores, ddof=1))
    return Score(float(np.mean(scores)), deviation, len(scores))


def _cost(rows: list[dict[str, Any]]) -> TrialCost:
    """Return the costs of the scored trials of a cell."""

    def mean(name: str) -> float:
        values = [row[name] for row in rows]
        return math.nan if None in values else math.fsum(values) / len(values)

    memory = [
        row["peak_memory_mib"] for row in rows if row["peak_memory_mib"] is not None
    ]
    return TrialCost(
        wall_seconds=mean("wall_seconds"),
        device_seconds=math.fsum(map(_device_seconds, rows)) / len(rows),
        peak_memory_mib=max(memory, default=math.nan),
        num_trainable=mean("num_trainable"),
        num_parameters=mean("num_parameters"),
    )


def _device_seconds(row: dict[str, Any]) -> float:
    """Return the seconds of the stages, times the number of GPUs (1 on a CPU)."""
    seconds = sum(
        row[name] for name in ("align_seconds", "refine_seconds", "evaluate_seconds")
    )
    num_gpus = row["gpus"] or 1.0
    return float(seconds * num_gpus)
