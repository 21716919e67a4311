"""Selects the records that a leaderboard counts, and builds the board from them."""

import math
from collections.abc import Collection, Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from orca_ray.errors import UserError, nearest, printable, shorten
from orca_ray.leaderboard.board import (
    Board,
    BoardCell,
    Other,
    Provenance,
    Score,
    TaskInfo,
    TrialCost,
    score_table,
)
from orca_ray.leaderboard.statistics import get_statistic
from orca_ray.results.record import Status
from orca_ray.results.scan import StoreSnapshot
from orca_ray.results.store import ResultsStore
from orca_ray.results.tables import RECORDS, invalid_rows

_COMPLETED = Status.COMPLETED.value
_FAILED = [status.value for status in Status if status.failed]
STATE = ["data_fingerprint", "metric", "metric_version"]
"""Columns whose values must agree before scores are averaged."""
_SCORED = [
    "task",
    "method",
    "body",
    "seed",
    "hyperparameters",
    "test_score",
    "finished_at",
    *STATE,
]


def build(
    records: ResultsStore | StoreSnapshot | pd.DataFrame,
    *,
    benchmark: str,
    sweep: str | None = None,
    protocol: str | None = None,
    known_tasks: Collection[str] | None = None,
) -> Board:
    """Build the leaderboard of a benchmark from a store or its records.

    A leaderboard holds one sweep (such as ``pocket/quick``) and one protocol
    (``held-out`` or ``paper``). If one is None, the matching pair is chosen that has
    completed confirm trials of the most combinations of task, method, body and seed; on
    a tie, the most recent one.

    Args:
        records: a store or its records. Damaged files and invalid records of a store
            are left out with a warning.
        benchmark: name of the benchmark.
        sweep: name of the sweep.
        protocol: name of the protocol.
        known_tasks: tasks of the benchmark; records of other tasks are left out with a
            warning. None: all tasks count.

    Raises:
        UserError: there is no record of the benchmark, the sweep or the protocol, or
            the store cannot be read.
    """
    scan = records.scan() if isinstance(records, ResultsStore) else records
    scan = StoreSnapshot.of_frame(scan) if isinstance(scan, pd.DataFrame) else scan
    groups = _tally(scan, benchmark)
    unknown = (
        groups[:0] if known_tasks is None else groups[~groups["task"].isin(known_tasks)]
    )
    groups = groups.drop(unknown.index)
    warnings = list(scan.warnings) + [
        f"{count} record(s) of the task {shorten(repr(task))}, which {benchmark} does"
        " not have, left out"
        for task, count in unknown.groupby("task")["count"].sum().items()
    ]
    if groups.empty:
        known = pd.DataFrame({"benchmark": scan.values("benchmark")})
        select(known, "benchmark", benchmark, "run `orca-sweep benchmark NAME` first.")
        tasks = shorten(", ".join(sorted(map(repr, set(unknown["task"])))), 300)
        advice = (
            "Install the plug-in, or the version of orca-ray, that has these tasks."
        )
        raise UserError(
            f"all records of {benchmark!r} are of tasks that it does not have here:"
            f" {tasks}. {advice}"
        )
    available = _available(groups)
    chosen = _choose(groups, available, sweep, protocol)
    groups = groups[
        (groups["sweep"] == chosen.sweep) & (groups["protocol"] == chosen.protocol)
    ]
    groups = groups.assign(label=_labels(groups))
    state = _state(groups)
    wanted = {
        "benchmark": [benchmark],
        "sweep": [chosen.sweep],
        "protocol": [chosen.protocol],
        "phase": ["confirm"],
    }
    confirmed, invalid = _confirmed(
        scan, {**wanted, "status": [_COMPLETED], "task": list(state.index)}
    )
    scored, notes = _scored(confirmed, groups, state)
    methods = sorted(groups["label"].unique())
    scores = score_table(scored)
    ranks = get_statistic("mean_rank").compute(scores)["value"]
    return Board(
        benchmark=benchmark,
        sweep=chosen.sweep,
        protocol=chosen.protocol,
        infos={
            str(task): TaskInfo(str(task), str(metric), int(version), str(data))
            for task, data, metric, version in state.itertuples()
        },
        methods=tuple(ranks.reindex(methods).sort_values(kind="stable").index),
        scores=scores,
        cells=_cells(scan, groups, scored),
        others=tuple(other for other in available if other != chosen),
        notes=tuple(notes),
        warnings=(*warnings, *invalid),
    )


