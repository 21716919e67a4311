"""CSV with one row per number, in full precision."""

import csv
import io
from collections.abc import Callable, Sequence

from orca_ray.errors import csv_cell
from orca_ray.leaderboard.board import Board
from orca_ray.leaderboard.effects import Effects
from orca_ray.leaderboard.format import BoardReport, Format
from orca_ray.leaderboard.statistics import on_boards
from orca_ray.leaderboard.statistics.paired import Levels
from orca_ray.results.record import Status

_COLUMNS = ("task", "metric", "method", "other", "seed", "value", "std", "low", "high", "n", "kind", "source")
_PUBLISHED = ("published", "published_metric", "flag", "note")
"""Columns of published scores alone: digits and unit as published, why a score has no rank, and a note."""
_EFFECTS = ("task", "metric", "levels", "reference", "value", "std", "low", "high", "n", "planned")


def _begun(source: Board | Effects, columns: Sequence[str]) -> tuple[io.StringIO, Callable[..., None]]:
    """Return the text of a file with its header, and a function that adds a row: its section, and cells by column."""
    stream, about = io.StringIO(), {name: getattr(source, name) for name in ("benchmark", "sweep", "protocol")}
    writer = csv.DictWriter(stream, (*about, "section", *columns), restval="", lineterminator="\n")
    writer.writeheader()

    def write(section: str, **cells: object) -> None:
        row = {**about, "section": section, **cells}
        writer.writerow({name: "" if cell is None or cell != cell else csv_cell(cell) for name, cell in row.items()})

    return stream, write


def _render(report: BoardReport) -> str:
    board = report.board
    stream, write = _begun(board, (*_COLUMNS, *_PUBLISHED))
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
    stream, write = _begun(effects, _EFFECTS)

    def text(levels: Levels) -> str:
        return ", ".join(f"{factor}={level}" for factor, level in levels.items())

    for each in effects.comparisons:
        sides = {"levels": text(each.levels), "reference": text(each.reference)}
        write("effect", **sides, **each.ratio._asdict(), n=each.pairs, planned=each.planned)
        for task, ratio in each.tasks.items():
            write("effect", task=task, metric=effects.metrics[task], **sides, **ratio._asdict())
    for (task, index), (mean, std, n) in effects.scores.items():
        cells = {"task": task, "metric": effects.metrics[task], "levels": text(effects.cells[index])}
        write("score", **cells, value=mean, std=std, n=n, planned=len(effects.seeds))
    return stream.getvalue().rstrip("\n")


FORMAT = Format("csv", ".csv", _render, _csv_effects)
