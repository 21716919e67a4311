"""Tables of published results with ranks, and the rule by which a published row stands beside own rows."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from orca_ray.leaderboard.published.rows import (
    CLAIM,
    FLAGS,
    IMPORTED,
    KINDS,
    PRIMARY,
    PROTOCOLS,
    SUBMITTED,
    PublishedRow,
    sources,
)
from orca_ray.leaderboard.statistics import ScoreTable, get_statistic

OWN = "own"
"""The ``kind`` of a row that holds scores of the store's own records."""
_PERCENT = 100.0
_MAX_NAMES = 6
_OTHERS = (SUBMITTED, IMPORTED)


@dataclass(frozen=True)
class Column:
    """A column of a table: a task, what was measured on it, and the unit in which values are shown."""

    task: str
    quantity: str
    unit: str
    """Metric and unit as published, such as "0-1 error (%)"."""

    def text(self, row: PublishedRow) -> str:
        """Return a score in this column's unit: the published digits if they are in it, else four digits."""
        if row.published and row.published_metric == self.unit:
            return row.published
        return f"{(row.score or 0.0) * (_PERCENT if self.unit.endswith(PublishedRow.PERCENT) else 1.0):.4g}"


@dataclass(frozen=True)
class PublishedTable:
    """Rows that are comparable with each other: methods by columns. Ranks and wins are of published means."""

    title: str
    columns: tuple[Column, ...]
    cells: Mapping[tuple[str, Column], PublishedRow]
    """Row by method and column; a missing cell is absent."""
    summary: pd.DataFrame
    """``mean_rank`` and ``wins`` of each method, best first; NaN unless it has a ranked score in every column. Equal
    scores get the average of their ranks, and share a win."""

    @property
    def methods(self) -> list[str]:
        """Names of the methods, lowest mean rank first, then those without one."""
        return list(self.summary.index)

    def kinds(self, method: str) -> list[str]:
        """Return where the scores of a method come from: entries of `KINDS`, or `OWN`."""
        found = {row.kind for (name, _), row in self.cells.items() if name == method}
        return [kind for kind in (OWN, *KINDS) if kind in found]

    def statistics(self, method: str) -> dict[str, float | None]:
        """Return mean rank and wins of a method by name; None where `summary` holds NaN."""
        found = self.summary.to_dict("index")[method]
        return {str(name): None if math.isnan(value) else value for name, value in found.items()}

    def best(self, column: Column) -> list[str]:
        """Return the methods with the lowest ranked score in a column; none if only one has a score."""
        scores = {name: row.score for (name, each), row in self.cells.items() if each == column and not row.flag}
        lowest = min((score for score in scores.values() if score is not None), default=None)
        return [name for name, score in scores.items() if score == lowest] if len(scores) > 1 else []

    def heading(self, benchmark: str) -> str:
        """Return the title, and the metric and unit in which the scores of each task are shown."""
        tasks: dict[str, list[str]] = {}
        for column in self.columns:
            tasks.setdefault(column.unit, []).append(column.task.removeprefix(f"{benchmark}/"))
        return f"{self.title}: " + "; ".join(f"{unit} ({', '.join(names)})" for unit, names in tasks.items())

    def grid(self, benchmark: str, mark: str = "{}*") -> list[list[str]]:
        """Return titles and rows of text; ``mark`` formats the best score of a column, "?" follows a doubtful one."""
        names = [column.task.removeprefix(f"{benchmark}/") for column in self.columns]
        lines = [["method", *names, "mean rank", "wins"]]
        for method in self.methods:
            kinds = [kind for kind in self.kinds(method) if kind not in (OWN, PRIMARY)]
            line = [f"{method} ({', '.join(kinds)})" if kinds else method]
            for column in self.columns:
                row = self.cells.get((method, column))
                text = "–" if row is None else column.text(row) + ("?" if row.flag else "")
                line.append(mark.format(text) if method in self.best(column) else text)
            numbers = self.statistics(method).values()
            lines.append([*line, *("–" if v is None else f"{v:.2f}".removesuffix(".00") for v in numbers)])
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Return the table as plain JSON: each method with its cells by task; NaN becomes None."""
        methods = []
        for method in self.methods:
            cells = {
                column.task: {"text": column.text(row), **asdict(row)}
                for column in self.columns
                if (row := self.cells.get((method, column)))
            }
            methods.append({"name": method, "kinds": self.kinds(method), **self.statistics(method), "cells": cells})
        return {"title": self.title, "columns": [asdict(column) for column in self.columns], "methods": methods}


@dataclass(frozen=True)
class Published:
    """Published results of a benchmark: the comparable ones next to own scores, and all of them by themselves."""

    benchmark: str
    beside: PublishedTable | None
    """Own scores and the published ones with the same task, metric and protocol; None if there are none."""
    tables: tuple[PublishedTable, ...]
    """Tables of all rows that are or could be ranked, as published."""
    reasons: Mapping[str, int]
    """Why rows are not in ``beside``, with the number of rows; empty without own scores."""
    rows: tuple[PublishedRow, ...]
    """All rows that are not hidden, also those that repeat others and claims about the whole benchmark."""
    hidden: Mapping[str, int]
    """Number of rows hidden by kind."""
    notes: tuple[str, ...]
    """Sentences about misprints, doubtful scores and differences of protocol."""

    @property
    def sources(self) -> dict[str, str]:
        """Text of each source of the rows, by key."""
        return {row.source: sources().get(row.source, row.source) for row in self.rows}

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON."""
        return {
            "benchmark": self.benchmark,
            "beside": self.beside and self.beside.to_dict(),
            "tables": [table.to_dict() for table in self.tables],
            "reasons": dict(self.reasons),
            "rows": [asdict(row) for row in self.rows],
            "hidden": dict(self.hidden),
            "notes": list(self.notes),
            "sources": self.sources,
        }