_KEYS = (
    "sweep",
    "protocol",
    "task",
    "method",
    "body",
    "phase",
    "status",
    "device",
    "data_fingerprint",
    "metric",
    "metric_version",
)
"""Columns whose values are equal within a group of `_tally`.

``metric_version`` is 1 in records without it.
"""
_TYPES = {
    name: RECORDS.schema.field(name).type
    for name in ("metric_version", "seed", "attempts", "finished_at")
}
_TYPES |= {"count": pa.int64(), "microseconds": pa.int64()}
_SUMS = {"count": "sum", "microseconds": "sum", "attempts": "sum", "finished_at": "max"}


def _tally(scan: StoreSnapshot, benchmark: str) -> pd.DataFrame:
    """Return counts and sums of the current records of a benchmark, by group.

    The frame has one row per group. Columns are `_KEYS`, ``seed`` (of confirm trials;
    -1 for search trials), ``count`` (number of records), ``microseconds`` (sum of wall
    times, each times the trial's number or share of GPUs where this is known and not
    0), ``attempts`` (sum) and ``finished_at`` (last).
    """
    columns = [*_KEYS, "seed", "wall_seconds", "gpus", "attempts", "finished_at"]
    groups = [
        _groups(table) for _, table in scan.batches(columns, {"benchmark": [benchmark]})
    ]
    if not groups:
        return pd.DataFrame(columns=[*_KEYS, "seed", *_SUMS])
    return _grouped(pa.concat_tables(groups)).to_pandas()  # type: ignore[no-any-return]


def _groups(table: Any) -> Any:
    gpus = np.nan_to_num(table["gpus"].to_numpy(), nan=1.0)
    seconds = np.nan_to_num(table["wall_seconds"].to_numpy()) * np.where(
        gpus > 0, gpus, 1.0
    )
    confirm = pc.equal(table["phase"].cast(pa.string()), "confirm")
    columns = {
        **{name: table[name] for name in _KEYS},
        "metric_version": table["metric_version"].fill_null(1),
        "seed": pc.if_else(confirm, table["seed"], -1),
        "count": np.ones(len(table), np.int64),
        # Whole microseconds have the same sum in any order of the files.
        "microseconds": np.rint(np.clip(seconds, 0, 1e9) * 1e6).astype(np.int64),
        "attempts": table["attempts"],
        "finished_at": table["finished_at"],
    }
    # Text that is dictionary-encoded is grouped five times faster than when it is
    # expanded.
    found = _grouped(pa.table(columns).unify_dictionaries())
    return found.cast(
        pa.schema([(name, _TYPES.get(name, pa.string())) for name in columns])
    )


def _grouped(table: Any) -> Any:
    found = table.group_by([*_KEYS, "seed"], use_threads=False).aggregate(
        list(_SUMS.items())
    )
    return found.rename_columns([*_KEYS, "seed", *_SUMS])


def _scored(
    confirmed: pd.DataFrame, groups: pd.DataFrame, state: pd.DataFrame
) -> tuple[pd.DataFrame, list[str]]:
    """Return `confirmed_scores` with the columns of a score table, and notes.

    There is one score for each task, method of the board and seed.
    """
    labels = groups.drop_duplicates(["method", "task", "body"])[
        ["method", "task", "body", "label"]
    ]
    scored, notes = confirmed_scores(
        confirmed.merge(labels, on=["method", "task", "body"], how="left"), state
    )
    repeated = scored.sort_values("finished_at", kind="stable").duplicated(
        ["task", "label", "seed"], keep="last"
    )
    if repeated.any():
        scored = scored[~repeated.sort_index()]
        notes.append(
            f"{int(repeated.sum())} confirm trial(s) of a seed that has a later one"
            " left out"
        )
    return (
        scored.assign(
            method=scored["label"], score=scored["test_score"].astype("float64")
        ),
        notes,
    )


def _confirmed(
    scan: StoreSnapshot, wanted: Mapping[str, Collection[str]]
) -> tuple[pd.DataFrame, list[str]]:
    """Return the valid ``wanted`` records, and a warning about invalid ones.

    The columns are ``position`` and `_SCORED`.
    """
    schema = pa.schema([RECORDS.schema.field(name) for name in _SCORED])
    tables = [schema.empty_table()]
    positions = [np.empty(0, np.int64)]
    left_out = 0
    example = ""
    for at, table in scan.batches(_SCORED, wanted):
        valid = np.ones(len(at), dtype=bool)
        for invalid in invalid_rows(table.select(["hyperparameters"]), RECORDS):
            valid = ~invalid.is_wrong.to_numpy()
            example = example or invalid.value
        left_out += int((~valid).sum())
        tables.append(table.filter(pa.array(valid)).cast(schema))
        positions.append(at[valid])
    warning = (
        f"{left_out} record(s) left out: hyperparameters {shorten(repr(example), 80)}"
        " are no JSON object"
    )
    confirmed = (
        pa.concat_tables(tables).to_pandas().assign(position=np.concatenate(positions))
    )
    return confirmed, [warning] if left_out else []


