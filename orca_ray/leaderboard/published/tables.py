"""Published scores: rows of packaged and submitted files, and ranked tables."""

import csv
import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from orca_ray.discovery import tables
from orca_ray.leaderboard.board import lowest_of
from orca_ray.results.submissions import (
    SubmittedScore,
    Versions,
    merge_scores,
    parse_scores,
)

PRIMARY = "primary"
"""The ``kind`` of a row whose score was read where its authors published it."""
SUBMITTED = "submitted"
"""The ``kind`` of a row of a file that came by pull request."""
IMPORTED = "imported"
"""The ``kind`` of a row of a file given to `orca-sweep results import`."""
KINDS = (PRIMARY, "digitised", "secondary", SUBMITTED, IMPORTED)
"""Where a score was read.

``primary``: in a table, notebook or page of its authors; ``digitised``: off the bars of
their figure; ``secondary``: in somebody else's transcription; ``submitted``: in a file
that came by pull request; ``imported``: in a file given to `orca-sweep results import`.
"""

OWN = "own"
"""The ``kind`` of a row that holds scores of the store's own records."""

_WORDS = tables("orca_ray.leaderboard.published", "words.toml")
PROTOCOLS: Mapping[str, str] = _WORDS["protocols"]
"""Description of each protocol of published scores."""
FLAGS: Mapping[str, str] = _WORDS["flags"]
"""Description of each flag that a published score may have."""
TASKS: Mapping[str, str] = _WORDS["tasks"]
"""What the data of a task are, by full name, for tasks with several published files."""
CLAIM = "claim"
"""The ``setting`` of a statement about a whole benchmark.

The ``task`` of such a row is the benchmark, and it has no score.
"""

_FOLDER = Path(__file__).parent
"""Folder of the packaged tables."""
_NUMBERS = {"score": float, "std": float, "n": int}
"""Columns of the packaged tables that hold numbers, with their types."""


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """One published result.

    ``score`` and ``std`` are in the unit of ``metric``; lower is better.
    """

    task: str
    """Full name of the task."""
    method: str
    """The method as its source calls it.

    Its hyper-parameters and body are not those of a recipe of the same name.
    """
    metric: str
    """Name of the metric of orca-ray that is equal to the published one; "": none."""
    quantity: str
    """Quantity that was measured, normalised to lower is better.

    Only rows of one quantity are comparable.
    """
    score: float | None
    """The score; None for a `CLAIM`."""
    std: float | None
    n: int | None
    """Number of seeds; None if the source does not state it."""
    published: str = ""
    """The score with the digits of its source."""
    published_std: str = ""
    published_metric: str
    """Name and unit of the metric in the source.

    If it ends with "(%)", ``score`` is a fraction.
    """
    direction: str = "lower"
    """``lower`` or ``higher``: which published values are better."""
    protocol: str
    """A key of `PROTOCOLS`."""
    setting: str = ""
    """Experimental setting.

    Rows with the same task, quantity and setting are comparable, and are ranked
    together.
    """
    kind: str
    """Where the score was read; one of `KINDS`."""
    flag: str = ""
    """Key of `FLAGS`; "": no flag."""
    source: str
    """Key of `sources`, or for submitted and imported rows the source itself."""
    note: str = ""
    metric_version: int = 1
    data_fingerprint: str = ""
    """Fingerprint of the data that the score was made on; "": not stated.

    Only submitted and imported scores have one.
    """

    @property
    def benchmark(self) -> str:
        """Name of the benchmark."""
        return self.task.partition("/")[0]


@functools.cache
def sources() -> dict[str, str]:
    """Return the text of each source by its key.

    The text names the publication, the table or figure, and where it was seen.
    """
    return {row["source"]: row["text"] for row in _read("sources.csv")}


@functools.cache
def all_published() -> tuple[PublishedRow, ...]:
    """Return the published rows of all benchmarks, in the order of their tables."""
    rows = []
    for row in _read("results.csv"):
        numbers = {
            name: number_type(row[name]) if row[name] else None
            for name, number_type in _NUMBERS.items()
        }
        rows.append(PublishedRow(**{**row, **numbers}))  # type: ignore[arg-type]
    return tuple(rows)


def published_rows(benchmark: str) -> list[PublishedRow]:
    """Return the published rows of a benchmark, without submitted and imported ones."""
    return [row for row in all_published() if row.benchmark == benchmark]