def reason_apart(row: PublishedRow, metric: str | None, protocol: str) -> str:
    """Return why a row cannot stand beside own scores of its task; "" if it can.

    Args:
        row: a published, submitted or imported row.
        metric: metric of the own scores of its task; None if there are none.
        protocol: protocol of the own scores.
    """
    if row.setting == CLAIM:
        return "statement about the whole benchmark"
    if row.flag:
        return FLAGS[row.flag]
    if metric is None:
        return "no own score on the task"
    if row.metric != metric:
        return f"its metric is {row.metric}, not {metric}" if row.metric else f"its {row.quantity} may not be {metric}"
    if row.protocol != protocol:
        return f"{PROTOCOLS[row.protocol]}; own scores: {PROTOCOLS[protocol]}"
    return ""


def compare(
    rows: Sequence[PublishedRow],
    benchmark: str,
    *,
    own: Sequence[PublishedRow] = (),
    metrics: Mapping[str, str] | None = None,
    protocol: str = "",
    hide: Collection[str] = (),
) -> Published:
    """Build the tables of published rows, and a table of those that are comparable with own scores.

    Args:
        rows: rows of the benchmark, such as `published_rows` returns.
        benchmark: its name.
        own: the store's scores as rows of kind `OWN` (see `own_row`).
        metrics: metric of the own scores by task.
        protocol: their protocol, ``paper`` or ``held-out``.
        hide: kinds whose rows are left out.
    """
    shown = tuple(row for row in rows if row.kind not in hide)
    ranked = [row for row in shown if row.setting != CLAIM and row.flag != "repeat"]
    groups: dict[str, list[PublishedRow]] = {}
    quantities: dict[tuple[str, str], list[str]] = {}
    for row in ranked:
        known = quantities.setdefault((row.setting, row.task), [])
        known += [] if row.quantity in known else [row.quantity]
        groups.setdefault(_title(row) + ", another metric" * known.index(row.quantity), []).append(row)
    reasons: Counter[str] = Counter()
    beside = []
    if own:
        for row in shown:
            reason = reason_apart(row, (metrics or {}).get(row.task), protocol)
            reasons.update([reason] if reason else ())
            beside += [] if reason else [row]
    tasks = {row.task for row in beside}
    fair = [*(row for row in own if row.task in tasks), *beside]
    numbers = {source: i for i, source in enumerate(dict.fromkeys(r.source for r in shown if r.kind in _OTHERS), 1)}
    return Published(
        benchmark,
        _table("own and published scores, same metric and protocol", fair, numbers) if beside else None,
        tuple(_table(title, group, numbers) for title, group in groups.items()),
        dict(reasons.most_common()),
        shown,
        Counter(row.kind for row in rows if row.kind in hide),
        tuple(
            dict.fromkeys(
                [
                    *(f"[{number}] {source}" for source, number in numbers.items()),
                    *_notes(ranked, [row for row in shown if row.setting == CLAIM]),
                ]
            )
        ),
    )