def select(records: pd.DataFrame, column: str, wanted: str, hint: str) -> pd.DataFrame:
    """Return the records with ``wanted`` in ``column``.

    Raises UserError if there is none; ``hint`` is for the case that there are no
    records at all.
    """
    names = sorted(records[column].unique())
    if not names:
        raise UserError(f"no records of {column} {wanted!r} yet: {hint}")
    if wanted not in names:
        close = nearest(wanted, names)
        question = f" Did you mean {close!r}?" if close else ""
        raise UserError(
            f"no records of {column} {wanted!r}.{question} There are:"
            f" {', '.join(map(printable, names))}."
        )
    return records[records[column] == wanted]


def _available(groups: pd.DataFrame) -> list[Other]:
    """Return every (sweep, protocol) of the tally, in `build`'s order of preference."""
    key = ["sweep", "protocol"]
    completed = groups[
        (groups["phase"] == "confirm") & (groups["status"] == _COMPLETED)
    ]
    table = groups.groupby(key).agg(latest=("finished_at", "max"))
    table["confirmed"] = completed.groupby(key)["count"].sum()
    # A grid has many confirm trials of one task, method and seed; a leaderboard shows
    # only one of them.
    table["scores"] = (
        completed.drop_duplicates([*key, "task", "method", "body", "seed"])
        .groupby(key)
        .size()
    )
    table = table.fillna({"confirmed": 0, "scores": 0}).reset_index()
    table = table.sort_values(["scores", "latest"], ascending=False, kind="stable")
    rows = table[[*key, "confirmed"]].itertuples(index=False)
    return [
        Other(str(sweep), str(protocol), int(number))
        for sweep, protocol, number in rows
    ]


def _choose(
    groups: pd.DataFrame,
    available: Sequence[Other],
    sweep: str | None,
    protocol: str | None,
) -> Other:
    if sweep is not None:
        groups = select(groups, "sweep", sweep, "")
    if protocol is not None:
        select(groups, "protocol", protocol, "")
    return next(
        each
        for each in available
        if sweep in (None, each.sweep) and protocol in (None, each.protocol)
    )


def _labels(rows: pd.DataFrame) -> "pd.Series[str]":
    """Return a label for each row: the method, or "method (body)".

    The body is named if the method has several bodies on a task.
    """
    num_bodies = (
        rows.groupby(["method", "task"])["body"].nunique().groupby("method").max()
    )
    several = rows["method"].map(num_bodies) > 1
    return rows["method"].where(~several, rows["method"] + " (" + rows["body"] + ")")


def _state(rows: pd.DataFrame) -> pd.DataFrame:
    """Return each task's data and metric (`STATE`) in its last trial that succeeded.

    If every trial of a task failed, its last trial counts.
    """
    succeeded = ~rows["status"].isin(_FAILED)
    ordered = rows.assign(succeeded=succeeded).sort_values(
        ["succeeded", "finished_at"], kind="stable"
    )
    return (
        ordered.drop_duplicates("task", keep="last")
        .set_index("task")[STATE]
        .sort_index()
    )


