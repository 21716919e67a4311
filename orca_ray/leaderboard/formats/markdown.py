"""Markdown tables."""

from collections.abc import Sequence

from orca_ray.errors import printable
from orca_ray.leaderboard import effects_text
from orca_ray.leaderboard.effects import Effects
from orca_ray.leaderboard.format import Format
from orca_ray.leaderboard.leaderboard import STATISTICS, Leaderboard
from orca_ray.leaderboard.text import footer, score_grid, titles


def markdown_table(grid: Sequence[Sequence[str]], names: int) -> list[str]:
    """Return the lines of a Markdown table: ``names`` columns aligned left, then columns of numbers."""
    lines = ["| " + " | ".join(printable(cell).replace("|", "\\|") for cell in row) + " |" for row in grid]
    return [lines[0], "|" + "---|" * names + "--:|" * (len(grid[0]) - names), *lines[1:]]


def _render(board: Leaderboard) -> str:
    grid = score_grid(board, "**{}**", " ± ")
    for row, metric in zip(grid, ["metric", *board.metrics.values(), *[""] * len(STATISTICS)], strict=True):
        row.insert(1, metric)
    foot = [f"- {printable(line)}" for line in footer(board)]
    return "\n".join([printable("; ".join(titles(board))), "", *markdown_table(grid, 2), "", *foot])


def _markdown_effects(effects: Effects) -> str:
    foot = [f"- {printable(text)}" for text in effects_text.footer(effects)]
    foot.append("- Ratios on single tasks: **bold** is better beyond noise, *italic* worse.")
    lines = [printable(effects_text.title(effects)), "", *foot]
    for title, rows, names in effects_text.sections(effects, full=True):
        lines += ["", f"## {printable(title)}", "", *markdown_table(rows, names)]
    return "\n".join(lines)


FORMAT = Format("markdown", ".md", _render, _markdown_effects)
