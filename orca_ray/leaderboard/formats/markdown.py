"""Markdown tables."""

import re
from collections.abc import Sequence

from orca_ray.errors import printable
from orca_ray.leaderboard import text
from orca_ray.leaderboard.effects import Effects
from orca_ray.leaderboard.effects_text import (
    effects_footer,
    effects_sections,
    effects_title,
)
from orca_ray.leaderboard.format import BoardReport, Format

_SPECIAL = re.compile(r"[\\`*<>|&~$]|\](?=[(:\[])|(?<!\w)_|_(?!\w)")
"""Matches characters that Markdown does not show as they are."""
_BEST = "\0{}\0"
"""Marks the best score of a task until the text around it is escaped.

No record holds this character unescaped.
"""


def escaped(words: str) -> str:
    """Return text that Markdown shows as it is; unprintable characters are escaped."""
    return _SPECIAL.sub(r"\\\g<0>", printable(words))


def markdown_table(grid: Sequence[Sequence[str]], names: int) -> list[str]:
    """Return the lines of a Markdown table.

    ``names`` columns are aligned left; columns of numbers follow.
    """
    titles, *rows = ["| " + " | ".join(row) + " |" for row in grid]
    num_numbers = len(grid[0]) - names
    alignment = "|" + "---|" * names + "--:|" * num_numbers
    return [titles, alignment, *rows]


def _cells(grid: Sequence[Sequence[str]]) -> list[list[str]]:
    return [[_cell(text) for text in row] for row in grid]


def _cell(text: str) -> str:
    if text.startswith("\0"):
        return f"**{escaped(text[1:-1])}**"
    return escaped(text)


def _render(report: BoardReport) -> str:
    """Return the tables of a board, of costs and of published results, and the notes.

    Unlike `score_grid`, the table of scores has a second column with the metrics.
    """
    board = report.board
    title, subtitle = text.titles(report)
    lines = [escaped(f"{title}; {subtitle}"), ""]
    if board.tasks:
        grid = text.score_grid(report, _BEST, " ± ")
        grid[0].insert(1, "metric")
        num_tasks = len(board.metrics)
        for row, metric in zip(
            grid[1 : 1 + num_tasks], board.metrics.values(), strict=True
        ):
            row.insert(1, metric)
        for row in grid[1 + num_tasks :]:
            row.insert(1, "")
        lines += [*markdown_table(_cells(grid), names=2), ""]
    lines += [f"- {escaped(line)}" for line in text.footer(report)]
    sections = text.published_grids(report, _BEST)
    for section in (text.cost_grid(report), text.training_section(report)):
        if section is not None:
            sections.insert(0, section)
    for title, grid in sections:
        table = markdown_table(_cells(grid), names=1)
        lines += ["", f"**{escaped(title)}**", "", *table]
    notes = text.published_footer(report)
    if notes:
        lines += ["", *(f"- {escaped(note)}" for note in notes)]
    return "\n".join(lines).rstrip()


def _markdown_effects(effects: Effects) -> str:
    """Return all tables of effects, after the sentences that explain them."""
    foot = [f"- {escaped(note)}" for note in effects_footer(effects)]
    foot.append(
        "- Ratios on single tasks: **bold** is better beyond noise, *italic* worse."
    )
    lines = [escaped(effects_title(effects)), "", *foot]
    for title, rows, num_names in effects_sections(effects, full=True):
        # Not `escaped`, since the marks of bold and italic ratios must stay.
        cells = [[printable(cell).replace("|", "\\|") for cell in row] for row in rows]
        lines += ["", f"## {printable(title)}", "", *markdown_table(cells, num_names)]
    return "\n".join(lines)


FORMAT = Format("markdown", ".md", _render, _markdown_effects)
