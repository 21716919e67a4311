"""Selects the records that a leaderboard counts, and builds the board from them."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from orca_ray.errors import UserError, nearest, printable
from orca_ray.leaderboard.board import Board, Cell, Cost, Other, Provenance, Score, TaskInfo, empty_board, score_table
from orca_ray.results.record import Status

_COMPLETED = Status.COMPLETED.value
_FAILED = [status.value for status in Status if status.failed]
_STATE = ["data_fingerprint", "metric", "metric_version"]
"""Columns whose values must agree before scores are averaged."""


def build(
    records: pd.DataFrame,
    *,
    benchmark: str,
    sweep: str | None = None,
    protocol: str | None = None,
    empty: bool = False,
) -> Board:
    """Build the leaderboard of a benchmark from the records of a store, as `ResultsStore.records` returns them.

    A leaderboard holds one sweep (such as ``pocket/quick``) and one protocol (``held-out`` or ``paper``). If one is
    None, the matching pair is chosen that has completed confirm trials of the most combinations of task, method, body
    and seed; on a tie, the most recent one. Raises UserError if there is no record of the benchmark, the sweep or the
    protocol; with ``empty``, a benchmark without records has an empty board.
    """
    if empty and not (records["benchmark"] == benchmark).any():
        return empty_board(benchmark)
    rows = select(records, "benchmark", benchmark, "run `orca-sweep benchmark NAME` first.")
    rows = rows.assign(metric_version=_versions(rows))
    available = _available(rows)
    chosen = _choose(rows, available, sweep, protocol)
    rows = rows[(rows["sweep"] == chosen.sweep) & (rows["protocol"] == chosen.protocol)]
    rows = rows.assign(label=_labels(rows))

    confirmed, notes = confirmed_scores(rows)
    repeated = confirmed.sort_values("finished_at", kind="stable").duplicated(["task", "label", "seed"], keep="last")
    if repeated.any():
        confirmed = confirmed[~repeated.sort_index()]
        notes.append(f"{int(repeated.sum())} confirm trial(s) of a seed that has a later one left out")
    scored = confirmed.assign(method=confirmed["label"], score=confirmed["test_score"].astype("float64"))
    cells = _cells(rows, scored)
    methods = sorted(rows["label"].unique())
    means = scored.groupby(["task", "label"])["score"].mean().unstack("label")
    ranks = means.reindex(columns=methods).dropna().rank(axis=1).mean()
    state = _state(rows)
    return Board(
        benchmark=benchmark,
        sweep=chosen.sweep,
        protocol=chosen.protocol,
        infos={
            str(task): TaskInfo(str(task), str(metric), int(version), str(data))
            for task, data, metric, version in state.sort_index().itertuples()
        },
        methods=tuple(ranks.reindex(methods).sort_values(kind="stable").index),
        scores=score_table(scored),
        cells=cells,
        others=tuple(other for other in available if other != chosen),
        notes=tuple(notes),
    )


def select(records: pd.DataFrame, column: str, wanted: str, hint: str) -> pd.DataFrame:
    """Return the records with the value ``wanted`` in ``column``; raises UserError, with ``hint``, if there is none."""
    names = sorted(records[column].unique())
    if not names:
        raise UserError(f"no records of {column} {wanted!r} yet: {hint}")
    if wanted not in names:
        close = nearest(wanted, names)
        question = f" Did you mean {close!r}?" if close else ""
        raise UserError(f"no records of {column} {wanted!r}.{question} There are: {', '.join(map(printable, names))}.")
    return records[records[column] == wanted]


def _versions(rows: pd.DataFrame) -> "pd.Series[int]":
    """Return the version of the metric of each record; those without one are older, and have version 1."""
    known = rows["metric_version"] if "metric_version" in rows else pd.Series(pd.NA, index=rows.index, dtype="Int64")
    return known.fillna(1).astype("int64")


def _available(records: pd.DataFrame) -> list[Other]:
    """Return every (sweep, protocol) of the records in the order in which `build` prefers them."""
    key = ["sweep", "protocol"]
    confirmed = (records["phase"] == "confirm") & (records["status"] == _COMPLETED)
    # A grid has many confirm trials of one task, method and seed; a leaderboard shows only one of them.
    repeated = records.assign(confirmed=confirmed).duplicated([*key, "task", "method", "body", "seed", "confirmed"])
    groups = records.assign(confirmed=confirmed, scores=confirmed & ~repeated).groupby(key, sort=True)
    table = groups.agg(confirmed=("confirmed", "sum"), scores=("scores", "sum"), latest=("finished_at", "max"))
    table = table.reset_index().sort_values(["scores", "latest"], ascending=False, kind="stable")
    rows = table[[*key, "confirmed"]].itertuples(index=False)
    return [Other(str(sweep), str(protocol), int(number)) for sweep, protocol, number in rows]


def _choose(records: pd.DataFrame, available: Sequence[Other], sweep: str | None, protocol: str | None) -> Other:
    if sweep is not None:
        records = select(records, "sweep", sweep, "")
    if protocol is not None:
        select(records, "protocol", protocol, "")
    return next(each for each in available if sweep in (None, each.sweep) and protocol in (None, each.protocol))


def _labels(rows: pd.DataFrame) -> "pd.Series[str]":
    """Return a label for each record: the method, or "method (body)" if the method has several bodies on a task."""
    num_bodies = rows.groupby(["method", "task"])["body"].nunique().groupby("method").max()
    several = rows["method"].map(num_bodies) > 1
    return rows["method"].where(~several, rows["method"] + " (" + rows["body"] + ")")


def _state(rows: pd.DataFrame) -> pd.DataFrame:
    """Return each task's data and metric (`_STATE`) in its last trial that did not fail, else in its last trial."""
    succeeded = ~rows["status"].isin(_FAILED)
    ordered = rows.assign(succeeded=succeeded).sort_values(["succeeded", "finished_at"], kind="stable")
    return ordered.drop_duplicates("task", keep="last").set_index("task")[_STATE]


