"""Formats a leaderboard as text: a plain table, Markdown, CSV or JSON."""

import csv
import io
import json
import math
import textwrap
from collections.abc import Callable

from orca_ray.errors import lookup, printable
from orca_ray.leaderboard.leaderboard import STATISTICS, Leaderboard
from orca_ray.results.record import Status

MISSING = "–"
WIDTH = 100
"""Number of characters at which the sentences around a table are wrapped."""


def render(board: Leaderboard, format: str = "table") -> str:
    """Return the leaderboard as text in a format of `FORMATS`, without a line break at the end.

    ``table`` and ``markdown`` are for people: they mark the best score of each task, explain the numbers in a footer,
    and escape unprintable characters. ``csv`` (one row per number) and ``json`` hold the numbers in full precision.
    Raises `UserError` for an unknown format.
    """
    return lookup("format", format, FORMATS)(board)


def _number(value: float) -> str:
    """Format with four decimals, or with an exponent if the number is very small or large; a dash for NaN."""
    if math.isnan(value):
        return MISSING
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e3 else f"{value:.3e}"


def _cell(board: Leaderboard, task: str, method: str, between: str) -> str:
    score = board.score(task, method)
    if not score.n:
        return MISSING
    text = _number(score.mean) if score.n == 1 else f"{_number(score.mean)}{between}{_number(score.std)}"
    return text if score.n == len(board.seeds) else f"{text} (n={score.n})"


def _grid(board: Leaderboard, mark: str, between: str) -> list[list[str]]:
    """Return the table's cells; ``mark`` formats a task's best score, ``between`` separates mean and std."""
    grid = [["task", *board.methods]]
    for task in board.tasks:
        best = board.best(task)
        cells = {method: _cell(board, task, method, between) for method in board.methods}
        scores = (mark.format(text) if method in best else text for method, text in cells.items())
        grid.append([task.removeprefix(f"{board.benchmark}/"), *scores])
    for name, entry in STATISTICS.items():
        values = [board.statistic(method, name) for method in board.methods]
        grid.append([entry.title, *(MISSING if math.isnan(v) else f"{v:.2f}".removesuffix(".00") for v in values)])
    return grid


def _titles(board: Leaderboard) -> tuple[str, str]:
    seeds = ", ".join(map(str, board.seeds))
    scored = f"mean ± std over seeds {seeds}" if len(board.seeds) > 1 else f"seed {seeds}"
    title = f"{board.benchmark}: sweep {board.sweep}, protocol {board.protocol}"
    return title, f"test scores, lower is better; {scored if seeds else 'no confirm trial finished'}"


def _footer(board: Leaderboard) -> list[str]:
    totals = ", ".join(f"{status.value} {sum(board.count(m, status) for m in board.methods)}" for status in Status)
    lines = [
        f"mean rank and wins use the {len(board.common_tasks)} of {len(board.tasks)} tasks with scores of every method",
        f"trials by status: {totals}",
    ]
    for method in board.methods:
        failed = {status.value: board.count(method, status) for status in Status if status.failed}
        if counts := ", ".join(f"{status} {number}" for status, number in failed.items() if number):
            lines.append(f"failed trials of {method}: {counts}")
    lines += board.notes
    trials = "completed confirm trial(s)"
    for o in board.others:
        lines.append(f"also in the store: sweep {o.sweep}, protocol {o.protocol}, {o.confirmed} {trials}")
    return lines


def _metrics(board: Leaderboard) -> str:
    """Return a line that names the metric of each task; tasks with the same metric are grouped."""
    tasks: dict[str, list[str]] = {}
    for task in board.tasks:
        tasks.setdefault(board.metrics[task], []).append(task.removeprefix(f"{board.benchmark}/"))
    if len(tasks) == 1:
        return f"metric: {next(iter(tasks))}"
    return "metrics: " + "; ".join(f"{metric} ({', '.join(names)})" for metric, names in tasks.items())


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(printable(text), WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _table(board: Leaderboard) -> str:
    # Five methods fit WIDTH because there are no spaces around ± and metrics are below the table.
    grid = [[printable(cell) for cell in row] for row in _grid(board, "{}*", "±")]
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    rows = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in grid]
    rule = "-" * max(map(len, rows))
    last = len(board.tasks) + 1
    below = ["* best score of the task", _metrics(board), *_footer(board)]
    footer = [line for text in below for line in _wrapped(text)]
    title, subtitle = _titles(board)
    head = [printable(title), *_wrapped(subtitle)]
    return "\n".join([*head, "", rows[0], rule, *rows[1:last], rule, *rows[last:], "", *footer])


def _markdown(board: Leaderboard) -> str:
    grid = _grid(board, "**{}**", " ± ")
    for row, metric in zip(grid, ["metric", *board.metrics.values(), *[""] * len(STATISTICS)], strict=True):
        row.insert(1, metric)
    lines = ["| " + " | ".join(printable(cell).replace("|", "\\|") for cell in row) + " |" for row in grid]
    lines.insert(1, "|" + "---|" * 2 + "--:|" * len(board.methods))
    footer = [f"- {printable(line)}" for line in _footer(board)]
    return "\n".join([printable("; ".join(_titles(board))), "", *lines, "", *footer])


def _csv(board: Leaderboard) -> str:
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


def _json(board: Leaderboard) -> str:
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
    finite = json.loads(json.dumps(document), parse_constant=lambda _: None)  # JSON has no NaN
    return json.dumps(finite, indent=2, ensure_ascii=False, allow_nan=False)


FORMATS: dict[str, Callable[[Leaderboard], str]] = {"table": _table, "markdown": _markdown, "csv": _csv, "json": _json}
