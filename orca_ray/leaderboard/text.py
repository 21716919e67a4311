"""Text that several formats share: numbers, scores, titles, footers and plain tables."""

import json
import math
import textwrap
from collections.abc import Mapping, Sequence

from orca_ray.errors import printable
from orca_ray.leaderboard.leaderboard import STATISTICS, Leaderboard, Score
from orca_ray.results.record import Status

MISSING = "–"
WIDTH = 100
"""Number of characters at which the sentences around a table are wrapped."""


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


def score_grid(board: Leaderboard, mark: str, between: str) -> list[list[str]]:
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


def titles(board: Leaderboard) -> tuple[str, str]:
    """Return the title of a leaderboard, and a line that explains its scores."""
    seeds = ", ".join(map(str, board.seeds))
    scored = f"mean ± std over seeds {seeds}" if len(board.seeds) > 1 else f"seed {seeds}"
    title = f"{board.benchmark}: sweep {board.sweep}, protocol {board.protocol}"
    return title, f"test scores, lower is better; {scored if seeds else 'no confirm trial finished'}"


def footer(board: Leaderboard) -> list[str]:
    """Return the sentences below a leaderboard: the tasks that count, trials by status, notes, other sweeps."""
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


def dump_json(document: object) -> str:
    """Return a document as JSON, which has no NaN: those become null."""
    finite = json.loads(json.dumps(document), parse_constant=lambda _: None)
    return json.dumps(finite, indent=2, ensure_ascii=False, allow_nan=False)