def confirmed_scores(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return the confirm records that scores are averaged over, and sentences about those that are left out.

    For each task and method, these are the records of one configuration: that with the most seeds, on a tie the most
    recent one. Records with another data fingerprint, metric or version of it than the task's last trial do not count
    (see `_state`).
    """
    notes = []
    rows = rows.assign(metric_version=_versions(rows))
    confirmed = rows[(rows["phase"] == "confirm") & (rows["status"] == _COMPLETED)]
    scored = confirmed[confirmed["test_score"].notna()]
    if missing := len(confirmed) - len(scored):
        notes.append(f"{missing} completed confirm trial(s) without a test score left out")

    expected = _state(rows).reindex(scored["task"]).set_axis(scored.index)
    current = scored[(scored[_STATE] == expected).all(axis=1)]
    if old := len(scored) - len(current):
        notes.append(f"{old} confirm trial(s) on an earlier version of their task's data or metric left out")

    key = ["task", "label", "hyperparameters"]
    table = current.groupby(key, sort=True).agg(num_seeds=("seed", "nunique"), latest=("finished_at", "max"))
    table = table.reset_index().sort_values(["num_seeds", "latest"], kind="stable")
    chosen = current.merge(table.drop_duplicates(["task", "label"], keep="last")[key], on=key)
    if other := len(current) - len(chosen):
        notes.append(f"{other} confirm trial(s) of other configurations, with fewer seeds or older, left out")
    return chosen, notes


def _cells(rows: pd.DataFrame, scored: pd.DataFrame) -> dict[tuple[str, str], Cell]:
    """Return the cell of each (task, label) of ``rows``; ``scored`` are the records that its score averages over."""
    shares = rows["gpus"] if "gpus" in rows else pd.Series(1.0, index=rows.index)
    hours = rows["wall_seconds"] / 3600 * shares.where(shares > 0).fillna(1.0)
    rows = rows.assign(hours=hours)
    key = ["task", "label"]
    scores = {name: group.sort_values("seed") for name, group in scored.groupby(key)}
    cells = {}
    for (task, method), group in rows.groupby(key, sort=True):
        counts = group["status"].value_counts()
        provenance = {
            "statuses": {status: int(counts.get(status.value, 0)) for status in Status},
            "attempts": int(group["attempts"].sum()),
            "device_hours": {str(k): float(v) for k, v in group.groupby("device")["hours"].sum().items()},
        }
        cells[task, method] = _cell(task, method, scores.get((task, method), scored.iloc[:0]), provenance)
    return cells


def _cell(task: str, method: str, scored: pd.DataFrame, provenance: dict[str, Any]) -> Cell:
    values = scored["score"]
    if scored.empty:
        return Cell(task, method, Score(math.nan, math.nan, 0), {}, Provenance(**provenance))
    first = scored.iloc[0]
    notes = (sentence for text in scored["notes"].dropna() for sentence in text.split("; "))
    return Cell(
        task,
        method,
        Score(float(values.mean()), float(values.std()), len(values)),
        {int(seed): str(key) for seed, key in zip(scored["seed"], scored["trial_key"], strict=True)},
        Provenance(
            **provenance,
            **{name: str(first[name]) for name in ("body", "hyperparameters", "data_fingerprint", "metric")},
            metric_version=int(first["metric_version"]),
            versions=_distinct(scored["version"]),
            torch_versions=_distinct(scored["torch_version"]),
            devices=_distinct(scored["device"]),
            processors=_distinct(scored["processor"]) if "processor" in scored else (),
            precisions=_distinct(scored["precision"]),
            deterministic=bool(scored["deterministic"].fillna(False).all()),
            started_at=scored["started_at"].min().to_pydatetime(),
            finished_at=scored["finished_at"].max().to_pydatetime(),
            notes=tuple(dict.fromkeys(notes)),
        ),
        _cost(scored),
    )


def _distinct(values: pd.Series) -> tuple[str, ...]:
    return tuple(sorted(map(str, values.dropna().unique())))


def _cost(scored: pd.DataFrame) -> Cost:
    numbers = scored[["wall_seconds", "peak_memory_mib", "num_trainable", "num_parameters"]].astype("Float64")
    device = scored[["align_seconds", "refine_seconds", "evaluate_seconds"]].sum(axis=1)
    if "gpus" in scored:
        device *= scored["gpus"].where(scored["gpus"] > 0).fillna(1.0)
    means = numbers.astype("float64").mean()
    return Cost(
        wall_seconds=float(means["wall_seconds"]),
        device_seconds=float(device.mean()),
        peak_memory_mib=float(numbers["peak_memory_mib"].astype("float64").max()),
        num_trainable=float(means["num_trainable"]),
        num_parameters=float(means["num_parameters"]),
    )
