"""Select the records that a leaderboard counts, and build the board from them."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from orca_ray.errors import UserError, nearest, printable, shorten
from orca_ray.leaderboard.board import Board, Other, TaskInfo, score_table
from orca_ray.leaderboard.cells import board_cells
from orca_ray.leaderboard.statistics import ScoreTable, get_statistic
from orca_ray.results.record import Status
from orca_ray.results.scan import StoreSnapshot
from orca_ray.results.store import ResultsStore
from orca_ray.results.tables import RECORDS, invalid_rows

_COMPLETED = Status.COMPLETED.value
"""Status of a trial whose score counts."""
_FAILED = [status.value for status in Status if status.failed]
"""Statuses of trials without a usable score."""
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
"""Columns of confirm records that decide which of them count."""


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
    scan = _snapshot(records)
    # Groups of records with equal `_KEYS`, also of tasks that are left out below.
    all_groups = _tally(scan, benchmark)
    is_unknown = pd.Series(False, index=all_groups.index)
    if known_tasks is not None:
        is_unknown = ~all_groups["task"].isin(known_tasks)
    groups = all_groups[~is_unknown]
    if groups.empty:
        _refuse(scan, benchmark, set(all_groups["task"]))
    available = _available(groups)
    pair = _preferred_pair(groups, available, sweep, protocol)
    is_of_pair = (groups["sweep"] == pair.sweep) & (groups["protocol"] == pair.protocol)
    groups = groups[is_of_pair]
    groups = groups.assign(label=_labels(groups))
    state = _state(groups)
    wanted = {
        "benchmark": [benchmark],
        "sweep": [pair.sweep],
        "protocol": [pair.protocol],
        "phase": ["confirm"],
        "status": [_COMPLETED],
        "task": list(state.index),
    }
    confirmed, invalid_warnings = _confirmed(scan, wanted)
    scored, notes = _scored(confirmed, groups, state)
    methods = sorted(groups["label"].unique())
    scores = score_table(scored)
    table = ScoreTable.of(scores)
    ranks = get_statistic("mean_rank").compute(table)["value"]
    return Board(
        benchmark=benchmark,
        sweep=pair.sweep,
        protocol=pair.protocol,
        infos={
            str(task): TaskInfo(str(task), str(metric), int(version), str(data))
            for task, data, metric, version in state.itertuples()
        },
        methods=tuple(ranks.reindex(methods).sort_values(kind="stable").index),
        scores=scores,
        cells=board_cells(scan, groups, scored),
        floors=dict(zip(table.tasks, table.floors_T.tolist(), strict=True)),
        others=tuple(other for other in available if other != pair),
        notes=tuple(notes),
        warnings=(
            *scan.warnings,
            *_unknown_task_warnings(all_groups[is_unknown], benchmark),
            *invalid_warnings,
        ),
    )


def _snapshot(records: ResultsStore | StoreSnapshot | pd.DataFrame) -> StoreSnapshot:
    """Return the snapshot of the records that are given to `build` in any form."""
    if isinstance(records, ResultsStore):
        return records.scan()
    if isinstance(records, pd.DataFrame):
        return StoreSnapshot.of_frame(records)
    return records


def _unknown_task_warnings(groups: pd.DataFrame, benchmark: str) -> list[str]:
    """Return a warning for each task of ``groups``, which the benchmark lacks."""
    counts = groups.groupby("task")["count"].sum()
    return [
        f"{count} record(s) of the task {shorten(repr(task))}, which {benchmark} does"
        " not have, left out"
        for task, count in counts.items()
    ]


def _refuse(
    scan: StoreSnapshot, benchmark: str, unknown_tasks: Collection[str]
) -> NoReturn:
    """Raise UserError, as a benchmark has no records of tasks that are known here.

    The message says whether the benchmark has no records at all, or only records of
    ``unknown_tasks``.
    """
    names = pd.DataFrame({"benchmark": scan.values("benchmark")})
    select(
        names, "benchmark", benchmark, f"run `orca-sweep benchmark {benchmark}` first."
    )
    tasks = shorten(", ".join(sorted(map(repr, unknown_tasks))), 300)
    raise UserError(
        f"all records of {benchmark!r} are of tasks that it does not have here:"
        f" {tasks}. Install the plug-in, or the version of orca-ray, that has these"
        " tasks."
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
"""Arrow types of the columns of `_tally` that are no text."""
_SUMS = {"count": "sum", "microseconds": "sum", "attempts": "sum", "finished_at": "max"}
"""How the other columns of `_tally` are combined within a group."""


def _tally(scan: StoreSnapshot, benchmark: str) -> pd.DataFrame:
    """Return counts and sums of the current records of a benchmark, by group.

    The frame has one row per group. Columns are `_KEYS`, ``seed`` (of confirm trials;
    -1 for search trials), ``count`` (number of records), ``microseconds`` (sum of wall
    times, each times the trial's number or share of GPUs where this is known and not
    0), ``attempts`` (sum) and ``finished_at`` (last).
    """
    columns = [*_KEYS, "seed", "wall_seconds", "gpus", "attempts", "finished_at"]
    batches = scan.batches(columns, {"benchmark": [benchmark]})
    groups = [_groups(table) for _, table in batches]
    if not groups:
        return pd.DataFrame(columns=[*_KEYS, "seed", *_SUMS])
    return _grouped(pa.concat_tables(groups)).to_pandas()  # type: ignore[no-any-return]


def _groups(table: Any) -> Any:
    """Return counts and sums of one batch of records, a row for each key and seed.

    The columns are those of `_tally`.
    """
    gpus = np.nan_to_num(table["gpus"].to_numpy(), nan=1.0)
    num_devices = np.where(gpus > 0, gpus, 1.0)  # a trial on the CPU has 0 GPUs
    seconds = np.nan_to_num(table["wall_seconds"].to_numpy()) * num_devices
    is_confirm = pc.equal(table["phase"].cast(pa.string()), "confirm")
    columns = {
        **{name: table[name] for name in _KEYS},
        "metric_version": table["metric_version"].fill_null(1),
        # The seeds of search trials are not counted apart.
        "seed": pc.if_else(is_confirm, table["seed"], -1),
        "count": np.ones(len(table), np.int64),
        # Whole microseconds have the same sum in any order of the files.
        "microseconds": np.rint(np.clip(seconds, 0, 1e9) * 1e6).astype(np.int64),
        "attempts": table["attempts"],
        "finished_at": table["finished_at"],
    }
    # Text that is dictionary-encoded is grouped five times faster than when it is
    # expanded.
    groups = _grouped(pa.table(columns).unify_dictionaries())
    types = [(name, _TYPES.get(name, pa.string())) for name in columns]
    return groups.cast(pa.schema(types))


def _grouped(table: Any) -> Any:
    """Return a table with one row per group, combined as `_SUMS` says."""
    groups = table.group_by([*_KEYS, "seed"], use_threads=False)
    combined = groups.aggregate(list(_SUMS.items()))
    return combined.rename_columns([*_KEYS, "seed", *_SUMS])


def _scored(
    confirmed: pd.DataFrame, groups: pd.DataFrame, state: pd.DataFrame
) -> tuple[pd.DataFrame, list[str]]:
    """Return `confirmed_scores` with the columns of a score table, and notes.

    There is one score for each task, method of the board and seed.
    """
    key = ["method", "task", "body"]
    labels = groups.drop_duplicates(key)[[*key, "label"]]
    labelled = confirmed.merge(labels, on=key, how="left")
    scored, notes = confirmed_scores(labelled, state)
    is_repeated = (
        scored.sort_values("finished_at", kind="stable")
        .duplicated(["task", "label", "seed"], keep="last")
        .sort_index()
    )
    if is_repeated.any():
        scored = scored[~is_repeated]
        notes.append(
            f"{int(is_repeated.sum())} confirm trial(s) of a seed that has a later one"
            " left out"
        )
    scores = scored["test_score"].astype("float64")
    return scored.assign(method=scored["label"], score=scores), notes


def _confirmed(
    scan: StoreSnapshot, wanted: Mapping[str, Collection[str]]
) -> tuple[pd.DataFrame, list[str]]:
    """Return the valid ``wanted`` records, and a warning if some are invalid.

    ``wanted`` has the allowed values by column. The columns of the result are
    ``position`` (in the snapshot of the store) and `_SCORED`.
    """
    schema = pa.schema([RECORDS.schema.field(name) for name in _SCORED])
    tables = [schema.empty_table()]
    positions = [np.empty(0, np.int64)]
    num_invalid = 0
    example = ""
    for batch_positions, table in scan.batches(_SCORED, wanted):
        valid = np.ones(len(batch_positions), dtype=bool)
        for invalid in invalid_rows(table.select(["hyperparameters"]), RECORDS):
            valid = ~invalid.is_wrong.to_numpy()
            if not example:
                example = invalid.value
        num_invalid += int((~valid).sum())
        tables.append(table.filter(pa.array(valid)).cast(schema))
        positions.append(batch_positions[valid])
    confirmed: pd.DataFrame = pa.concat_tables(tables).to_pandas()
    confirmed = confirmed.assign(position=np.concatenate(positions))
    warnings = []
    if num_invalid:
        warnings.append(
            f"{num_invalid} record(s) left out: hyperparameters"
            f" {shorten(repr(example), 80)} are no JSON object"
        )
    return confirmed, warnings


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
    """Return every (sweep, protocol) of the tally, sorted by preference as in `build`.

    The one that a leaderboard shows if no sweep and protocol are given comes first.
    """
    key = ["sweep", "protocol"]
    is_confirmed = (groups["phase"] == "confirm") & (groups["status"] == _COMPLETED)
    completed = groups[is_confirmed]
    # A grid has many confirm trials of one task, method and seed; a leaderboard shows
    # only one of them.
    shown = completed.drop_duplicates([*key, "task", "method", "body", "seed"])
    table = groups.groupby(key).agg(latest=("finished_at", "max"))
    table["confirmed"] = completed.groupby(key)["count"].sum()
    table["scores"] = shown.groupby(key).size()
    table = table.fillna({"confirmed": 0, "scores": 0}).reset_index()
    table = table.sort_values(["scores", "latest"], ascending=False, kind="stable")
    rows = table[[*key, "confirmed"]].itertuples(index=False)
    return [
        Other(str(sweep), str(protocol), int(confirmed))
        for sweep, protocol, confirmed in rows
    ]


def _preferred_pair(
    groups: pd.DataFrame,
    available: Sequence[Other],
    sweep: str | None,
    protocol: str | None,
) -> Other:
    """Return the preferred pair that matches ``sweep`` and ``protocol``.

    Raises UserError if there is none.
    """
    if sweep is not None:
        groups = select(groups, "sweep", sweep, "")
    if protocol is not None:
        select(groups, "protocol", protocol, "")  # for its error
    return next(
        pair
        for pair in available
        if sweep in (None, pair.sweep) and protocol in (None, pair.protocol)
    )


def _labels(rows: pd.DataFrame) -> "pd.Series[str]":
    """Return the name on the board of each row's method: "method" or "method (body)".

    The body is named if the method has several bodies on at least one task.
    """
    bodies_on_tasks = rows.groupby(["method", "task"])["body"].nunique()
    num_bodies = bodies_on_tasks.groupby("method").max()
    has_several = rows["method"].map(num_bodies) > 1
    with_body = rows["method"] + " (" + rows["body"] + ")"
    return rows["method"].where(~has_several, with_body)


def _state(rows: pd.DataFrame) -> pd.DataFrame:
    """Return each task's data and metric (`STATE`) in its last trial that succeeded.

    If every trial of a task failed, its last trial counts.
    """
    rows = rows.assign(succeeded=~rows["status"].isin(_FAILED))
    ordered = rows.sort_values(["succeeded", "finished_at"], kind="stable")
    last = ordered.drop_duplicates("task", keep="last")
    return last.set_index("task")[STATE].sort_index()


def grid_scores(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return `confirmed_scores` of the completed confirm trials among ``rows``.

    ``rows`` are records of all phases and statuses, with a column ``label``.
    """
    rows = rows.assign(metric_version=rows["metric_version"].fillna(1).astype("int64"))
    is_confirmed = (rows["phase"] == "confirm") & (rows["status"] == _COMPLETED)
    return confirmed_scores(rows[is_confirmed], _state(rows))


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
    num_missing = len(confirmed) - len(scored)
    if num_missing:
        notes.append(
            f"{num_missing} completed confirm trial(s) without a test score left out"
        )

    metric_version = scored["metric_version"].fillna(1).astype("int64")
    scored = scored.assign(metric_version=metric_version)
    current = scored.merge(state.reset_index(), on=["task", *STATE])
    num_old = len(scored) - len(current)
    if num_old:
        notes.append(
            f"{num_old} confirm trial(s) on an earlier version of their task's data or"
            " metric left out"
        )

    key = ["task", "label", "hyperparameters"]
    configurations = current.groupby(key, sort=True).agg(
        num_seeds=("seed", "nunique"), latest=("finished_at", "max")
    )
    ordered = configurations.reset_index().sort_values(
        ["num_seeds", "latest"], kind="stable"
    )
    preferred = ordered.drop_duplicates(["task", "label"], keep="last")
    averaged = current.merge(preferred[key], on=key)
    num_other = len(current) - len(averaged)
    if num_other:
        notes.append(
            f"{num_other} confirm trial(s) of other configurations, with fewer seeds or"
            " older, left out"
        )
    return averaged, notes
