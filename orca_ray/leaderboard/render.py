"""Formats a leaderboard as text: a plain table, Markdown, CSV or JSON."""

import csv
import io
import json
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence

from orca_ray.errors import lookup, printable
from orca_ray.leaderboard.board import Board, Score
from orca_ray.leaderboard.leaderboard import STATISTICS
from orca_ray.results.record import Status

MISSING = "–"
WIDTH = 100
"""Number of characters at which the sentences around a table are wrapped."""


def render(board: Board, format: str = "table") -> str:
    """Return the leaderboard as text in a format of `FORMATS`, without a line break at the end.

    ``table`` and ``markdown`` are for people: they mark the best score of each task, explain the numbers in a footer,
    and escape unprintable characters. ``csv`` (one row per number) and ``json`` hold the numbers in full precision.
    Raises `UserError` for an unknown format.
    """
    return lookup("format", format, FORMATS)(board)


def number(value: float) -> str:
    """Format with four decimals, or with an exponent if the number is very small or large; a dash for NaN."""
    if math.isnan(value):
        return MISSING
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e3 else f"{value:.3e}"


def score_text(score: Score, num_seeds: int, between: str) -> str:
    """Format a score as mean and std with ``between`` in the middle; its n follows unless it is ``num_seeds``."""
    if not score.n:
        return MISSING
    text = number(score.mean) if score.n == 1 else f"{number(score.mean)}{between}{number(score.std)}"
    return text if score.n == num_seeds else f"{text} (n={score.n})"


def _grid(board: Board, mark: str, between: str) -> list[list[str]]:
    """Return the table's cells; ``mark`` formats a task's best score, ``between`` separates mean and std."""
    grid = [["task", *board.methods]]
    for task in board.tasks:
        best = board.best(task)
        cells = {m: score_text(board.score(task, m), len(board.seeds), between) for m in board.methods}
        scores = (mark.format(text) if method in best else text for method, text in cells.items())
        grid.append([task.removeprefix(f"{board.benchmark}/"), *scores])
    for name, entry in STATISTICS.items():
        values = [board.statistic(method, name) for method in board.methods]
        grid.append([entry.title, *(MISSING if math.isnan(v) else f"{v:.2f}".removesuffix(".00") for v in values)])
    return grid


def _titles(board: Board) -> tuple[str, str]:
    seeds = ", ".join(map(str, board.seeds))
    scored = f"mean ± std over seeds {seeds}" if len(board.seeds) > 1 else f"seed {seeds}"
    title = f"{board.benchmark}: sweep {board.sweep}, protocol {board.protocol}"
    return title, f"test scores, lower is better; {scored if seeds else 'no confirm trial finished'}"


def _footer(board: Board) -> list[str]:
    totals = ", ".join(f"{status.value} {sum(board.count(m, status) for m in board.methods)}" for status in Status)
    lines = [
        f"mean rank and wins use the {len(board.common_tasks)} of {len(board.tasks)} tasks with scores of every method",
        f"trials by status: {totals}",
    ]
    for method in board.methods:
        failed = {status.value: board.count(method, status) for status in Status if status.failed}
        if counts := ", ".join(f"{status} {count}" for status, count in failed.items() if count):
            lines.append(f"failed trials of {method}: {counts}")
    lines += board.notes
    trials = "completed confirm trial(s)"
    for o in board.others:
        lines.append(f"also in the store: sweep {o.sweep}, protocol {o.protocol}, {o.confirmed} {trials}")
    return lines


def metrics_text(metrics: Mapping[str, str], benchmark: str) -> str:
    """Return a line that names the metric of each task; tasks with the same metric are grouped."""
    tasks: dict[str, list[str]] = {}
    for task, metric in metrics.items():
        tasks.setdefault(metric, []).append(task.removeprefix(f"{benchmark}/"))
    if len(tasks) == 1:
        return f"metric: {next(iter(tasks))}"
    return "metrics: " + "; ".join(f"{metric} ({', '.join(names)})" for metric, names in tasks.items())


def wrapped(text: str) -> list[str]:
    """Return the lines of a text, without unprintable characters; further lines are indented."""
    return textwrap.wrap(printable(text), WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def plain_table(grid: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table with aligned columns; the first row holds their titles, and a rule follows it."""
    cells = [[printable(cell) for cell in row] for row in grid]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rows = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return [rows[0], "-" * max(map(len, rows)), *rows[1:]]


def markdown_table(grid: Sequence[Sequence[str]], names: int) -> list[str]:
    """Return the lines of a Markdown table: ``names`` columns aligned left, then columns of numbers."""
    lines = ["| " + " | ".join(printable(cell).replace("|", "\\|") for cell in row) + " |" for row in grid]
    return [lines[0], "|" + "---|" * names + "--:|" * (len(grid[0]) - names), *lines[1:]]


def _table(board: Board) -> str:
    # Five methods fit WIDTH because there are no spaces around ± and metrics are below the table.
    rows = plain_table(_grid(board, "{}*", "±"))
    last = len(board.tasks) + 2
    below = ["* best score of the task", metrics_text(board.metrics, board.benchmark), *_footer(board)]
    footer = [line for text in below for line in wrapped(text)]
    title, subtitle = _titles(board)
    head = [printable(title), *wrapped(subtitle)]
    return "\n".join([*head, "", *rows[:last], rows[1], *rows[last:], "", *footer])


def _markdown(board: Board) -> str:
    grid = _grid(board, "**{}**", " ± ")
    for row, metric in zip(grid, ["metric", *board.metrics.values(), *[""] * len(STATISTICS)], strict=True):
        row.insert(1, metric)
    footer = [f"- {printable(line)}" for line in _footer(board)]
    return "\n".join([printable("; ".join(_titles(board))), "", *markdown_table(grid, 2), "", *footer])


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


def _json(board: Board) -> str:
    tasks = [
        {
            "name": task,
            "metric": board.metrics[task],
            "best": board.best(task),
            "scores": {method: board.score(task, method)._asdict() for method in board.methods},
        }
        for task in board.tasks
    ]
    methods = [
        {
            "name": method,
            **{name: board.statistic(method, name) for name in STATISTICS},
            "statuses": {status.value: board.count(method, status) for status in Status},
        }
        for method in board.methods
    ]
    document = {
        **{key: getattr(board, key) for key in ("benchmark", "sweep", "protocol", "seeds")},
        "tasks": tasks,
        "methods": methods,
        **{key: getattr(board, key) for key in ("common_tasks", "notes")},
        "others": [other._asdict() for other in board.others],
    }
    return dump_json(document)


def dump_json(document: object) -> str:
    """Return a document as JSON, which has no NaN: those become null."""
    finite = json.loads(json.dumps(document), parse_constant=lambda _: None)
    return json.dumps(finite, indent=2, ensure_ascii=False, allow_nan=False)


FORMATS: dict[str, Callable[[Board], str]] = {"table": _table, "markdown": _markdown, "csv": _csv, "json": _json}