def own_row(task: str, method: str, metric: str, protocol: str, mean: float, std: float, n: int) -> PublishedRow:
    """Return the mean score of a method in the store as a row of kind `OWN`; a NaN ``std`` becomes None."""
    return PublishedRow(
        task=task, method=method, metric=metric, quantity=metric, score=mean, std=None if math.isnan(std) else std, n=n,
        published="", published_std="", published_metric=metric, direction="lower", protocol=protocol, setting="",
        kind=OWN, flag="", source="this store", note="",
    )  # fmt: skip


def _title(row: PublishedRow) -> str:
    if row.kind in _OTHERS:
        return f"scores of others: {row.setting}"
    return "published" if row.setting == row.benchmark else f"published in another setting ({row.setting})"


def _table(title: str, rows: Sequence[PublishedRow], numbers: Mapping[str, int]) -> PublishedTable:
    """Return a table; of several rows for a cell, one without a flag wins, then the first.

    ``numbers`` are those of the sources of other people's rows. They keep methods of equal name apart.
    """
    ordered = sorted(rows, key=lambda row: bool(row.flag))
    units = {row.task: row for row in reversed(ordered) if row.kind != OWN}
    columns = {
        task: Column(task, units[task].quantity, units[task].published_metric)
        for task in dict.fromkeys(row.task for row in rows if row.task in units)
    }
    cells: dict[tuple[str, Column], PublishedRow] = {}
    for row in ordered:
        name = f"{row.method}, this store" if row.kind == OWN else row.method
        name += f" [{numbers[row.source]}]" if row.kind in _OTHERS else ""
        cells.setdefault((name, columns[row.task]), row)
    return PublishedTable(title, tuple(columns.values()), cells, _summary(cells, tuple(columns.values())))


def _summary(cells: Mapping[tuple[str, Column], PublishedRow], columns: Sequence[Column]) -> pd.DataFrame:
    methods = list(dict.fromkeys(name for name, _ in cells))
    scores = {
        name: {c.task: cells[name, c].score for c in columns if (name, c) in cells and not cells[name, c].flag}
        for name in methods
    }
    means = pd.DataFrame(scores, index=[c.task for c in columns], columns=methods, dtype="float64")
    complete = means.loc[:, means.notna().all()]
    if complete.shape[1] < 2:
        complete = complete.iloc[:, :0]
    table = complete.rename_axis("task").reset_index().melt("task", var_name="method", value_name="score")
    ranked = ScoreTable.of(table.assign(seed=0))
    found = pd.DataFrame({name: get_statistic(name).compute(ranked)["value"] for name in ("mean_rank", "wins")})
    return found.reindex(methods).sort_values("mean_rank", kind="stable")


def _notes(ranked: Sequence[PublishedRow], claims: Iterable[PublishedRow]) -> Iterator[str]:
    for row in ranked:
        if row.flag:
            yield f"{row.method} on {row.task}, {row.published} in {row.source}, is {FLAGS[row.flag]}: {row.note}"
    protocols: dict[str, set[str]] = {}
    for row in ranked:
        protocols.setdefault(row.protocol, set()).add(row.method)
    for protocol, methods in protocols.items():
        yield f"protocol of {_listed(methods)}: {PROTOCOLS[protocol]}"
    for row in claims:
        kind = "" if row.kind == PRIMARY else f"{row.kind}, "
        yield f"stated of {row.method}: {row.published_metric} {row.published} ({row.note}; {kind}{row.source})"
    for key in dict.fromkeys(row.source for row in (*ranked, *claims)):
        if key in sources():
            yield f"source {key}: {sources()[key]}"


def _listed(methods: Collection[str]) -> str:
    named = sorted(methods)
    return ", ".join(named[:_MAX_NAMES]) + (f" and {len(named) - _MAX_NAMES} more" if len(named) > _MAX_NAMES else "")
