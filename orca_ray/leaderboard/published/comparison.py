"""Published results for a board: comparable rows, and those that are not."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import pandas as pd

from orca_ray.leaderboard.board import Board
from orca_ray.leaderboard.published import tables
from orca_ray.leaderboard.statistics import ScoreTable, get_statistic
from orca_ray.results.submissions import SubmittedScore, Versions

_OTHERS = (tables.SUBMITTED, tables.IMPORTED)
_MAX_NAMES = 6
"""Number of methods that a note on a protocol names."""


def published_for(
    board: Board,
    *,
    imported: Iterable[SubmittedScore] = (),
    tasks: Collection[str] | None = None,
    current: Versions | None = None,
) -> tables.Published | None:
    """Compare a board with scores of others; None if there are none.

    These are the published, submitted and ``imported`` rows of its benchmark. With
    ``tasks``, rows of other tasks are left out. Submitted and imported scores of
    another version of their task's data or metric have no rank: another one than that
    of the board's own scores or, without own ones, ``current``. Data are compared for
    tasks that pin them, i.e. have a fingerprint in ``current``: others may differ by
    rounding.
    """
    versions = dict(current or {})
    for task, info in board.infos.items():
        key = task, info.metric, board.protocol
        pinned = versions.get(key, (0, ""))[1]
        versions[key] = info.metric_version, info.data_fingerprint if pinned else ""
    rows = [
        *tables.published_rows(board.benchmark),
        *tables.rows_of_others(board.benchmark, imported, versions),
    ]
    if tasks is not None:
        rows = [row for row in rows if row.task in tasks]
    if not rows:
        return None
    metrics: dict[str, str] = {}
    own = []
    for task, info in board.infos.items():
        # Rows are matched with the first version of a metric's definition; a later one
        # is another metric.
        metric = info.metric + (
            "" if info.metric_version == 1 else f" (version {info.metric_version})"
        )
        for method in board.methods:
            if (score := board.score(task, method)).n:
                metrics[task] = metric
                own.append(own_row(task, method, metric, board.protocol, *score))
    return compare(
        rows, board.benchmark, own=own, metrics=metrics, protocol=board.protocol
    )


def reason_apart(row: tables.PublishedRow, metric: str | None, protocol: str) -> str:
    """Return why a published row is not comparable with the store's scores; "" if it is.

    ``metric`` is the metric of the store's scores on the row's task, None without
    scores; ``protocol`` is the protocol of the store's scores.
    """
    if row.setting == tables.CLAIM:
        return "statement about the whole benchmark"
    if row.flag:
        return tables.FLAGS[row.flag]
    if metric is None:
        return "no own score on the task"
    if row.metric != metric:
        return (
            f"its metric is {row.metric}, not {metric}"
            if row.metric
            else f"its {row.quantity} may not be {metric}"
        )
    if row.protocol != protocol:
        return (
            f"{tables.PROTOCOLS[row.protocol]}; own scores:"
            f" {tables.PROTOCOLS[protocol]}"
        )
    return ""


def compare(
    rows: Sequence[tables.PublishedRow],
    benchmark: str,
    *,
    own: Sequence[tables.PublishedRow] = (),
    metrics: Mapping[str, str] | None = None,
    protocol: str = "",
) -> tables.Published:
    """Return tables of published rows, and a table with the store's scores.

    The latter has the published rows that are comparable to the store's scores. ``own``
    are the store's scores (see `own_row`), ``metrics`` the metric of own scores by
    task, and ``protocol`` the protocol of own scores.
    """
    ranked = [
        row for row in rows if row.setting != tables.CLAIM and row.flag != "repeat"
    ]
    claims = [row for row in rows if row.setting == tables.CLAIM]
    others = dict.fromkeys(row.source for row in rows if row.kind in _OTHERS)
    numbers = {source: number for number, source in enumerate(others, start=1)}
    reasons = (
        [reason_apart(row, (metrics or {}).get(row.task), protocol) for row in rows]
        if own
        else []
    )
    beside = [row for row, reason in zip(rows, reasons, strict=False) if not reason]
    tasks = {row.task for row in beside}
    fair = [*(row for row in own if row.task in tasks), *beside]
    notes = [
        *(f"[{number}] {source}" for source, number in numbers.items()),
        *_notes(ranked, claims),
    ]
    return tables.Published(
        benchmark=benchmark,
        beside=(
            _table("own and published scores, same metric and protocol", fair, numbers)
            if beside
            else None
        ),
        tables=tuple(
            _table(title, group, numbers) for title, group in _groups(ranked).items()
        ),
        reasons=dict(Counter(filter(None, reasons)).most_common()),
        rows=tuple(rows),
        notes=tuple(dict.fromkeys(notes)),
    )


def _groups(
    rows: Iterable[tables.PublishedRow],
) -> dict[str, list[tables.PublishedRow]]:
    """Return the rows of each table by its title.

    A table has one setting, and one quantity for each task.
    """
    groups: dict[str, list[tables.PublishedRow]] = {}
    quantities: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        known = quantities.setdefault((row.setting, row.task), [])
        known += [] if row.quantity in known else [row.quantity]
        title = (
            "published"
            if row.setting == row.benchmark
            else f"published in another setting ({row.setting})"
        )
        if row.kind in _OTHERS:
            title = f"scores of others: {row.setting}"
        groups.setdefault(
            title + ", another metric" * known.index(row.quantity), []
        ).append(row)
    return groups


def own_row(
    task: str, method: str, metric: str, protocol: str, mean: float, std: float, n: int
) -> tables.PublishedRow:
    """Return the mean score of a method in the store as a row of kind `OWN`."""
    return tables.PublishedRow(
        task=task,
        method=method,
        metric=metric,
        quantity=metric,
        score=mean,
        std=None if math.isnan(std) else std,
        n=n,
        published_metric=metric,
        protocol=protocol,
        kind=tables.OWN,
        source="this store",
    )


def _table(
    title: str, rows: Sequence[tables.PublishedRow], numbers: Mapping[str, int]
) -> tables.PublishedTable:
    """Return a table; of several rows for a cell, the first without a flag counts.

    ``numbers`` are the numbers of the sources of other people's rows, which keep
    methods of equal name apart.
    """
    ordered = sorted(rows, key=lambda row: bool(row.flag))
    units = {row.task: row for row in reversed(ordered) if row.kind != tables.OWN}
    columns = {
        task: tables.Column(task, units[task].quantity, units[task].published_metric)
        for task in dict.fromkeys(row.task for row in rows if row.task in units)
    }
    cells: dict[tuple[str, tables.Column], tables.PublishedRow] = {}
    for row in ordered:
        name = f"{row.method}, this store" if row.kind == tables.OWN else row.method
        name += f" [{numbers[row.source]}]" if row.kind in _OTHERS else ""
        cells.setdefault((name, columns[row.task]), row)
    return tables.PublishedTable(
        title, tuple(columns.values()), cells, _summary(cells, tuple(columns.values()))
    )


def _summary(
    cells: Mapping[tuple[str, tables.Column], tables.PublishedRow],
    columns: Sequence[tables.Column],
) -> pd.DataFrame:
    methods = list(dict.fromkeys(name for name, _ in cells))
    scores = {
        name: {
            c.task: cells[name, c].score
            for c in columns
            if (name, c) in cells and not cells[name, c].flag
        }
        for name in methods
    }
    means = pd.DataFrame(
        scores, index=[c.task for c in columns], columns=methods, dtype="float64"
    )
    complete = means.loc[:, means.notna().all()]
    if complete.shape[1] < 2:
        complete = complete.iloc[:, :0]
    table = (
        complete.rename_axis("task")
        .reset_index()
        .melt("task", var_name="method", value_name="score")
    )
    ranked = ScoreTable.of(table.assign(seed=0))
    found = pd.DataFrame(
        {
            name: get_statistic(name).compute(ranked)["value"]
            for name in ("mean_rank", "wins")
        }
    )
    return found.reindex(methods).sort_values("mean_rank", kind="stable")


def _notes(
    ranked: Sequence[tables.PublishedRow], claims: Iterable[tables.PublishedRow]
) -> Iterator[str]:
    for row in ranked:
        if row.flag:
            flag = tables.FLAGS[row.flag]
            score = row.published or f"{row.score:.4g}"
            yield (
                f"{row.method} on {row.task}, {score} in {row.source}, is {flag}:"
                f" {row.note}"
            )
    protocols: dict[str, set[str]] = {}
    for row in ranked:
        protocols.setdefault(row.protocol, set()).add(row.method)
    for protocol, methods in protocols.items():
        named = sorted(methods)[:_MAX_NAMES]
        more = len(methods) - _MAX_NAMES
        listed = ", ".join(named) + (f" and {more} more" if more > 0 else "")
        yield f"protocol of {listed}: {tables.PROTOCOLS[protocol]}"
    for row in claims:
        kind = "" if row.kind == tables.PRIMARY else f"{row.kind}, "
        yield (
            f"stated of {row.method}: {row.published_metric} {row.published}"
            f" ({row.note}; {kind}{row.source})"
        )
    for key in dict.fromkeys(row.source for row in (*ranked, *claims)):
        if key in tables.sources():
            yield f"source {key}: {tables.sources()[key]}"