def grid_scores(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return `confirmed_scores` of records of all phases and statuses.

    ``rows`` have a column ``label``.
    """
    rows = rows.assign(metric_version=rows["metric_version"].fillna(1).astype("int64"))
    return confirmed_scores(
        rows[(rows["phase"] == "confirm") & (rows["status"] == _COMPLETED)],
        _state(rows),
    )


def confirmed_scores(
    confirmed: pd.DataFrame, state: pd.DataFrame
) -> tuple[pd.DataFrame, list[str]]:
    """Return the confirm records that scores are averaged over, and notes.

    Notes are sentences about records that are left out. For each task and method
    (column ``label``), these are the records of one configuration: the one with the
    most seeds, on a tie the most recent one. Records whose data fingerprint, metric or
    metric version differs from that of the task in ``state`` do not count.
    """
    notes = []
    scored = confirmed[confirmed["test_score"].notna()]
    if missing := len(confirmed) - len(scored):
        notes.append(
            f"{missing} completed confirm trial(s) without a test score left out"
        )

    scored = scored.assign(
        metric_version=scored["metric_version"].fillna(1).astype("int64")
    )
    current = scored.merge(state.reset_index(), on=["task", *STATE])
    if old := len(scored) - len(current):
        notes.append(
            f"{old} confirm trial(s) on an earlier version of their task's data or"
            " metric left out"
        )

    key = ["task", "label", "hyperparameters"]
    table = current.groupby(key, sort=True).agg(
        num_seeds=("seed", "nunique"), latest=("finished_at", "max")
    )
    table = table.reset_index().sort_values(["num_seeds", "latest"], kind="stable")
    chosen = current.merge(
        table.drop_duplicates(["task", "label"], keep="last")[key], on=key
    )
    if other := len(current) - len(chosen):
        notes.append(
            f"{other} confirm trial(s) of other configurations, with fewer seeds or"
            " older, left out"
        )
    return chosen, notes


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


def _cells(
    scan: StoreSnapshot, groups: pd.DataFrame, scored: pd.DataFrame
) -> dict[tuple[str, str], BoardCell]:
    """Return the cell of each task and label of the tally.

    ``scored`` are the records that scores average over.
    """
    scored = scored.sort_values("position")
    records = scan.take(scored["position"].to_numpy("int64"), _WIDE).to_pylist()
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for task, method, record in zip(
        scored["task"].tolist(), scored["method"].tolist(), records, strict=True
    ):
        rows.setdefault((task, method), []).append(record)

    key = ["task", "label", "status", "device"]
    table = (
        groups.groupby(key)[["count", "attempts", "microseconds"]].sum().reset_index()
    )
    trials: dict[tuple[str, str], dict[str, Any]] = {}
    for task, label, status, device, count, attempts, microseconds in table.itertuples(
        index=False
    ):
        new = {"statuses": dict.fromkeys(Status, 0), "attempts": 0, "device_hours": {}}
        cell = trials.setdefault((task, label), new)
        cell["statuses"][Status(status)] += count
        cell["attempts"] += attempts
        cell["device_hours"][device] = (
            cell["device_hours"].get(device, 0) + microseconds
        )
    for cell in trials.values():
        cell["device_hours"] = {
            device: total / 3.6e9 for device, total in cell["device_hours"].items()
        }
    return {key: _cell(*key, rows.get(key, []), trials[key]) for key in sorted(trials)}


def _cell(
    task: str, method: str, rows: list[dict[str, Any]], trials: dict[str, Any]
) -> BoardCell:
    """Return a cell from its scored records and the counts of all its trials."""
    if not rows:
        return BoardCell(
            task, method, Score(math.nan, math.nan, 0), {}, Provenance(**trials)
        )
    rows = sorted(rows, key=itemgetter("seed"))
    scores = [row["test_score"] for row in rows]
    shared = {
        name: rows[0][name]
        for name in ("body", "hyperparameters", "data_fingerprint", "metric")
    }
    distinct: dict[str, Any] = {
        f"{name}s": tuple(sorted({row[name] for row in rows} - {None}))
        for name in ("version", "torch_version", "device", "processor", "precision")
    }
    provenance = Provenance(
        **trials,
        **shared,
        **distinct,
        metric_version=rows[0]["metric_version"] or 1,
        deterministic=all(row["deterministic"] for row in rows),
        started_at=min(row["started_at"] for row in rows),
        finished_at=max(row["finished_at"] for row in rows),
        notes=tuple(
            dict.fromkeys(
                note
                for row in rows
                for note in (row["notes"] or "").split("; ")
                if note
            )
        ),
    )
    deviation = (
        float(np.std(scores, ddof=1)) if np.ptp(scores) else 0.0
    )  # of equal scores, some 1e-17 otherwise
    score = Score(
        float(np.mean(scores)), deviation if len(rows) > 1 else math.nan, len(rows)
    )
    return BoardCell(
        task,
        method,
        score,
        {int(row["seed"]): row["trial_key"] for row in rows},
        provenance,
        _cost(rows),
    )


def _cost(rows: list[dict[str, Any]]) -> TrialCost:
    def mean(name: str) -> float:
        values = [row[name] for row in rows]
        return math.nan if None in values else math.fsum(values) / len(values)

    stages = ("align_seconds", "refine_seconds", "evaluate_seconds")
    memory = [
        row["peak_memory_mib"] for row in rows if row["peak_memory_mib"] is not None
    ]
    return TrialCost(
        **{
            name: mean(name)
            for name in ("wall_seconds", "num_trainable", "num_parameters")
        },
        device_seconds=math.fsum(
            sum(row[name] for name in stages) * (row["gpus"] or 1.0) for row in rows
        )
        / len(rows),
        peak_memory_mib=max(memory, default=math.nan),
    )
