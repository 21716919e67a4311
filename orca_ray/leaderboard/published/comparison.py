"""Published results for a board: comparable rows, and those that are not."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import pandas as pd

from orca_ray.leaderboard.board import Board, Score
from orca_ray.leaderboard.published import tables
from orca_ray.leaderboard.statistics import ScoreTable, get_statistic
from orca_ray.results.submissions import SubmittedScore, Versions

_OTHERS = (tables.SUBMITTED, tables.IMPORTED)
"""Kinds of rows that come from other people, not from a publication."""
_MAX_NAMES = 6
"""Number of methods that a note on a protocol names."""


def published_for(
    board: Board,
    *,
    imported: Iterable[SubmittedScore] = (),
    tasks: Collection[str] | None = None,
    current: Versions | None = None,
) -> tables.Published | None:
    """Return published results for a board, compared with its scores.

    The results are the published, submitted and ``imported`` rows of the board's
    benchmark; None is returned if there are none. With ``tasks``, rows of other tasks
    are left out.

    A submitted or imported score has no rank if it was made on another version of the
    task's data or metric than the board's own scores (or than ``current``, if the board
    has none on the task). Versions of the data are compared only for tasks that pin
    them by a fingerprint in ``current``, because the data of other tasks may differ by
    rounding.
    """
    versions = dict(current or {})
    for task, info in board.infos.items():
        key = task, info.metric, board.protocol
        _, pinned_fingerprint = versions.get(key, (0, ""))
        fingerprint = info.data_fingerprint if pinned_fingerprint else ""
        versions[key] = (info.metric_version, fingerprint)
    rows = [
        *tables.published_rows(board.benchmark),
        *tables.rows_of_others(board.benchmark, imported, versions),
    ]
    if tasks is not None:
        rows = [row for row in rows if row.task in tasks]
    if not rows:
        return None
    own_rows = []
    for task, info in board.infos.items():
        metric = tables.versioned(info.metric, info.metric_version)
        for method in board.methods:
            score = board.score(task, method)
            if score.n:
                own_rows.append(own_row(task, method, metric, board.protocol, score))
    return compare(
        rows,
        board.benchmark,
        own=own_rows,
        metrics={row.task: row.metric for row in own_rows},
        protocol=board.protocol,
    )


def reason_apart(row: tables.PublishedRow, metric: str | None, protocol: str) -> str:
    """Return why a published row is not comparable with the store's scores, or "".

    ``metric`` is the metric of the store's scores on the row's task, None without
    scores; ``protocol`` is the protocol of the store's scores.
    """
    if row.setting == tables.CLAIM:
        return "statement about the whole benchmark"
    if row.flag:
        return tables.FLAGS[row.flag]
    if metric is None:
        return "no own score on the task"
    if not row.metric:
        return f"its {row.quantity} may not be {metric}"
    if row.metric != metric:
        return f"its metric is {row.metric}, not {metric}"
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
    """Return tables of published rows, and a table with the store's own scores.

    The table with own scores also has the published rows that are comparable to them.
    ``own`` are the own scores (see `own_row`), ``metrics`` the metric of own scores by
    task, and ``protocol`` the protocol of own scores.
    """
    claims = [row for row in rows if row.setting == tables.CLAIM]
    ranked = [
        row for row in rows if row.setting != tables.CLAIM and row.flag != "repeat"
    ]
    sources_of_others = dict.fromkeys(row.source for row in rows if row.kind in _OTHERS)
    numbers = {
        source: number for number, source in enumerate(sources_of_others, start=1)
    }
    reasons = Counter[str]()
    comparable = []
    if own:
        metric_of = metrics or {}
        for row in rows:
            reason = reason_apart(row, metric_of.get(row.task), protocol)
            if reason:
                reasons[reason] += 1
            else:
                comparable.append(row)
    notes = [
        *(f"[{number}] {source}" for source, number in numbers.items()),
        *_notes_of_tasks(ranked),
        *_notes_of_flags(ranked),
        *_notes_of_protocols(ranked),
        *_notes_of_claims(claims),
        *_notes_of_sources([*ranked, *claims]),
    ]
    return tables.Published(
        benchmark=benchmark,
        beside=_beside(own, comparable, numbers),
        tables=tuple(
            _table(title, group, numbers) for title, group in _groups(ranked).items()
        ),
        reasons=dict(reasons.most_common()),
        rows=tuple(rows),
        notes=tuple(dict.fromkeys(notes)),
    )


def _beside(
    own: Sequence[tables.PublishedRow],
    comparable: Sequence[tables.PublishedRow],
    numbers: Mapping[str, int],
) -> tables.PublishedTable | None:
    """Return the table of own and comparable rows; None without comparable rows."""
    if not comparable:
        return None
    tasks = {row.task for row in comparable}
    own_rows = [row for row in own if row.task in tasks]
    title = "own and published scores, same metric and protocol"
    return _table(title, [*own_rows, *comparable], numbers)


def _groups(
    rows: Iterable[tables.PublishedRow],
) -> dict[str, list[tables.PublishedRow]]:
    """Return the rows of each table by its title.

    A table has one setting, and one quantity for each task.
    """
    groups: dict[str, list[tables.PublishedRow]] = {}
    quantities: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        quantities_of_task = quantities.setdefault((row.setting, row.task), [])
        if row.quantity not in quantities_of_task:
            quantities_of_task.append(row.quantity)
        if row.kind in _OTHERS:
            title = f"scores of others: {row.setting}"
        elif row.setting == row.benchmark:
            title = "published"
        else:
            title = f"published in another setting ({row.setting})"
        num_earlier_quantities = quantities_of_task.index(row.quantity)
        title += ", another metric" * num_earlier_quantities
        groups.setdefault(title, []).append(row)
    return groups


def own_row(
    task: str, method: str, metric: str, protocol: str, score: Score
) -> tables.PublishedRow:
    """Return the mean score of a method in the store as a row of kind `OWN`.

    A deviation that is NaN becomes None.
    """
    return tables.PublishedRow(
        task=task,
        method=method,
        metric=metric,
        quantity=metric,
        score=score.mean,
        std=None if math.isnan(score.std) else score.std,
        n=score.n,
        published_metric=metric,
        protocol=protocol,
        kind=tables.OWN,
        source="this store",
    )


def _table(
    title: str, rows: Sequence[tables.PublishedRow], numbers: Mapping[str, int]
) -> tables.PublishedTable:
    """Return a table of rows, with a line for each method and a column for each task.

    If several rows belong to one cell, the first one without a flag is shown.
    ``numbers`` are the numbers of the sources of submitted and imported rows; they
    follow the method's name, since two sources may use the same name.
    """
    unflagged_first = sorted(rows, key=lambda row: bool(row.flag))
    row_of_task: dict[str, tables.PublishedRow] = {}
    for row in unflagged_first:
        if row.kind != tables.OWN:
            row_of_task.setdefault(row.task, row)
    columns = {
        task: tables.Column(
            task, row_of_task[task].quantity, row_of_task[task].published_metric
        )
        for task in dict.fromkeys(row.task for row in rows)
        if task in row_of_task
    }
    cells: dict[tuple[str, tables.Column], tables.PublishedRow] = {}
    for row in unflagged_first:
        name = row.method
        if row.kind == tables.OWN:
            name += ", this store"
        if row.kind in _OTHERS:
            name += f" [{numbers[row.source]}]"
        cells.setdefault((name, columns[row.task]), row)
    all_columns = tuple(columns.values())
    return tables.PublishedTable(
        title, all_columns, cells, _summary(cells, all_columns)
    )


def _summary(
    cells: Mapping[tuple[str, tables.Column], tables.PublishedRow],
    columns: Sequence[tables.Column],
) -> pd.DataFrame:
    """Return mean rank and wins of the methods that have a score in every column.

    Scores with a flag do not count. Other methods have NaN; so have all if fewer than
    two methods have every score.
    """
    methods = list(dict.fromkeys(name for name, _ in cells))
    unflagged = {key: row.score for key, row in cells.items() if not row.flag}
    scores = pd.DataFrame(
        {
            name: [unflagged.get((name, column)) for column in columns]
            for name in methods
        },
        index=[column.task for column in columns],
        columns=methods,
        dtype="float64",
    )
    complete = scores.loc[:, scores.notna().all()]
    if complete.shape[1] < 2:
        complete = complete.iloc[:, :0]
    by_task = complete.rename_axis("task").reset_index()
    rows = by_task.melt("task", var_name="method", value_name="score")
    table = ScoreTable.of(rows.assign(seed=0))
    summary = pd.DataFrame(
        {
            name: get_statistic(name).compute(table)["value"]
            for name in ("mean_rank", "wins")
        }
    )
    return summary.reindex(methods).sort_values("mean_rank", kind="stable")


def _notes_of_tasks(rows: Iterable[tables.PublishedRow]) -> Iterator[str]:
    """Yield a sentence about each task with several published files."""
    for task in sorted({row.task for row in rows} & set(tables.TASKS)):
        yield f"{task} is {tables.TASKS[task]}"


def _notes_of_flags(rows: Iterable[tables.PublishedRow]) -> Iterator[str]:
    """Yield a sentence about each row with a flag."""
    for row in rows:
        if row.flag:
            score = row.published or f"{row.score:.4g}"
            yield (
                f"{row.method} on {row.task}, {score} in {row.source}, is"
                f" {tables.FLAGS[row.flag]}: {row.note}"
            )


def _notes_of_protocols(rows: Iterable[tables.PublishedRow]) -> Iterator[str]:
    """Yield a sentence about each protocol, with the methods that follow it."""
    methods_by_protocol: dict[str, set[str]] = {}
    for row in rows:
        methods_by_protocol.setdefault(row.protocol, set()).add(row.method)
    for protocol, methods in methods_by_protocol.items():
        names = ", ".join(sorted(methods)[:_MAX_NAMES])
        if len(methods) > _MAX_NAMES:
            names += f" and {len(methods) - _MAX_NAMES} more"
        yield f"protocol of {names}: {tables.PROTOCOLS[protocol]}"


def _notes_of_claims(claims: Iterable[tables.PublishedRow]) -> Iterator[str]:
    """Yield a sentence about each claim."""
    for row in claims:
        kind = "" if row.kind == tables.PRIMARY else f"{row.kind}, "
        yield (
            f"stated of {row.method}: {row.published_metric} {row.published}"
            f" ({row.note}; {kind}{row.source})"
        )


def _notes_of_sources(rows: Iterable[tables.PublishedRow]) -> Iterator[str]:
    """Yield a sentence about each source that has a text."""
    texts = tables.sources()
    for source in dict.fromkeys(row.source for row in rows):
        if source in texts:
            yield f"source {source}: {texts[source]}"
