"""Tables of published results with ranks, and their text and JSON."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from orca_ray.leaderboard.published.rows import KINDS, PRIMARY, PublishedRow, sources

OWN = "own"
"""The ``kind`` of a row that holds scores of the store's own records."""


@dataclass(frozen=True)
class Column:
    """A column of a table: a task, what was measured on it, and the unit in which values are shown."""

    task: str
    quantity: str
    unit: str
    """Metric and unit as published, such as "0-1 error (%)"."""

    def text(self, row: PublishedRow) -> str:
        """Return a score in this column's unit, with the published digits if it was published in it, else with four."""
        if row.published and row.published_metric == self.unit:
            return row.published
        scale = 100.0 if self.unit.endswith("(%)") else 1.0
        return f"{(row.score or 0.0) * scale:.4g}"


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
        """Names of the methods, lowest mean rank first, then methods without a rank."""
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
        """Return titles and rows of text; ``mark`` formats the best score of a column, "?" follows a doubtful score."""
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
    """Own scores and the published scores with the same task, metric and protocol; None if there are no such scores."""
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