def _read(name: str) -> list[dict[str, str]]:
    with (_FOLDER / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


FOLDER = Path(__file__).with_name("submitted")
"""Folder of the CSV files that came by pull request.

`orca-sweep results check` and the tests check every file.
"""


@functools.cache
def shipped_scores() -> tuple[SubmittedScore, ...]:
    """Return the scores in the files of `FOLDER`."""
    files = [
        (path.name, parse_scores(path.read_bytes(), path.name, None))
        for path in sorted(FOLDER.glob("*.csv"))
    ]
    scores, _ = merge_scores(files)
    return tuple(scores)


def versioned(metric: str, version: int) -> str:
    """Return the name of a version of a metric's definition.

    Published rows are compared with the first version; a later one is another metric.
    """
    return metric if version == 1 else f"{metric} (version {version})"


def rows_of_others(
    benchmark: str, imported: Iterable[SubmittedScore], current: Versions
) -> list[PublishedRow]:
    """Return the shipped and ``imported`` scores of a benchmark as rows.

    A row is the mean over a method's seeds. Rows of another version of their task's
    data or metric than the ``current`` one get a flag.
    """
    rows = []
    for kind, scores in ((SUBMITTED, shipped_scores()), (IMPORTED, imported)):
        groups: dict[tuple[object, ...], list[SubmittedScore]] = {}
        for score in scores:
            if score.task.partition("/")[0] == benchmark:
                change = score.version_change(current)
                key = (score.group, score.metric_version, change)
                groups.setdefault(key, []).append(score)
        rows += [_mean_row(kind, group, current) for group in groups.values()]
    return rows


def _mean_row(
    kind: str, scores: list[SubmittedScore], current: Versions
) -> PublishedRow:
    """Return the mean over the seeds of one method as a row.

    ``scores`` are those of all seeds or, if the file has a mean, that mean.
    """
    first = scores[0]
    values = [score.score for score in scores]
    # A score without a seed is a mean over an unknown number of seeds.
    is_mean = len(values) == 1 and first.seed is None
    metric = versioned(first.metric, first.metric_version)
    change = first.version_change(current)
    flag = ""
    note = ""
    if change:
        flag = "version"
        note = f"{change}; replace the file by new scores"
    return PublishedRow(
        task=first.task,
        method=first.method,
        metric=metric,
        quantity=metric,
        score=float(np.mean(values)),
        std=float(np.std(values, ddof=1)) if len(values) > 1 else first.std,
        n=None if is_mean else len(values),
        published_metric=first.metric,
        protocol=first.protocol,
        setting=f"{kind}, protocol {first.protocol}",
        kind=kind,
        source=first.source,
        flag=flag,
        note=note,
        metric_version=first.metric_version,
        data_fingerprint=first.data_fingerprint,
    )


@dataclass(frozen=True)
class Column:
    """A column of a table: a task, a quantity, and the unit of the shown values."""

    task: str
    quantity: str
    unit: str
    """Metric and unit as published, such as "0-1 error (%)"."""

    def text(self, row: PublishedRow) -> str:
        """Return a score in this column's unit.

        If the score was published in this unit, the text is the published one; else it
        has four significant digits.
        """
        if row.published and row.published_metric == self.unit:
            return row.published
        score = 0.0 if row.score is None else row.score
        if self.unit.endswith("(%)"):
            score *= 100.0
        return f"{score:.4g}"


@dataclass(frozen=True)
class PublishedTable:
    """Table of comparable published rows: one line per method, one cell per `Column`.

    Ranks and wins compare means.
    """

    title: str
    columns: tuple[Column, ...]
    cells: Mapping[tuple[str, Column], PublishedRow]
    """Row by method and column; a missing cell is absent."""
    summary: pd.DataFrame
    """``mean_rank`` and ``wins`` of each method, best first.

    Both are NaN for a method without a ranked score in some column, and if fewer than
    two methods have all. Equal scores get the average of their ranks, and share a win.
    """

    @property
    def methods(self) -> list[str]:
        """Names of the methods, lowest mean rank first, then methods without a rank."""
        return list(self.summary.index)

    def kinds(self, method: str) -> list[str]:
        """Return the kinds of a method's scores: entries of `KINDS`, or `OWN`."""
        kinds = {row.kind for (name, _), row in self.cells.items() if name == method}
        return [kind for kind in (OWN, *KINDS) if kind in kinds]

    def statistics(self, method: str) -> dict[str, float | None]:
        """Return ``mean_rank`` and ``wins`` of a method; None where undefined."""
        values = self.summary.to_dict("index")[method]
        return {
            str(name): None if math.isnan(value) else value
            for name, value in values.items()
        }

    def best(self, column: Column) -> list[str]:
        """Return the methods with the lowest score in a column.

        Scores with a flag do not count. Returns [] if there are fewer than two scores.
        """
        return lowest_of(
            {
                name: row.score
                for (name, row_column), row in self.cells.items()
                if row_column == column and not row.flag and row.score is not None
            }
        )

    def heading(self, benchmark: str) -> str:
        """Return the title, and the metric and unit of each task's scores."""
        tasks_by_unit: dict[str, list[str]] = {}
        for column in self.columns:
            task = column.task.removeprefix(f"{benchmark}/")
            tasks_by_unit.setdefault(column.unit, []).append(task)
        units = "; ".join(
            f"{unit} ({', '.join(tasks)})" for unit, tasks in tasks_by_unit.items()
        )
        return f"{self.title}: {units}"

    def grid(self, benchmark: str, mark: str) -> list[list[str]]:
        """Return column titles and rows of text.

        ``mark`` formats a column's best score; "?" follows flagged scores.
        """
        tasks = [column.task.removeprefix(f"{benchmark}/") for column in self.columns]
        rows = [["method", *tasks, "mean rank", "wins"]]
        for method in self.methods:
            scores = [self._score_text(method, column, mark) for column in self.columns]
            statistics = map(_statistic_text, self.statistics(method).values())
            rows.append([self._method_text(method), *scores, *statistics])
        return rows

    def _method_text(self, method: str) -> str:
        """Return the name of a method, with the kinds of scores that are not usual."""
        kinds = [kind for kind in self.kinds(method) if kind not in (OWN, PRIMARY)]
        if not kinds:
            return method
        return f"{method} ({', '.join(kinds)})"

    def _score_text(self, method: str, column: Column, mark: str) -> str:
        """Return a cell of `grid`: the score, marked if it is flagged or the best."""
        row = self.cells.get((method, column))
        if row is None:
            return "–"
        text = column.text(row)
        if row.flag:
            text += "?"
        if method in self.best(column):
            text = mark.format(text)
        return text

    def to_dict(self) -> dict[str, Any]:
        """Return the table as plain JSON: each method with its cells by task."""
        return {
            "title": self.title,
            "columns": [asdict(column) for column in self.columns],
            "methods": [self._method_to_dict(method) for method in self.methods],
        }

    def _method_to_dict(self, method: str) -> dict[str, Any]:
        """Return the name, kinds, ranks and cells by task of a method as plain JSON."""
        cells = {}
        for column in self.columns:
            row = self.cells.get((method, column))
            if row is not None:
                cells[column.task] = {"text": column.text(row), **asdict(row)}
        return {
            "name": method,
            "kinds": self.kinds(method),
            **self.statistics(method),
            "cells": cells,
        }


def _statistic_text(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.2f}".removesuffix(".00")


@dataclass(frozen=True)
class Published:
    """Published results of a benchmark, in tables."""

    benchmark: str
    beside: PublishedTable | None
    """Own scores with the comparable published scores; None if there are none.

    Comparable scores have the same task, metric and protocol.
    """
    tables: tuple[PublishedTable, ...]
    """Tables of all rows that are neither claims nor repetitions, without own scores.
    """
    reasons: Mapping[str, int]
    """Number of rows that are not in ``beside``, by reason; empty without own scores.
    """
    rows: tuple[PublishedRow, ...]
    """All rows, including repetitions and claims about the whole benchmark."""
    notes: tuple[str, ...]
    """Sentences about files of tasks, misprinted and doubtful scores, protocols, claims
    and sources.
    """

    @property
    def sources(self) -> dict[str, str]:
        """Text of each source of the rows, by key."""
        return {row.source: sources().get(row.source, row.source) for row in self.rows}

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON."""
        return {
            "benchmark": self.benchmark,
            "beside": None if self.beside is None else self.beside.to_dict(),
            "tables": [table.to_dict() for table in self.tables],
            "reasons": dict(self.reasons),
            "rows": [asdict(row) for row in self.rows],
            "notes": list(self.notes),
            "sources": self.sources,
        }
