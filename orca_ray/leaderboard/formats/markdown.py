"""Markdown tables."""

import re
from collections.abc import Sequence

from orca_ray.errors import printable
from orca_ray.leaderboard import text
from orca_ray.leaderboard.effects import Effects
from orca_ray.leaderboard.format import BoardReport, Format

_SPECIAL = re.compile(r"[\\`*<>|&~$]|\](?=[(:\[])|(?<!\w)_|_(?!\w)")
_BEST = "\0{}\0"
"""Marks the best score of a task until the text around it is escaped.

No record holds this character unescaped.
"""


def escaped(words: str) -> str:
    """Return text that Markdown shows as it is; unprintable characters become escapes."""
    return _SPECIAL.sub(r"\\\g<0>", printable(words))


def markdown_table(grid: Sequence[Sequence[str]], names: int) -> list[str]:
    """Return the lines of a Markdown table.

    ``names`` columns are aligned left; columns of numbers follow.
    """
    lines = ["| " + " | ".join(row) + " |" for row in grid]
    return [
        lines[0],
        "|" + "---|" * names + "--:|" * (len(grid[0]) - names),
        *lines[1:],
    ]


def _cells(grid: Sequence[Sequence[str]]) -> list[list[str]]:
    return [
        [
            f"**{escaped(cell[1:-1])}**" if cell[:1] == "\0" else escaped(cell)
            for cell in row
        ]
        for row in grid
    ]


def _render(report: BoardReport) -> str:
    board = report.board
    title, subtitle = text.titles(report)
    lines = [escaped(f"{title}; {subtitle}"), ""]
    if board.tasks:
        grid = text.score_grid(report, _BEST, " ± ")
        for row, metric in zip(
            grid, ["metric", *board.metrics.values(), *[""] * len(grid)], strict=False
        ):
            row.insert(1, metric)
        lines += [*markdown_table(_cells(grid), 2), ""]
    lines += [f"- {escaped(line)}" for line in text.footer(report)]
    for heading, grid in [
        *filter(None, [text.cost_grid(report)]),
        *text.published_grids(report, _BEST),
    ]:
        lines += ["", f"**{escaped(heading)}**", "", *markdown_table(_cells(grid), 1)]
    if notes := text.published_footer(report):
        lines += ["", *(f"- {escaped(line)}" for line in notes)]
    return "\n".join(lines).rstrip()


def _markdown_effects(effects: Effects) -> str:
    foot = [f"- {escaped(note)}" for note in text.effects_footer(effects)]
    foot.append(
        "- Ratios on single tasks: **bold** is better beyond noise, *italic* worse."
    )
    lines = [escaped(text.effects_title(effects)), "", *foot]
    for title, rows, names in text.effects_sections(effects, full=True):
        cells = [[printable(cell).replace("|", "\\|") for cell in row] for row in rows]
        lines += ["", f"## {printable(title)}", "", *markdown_table(cells, names)]
    return "\n".join(lines)


FORMAT = Format("markdown", ".md", _render, _markdown_effects)
