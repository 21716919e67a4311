"""CSV with one row per number, in full precision."""

import csv
import io
import math

from orca_ray.errors import csv_cell
from orca_ray.leaderboard.effects import Effects
from orca_ray.leaderboard.format import BoardReport, Format
from orca_ray.leaderboard.statistics import on_boards
from orca_ray.leaderboard.statistics.paired import Levels
from orca_ray.results.record import Status

_COLUMNS = (
    "benchmark", "sweep", "protocol", "section", "task", "metric", "method", "other", "seed", "value", "std", "low",
    "high", "n", "kind", "source",
)  # fmt: skip
_PUBLISHED = ("published", "published_metric", "flag", "note")
"""Columns of published scores alone: digits and unit as published, why a score has no rank, and a note."""


def _render(report: BoardReport) -> str:
    board, stream = report.board, io.StringIO()
    writer = csv.DictWriter(stream, (*_COLUMNS, *_PUBLISHED), restval="", lineterminator="\n")
    writer.writeheader()

    def write(section: str, **cells: object) -> None:
        known = {name: "" if cell is None or cell != cell else csv_cell(cell) for name, cell in cells.items()}
        about = {"benchmark": board.benchmark, "sweep": board.sweep, "protocol": board.protocol, "section": section}
        own = {name: csv_cell(cell) for name, cell in about.items()}
        writer.writerow({**own, **known})

    for task in board.tasks:
        for method in report.methods:
            mean, std, n = board.score(task, method)
            write("score", task=task, metric=board.metrics[task], method=method, value=mean, std=std, n=n)
    for task, method, seed, score in board.scores.itertuples(index=False):
        write("seed", task=task, metric=board.metrics[task], method=method, seed=seed, value=score)
    for method in report.methods:
        for name in on_boards():
            numbers = report.statistic(name).loc[method, ["value", "low", "high"]]
            write("summary", metric=name, method=method, n=len(report.common_tasks), **numbers)
        for status in Status:
            write("status", metric=status.value, method=method, value=board.count(method, status))
    for row in report.verdicts.reset_index().to_dict("records"):
        cells = {name: row[name] for name in ("method", "other", "value", "low", "high")}
        write("verdict", metric="ratio", n=row["num_tasks"], **cells)
    for each in report.published_scores:
        names = ("task", "method", "std", "n", "kind", "source", "protocol", *_PUBLISHED)
        metric = each.metric or each.quantity
        cells = {name: getattr(each, name) for name in names}
        write("published", sweep="", metric=metric, value=each.score, **cells)
    return stream.getvalue().rstrip("\n")


def _csv_effects(effects: Effects) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    columns = ("section", "task", "metric", "levels", "reference", "value", "std", "low", "high", "n", "planned")
    writer.writerow(["benchmark", "sweep", "protocol", *columns])

    def write(section: str, task: str, levels: Levels, reference: Levels, *numbers: float | None) -> None:
        cells = ["" if value is None or math.isnan(value) else value for value in numbers]
        names = [", ".join(f"{factor}={level}" for factor, level in each.items()) for each in (levels, reference)]
        metric = effects.metrics.get(task, "")
        row = [effects.benchmark, effects.sweep, effects.protocol, section, task, metric, *names, *cells]
        writer.writerow(map(csv_cell, row))

    for each in effects.comparisons:
        value, low, high = each.ratio
        write("effect", "", each.levels, each.reference, value, None, low, high, each.pairs, each.planned)
        for task, (value, low, high) in each.tasks.items():
            write("effect", task, each.levels, each.reference, value, None, low, high, None, None)
    for (task, index), (mean, std, n) in effects.scores.items():
        write("score", task, effects.cells[index], {}, mean, std, None, None, n, len(effects.seeds))
    return stream.getvalue().rstrip("\n")


FORMAT = Format("csv", ".csv", _render, _csv_effects)
