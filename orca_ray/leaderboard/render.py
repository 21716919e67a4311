"""A board as text: a plain table, Markdown, CSV or JSON."""

import csv
import io
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict

from orca_ray.errors import unknown_name
from orca_ray.leaderboard.board import Board
from orca_ray.leaderboard.statistics import STATISTICS
from orca_ray.results.record import Status

MISSING = "–"


def render(board: Board, format: str = "table") -> str:
    """Return the board as text, without a line break at its end.

    ``table`` and ``markdown`` are for reading: the best score of each task is marked, and a footer says what the board
    is made of. ``csv`` (one row a number, told apart by the column ``section``) and ``json`` hold the same in full
    precision. Raises `UserError` for another format.
    """
    if format not in FORMATS:
        raise unknown_name("format", format, FORMATS)
    return FORMATS[format](board)


def _number(value: float) -> str:
    """Four decimals, or four digits where those would say nothing."""
    if math.isnan(value):
        return MISSING
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e3 else f"{value:.3e}"


def _cell(board: Board, task: str, method: str) -> str:
    score = board.score(task, method)
    if not score.n:
        return MISSING
    text = _number(score.mean) if score.n == 1 else f"{_number(score.mean)} ± {_number(score.std)}"
    return text if score.n == len(board.seeds) else f"{text} (n={score.n})"


def _statistic(value: float) -> str:
    return MISSING if math.isnan(value) else f"{value:.2f}".removesuffix(".00")


def _grid(board: Board, mark: Callable[[str], str]) -> list[list[str]]:
    """Return the cells of the table, its heading first."""
    grid = [["task", "metric", *board.methods]]
    for task in board.tasks:
        best = board.best(task)
        cells = {method: _cell(board, task, method) for method in board.methods}
        marked = [mark(text) if method in best else text for method, text in cells.items()]
        grid.append([task.removeprefix(f"{board.benchmark}/"), board.metrics[task], *marked])
    for name, entry in STATISTICS.items():
        grid.append([entry.title, "", *(_statistic(board.statistic(method, name)) for method in board.methods)])
    return grid


def _heading(board: Board) -> str:
    seeds = f"mean ± std over seeds {', '.join(map(str, board.seeds))}" if board.seeds else "no confirm trial finished"
    return f"{board.benchmark}: sweep {board.sweep}, protocol {board.protocol}; test scores, lower is better; {seeds}"


def _counts(counts: Mapping[Status, int]) -> str:
    return ", ".join(f"{status.value} {number}" for status, number in counts.items())


def _footer(board: Board) -> list[str]:
    totals = {status: sum(board.count(method, status) for method in board.methods) for status in Status}
    lines = [
        f"ranks and wins over the {len(board.common_tasks)} of {len(board.tasks)} tasks where every method has scores",
        f"trials: {_counts(totals)}",
    ]
    for method in board.methods:
        failed = {status: board.count(method, status) for status in Status if status.failed}
        if any(failed.values()):
            lines.append(f"failed trials of {method}: {_counts({s: n for s, n in failed.items() if n})}")
    lines.extend(board.notes)
    lines.extend(
        f"also there: sweep {other.sweep}, protocol {other.protocol}, {other.confirmed} confirm trial(s) completed"
        for other in board.others
    )
    return lines


def _table(board: Board) -> str:
    grid = _grid(board, lambda text: f"{text} *")
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    rows = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in grid]
    rule = "-" * max(map(len, rows))
    last = len(board.tasks) + 1
    footer = ["* best of its task", *_footer(board)]
    return "\n".join([_heading(board), "", rows[0], rule, *rows[1:last], rule, *rows[last:], "", *footer])


def _markdown(board: Board) -> str:
    grid = _grid(board, lambda text: f"**{text}**")
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in grid]
    lines.insert(1, "|" + "---|" * 2 + "--:|" * len(board.methods))
    return "\n".join([_heading(board), "", *lines, "", *(f"- {line}" for line in _footer(board))])


def _csv(board: Board) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["benchmark", "sweep", "protocol", "section", "task", "metric", "method", "value", "std", "n"])

    def write(section: str, task: str, metric: str, method: str, *numbers: float | None) -> None:
        cells = ["" if number is None or math.isnan(number) else number for number in numbers]
        writer.writerow([board.benchmark, board.sweep, board.protocol, section, task, metric, method, *cells])

    for task in board.tasks:
        for method in board.methods:
            write("score", task, board.metrics[task], method, *board.score(task, method))
    for method in board.methods:
        for name in STATISTICS:
            write("summary", "", name, method, board.statistic(method, name), None, len(board.common_tasks))
        for status in Status:
            write("status", "", status.value, method, board.count(method, status), None, None)
    return stream.getvalue().rstrip("\n")


def _finite(value: float) -> float | None:
    """Return None for NaN, which JSON does not have."""
    return None if math.isnan(value) else value


def _json(board: Board) -> str:
    def score(task: str, method: str) -> dict[str, float | None]:
        mean, std, n = board.score(task, method)
        return {"mean": _finite(mean), "std": _finite(std), "n": n}

    tasks = [
        {
            "name": task,
            "metric": board.metrics[task],
            "best": board.best(task),
            "scores": {method: score(task, method) for method in board.methods},
        }
        for task in board.tasks
    ]
    methods = [
        {
            "name": method,
            **{name: _finite(board.statistic(method, name)) for name in STATISTICS},
            "statuses": {status.value: board.count(method, status) for status in Status},
        }
        for method in board.methods
    ]
    document = {
        "benchmark": board.benchmark,
        "sweep": board.sweep,
        "protocol": board.protocol,
        "seeds": list(board.seeds),
        "tasks": tasks,
        "methods": methods,
        "common_tasks": list(board.common_tasks),
        "notes": list(board.notes),
        "others": [asdict(other) for other in board.others],
    }
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)


FORMATS: dict[str, Callable[[Board], str]] = {"table": _table, "markdown": _markdown, "csv": _csv, "json": _json}
