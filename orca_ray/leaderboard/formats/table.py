"""Plain tables for a terminal, with sparklines of validation curves."""

import io
import math
from collections.abc import Iterator, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from orca_ray.errors import printable
from orca_ray.leaderboard import text
from orca_ray.leaderboard.effects import Effects
from orca_ray.leaderboard.effects_text import (
    effects_footer,
    effects_sections,
    effects_title,
)
from orca_ray.leaderboard.format import BoardReport, Format

BEST = "*"
"""Mark that follows the best score of a task."""
BLOCKS = "▁▂▃▄▅▆▇█"
"""Characters of a sparkline, from the lowest value to the highest."""
MAX_CURVE = 12
"""Largest number of characters of a sparkline."""
TextRows = Sequence[Sequence[str]]
"""Rows of the cells of a table, as text; the first row has the titles of columns."""


def renderables(
    report: BoardReport, width: int = text.WIDTH, *, curves: bool = True
) -> Iterator[RenderableType]:
    """Yield a leaderboard as Rich text and tables.

    A wider table is split by methods; a table of one method may still be wider.
    ``curves`` adds sparklines, which need a terminal with Unicode.
    """
    board = report.board
    title, subtitle = text.titles(report)
    yield _bold([printable(title), *text.wrapped(subtitle, width)])
    lines = []
    if board.tasks:
        grid = _printable_cells(text.score_grid(report, "{}" + BEST, "±"))
        has_curves = curves and _add_curves(report, grid)
        yield ""
        yield from _tables(grid, width, rule=1 + len(board.tasks))
        lines.append(f"{BEST} best score of the task")
        lines.append(text.metrics_text(board.metrics, board.benchmark))
        if has_curves:
            lines.append(
                "curves: validation score by epoch, mean over seeds, one scale per task"
            )
    lines += text.footer(report)
    if lines:
        yield _sentences(lines, width)
    for section in (text.training_section(report), text.cost_grid(report)):
        if section is not None:
            yield from _section(section, width)
    for section in text.published_grids(report, "{}" + BEST):
        yield from _section(section, width)
    published_lines = text.published_footer(report)
    if published_lines:
        yield _sentences(published_lines, width)


def brief_board(report: BoardReport, width: int, most: int) -> Iterator[RenderableType]:
    """Yield the mean ranks of a board, and the scores of the last ``most`` tasks.

    This short form is for a board that is drawn again and again during a sweep.
    """
    ranks = report.statistic("mean_rank")["value"].dropna()
    tasks = f"{len(report.common_tasks)} of {len(report.board.tasks)} tasks"
    if len(ranks):
        places = ", ".join(
            f"{printable(str(method))} {rank:.2f}" for method, rank in ranks.items()
        )
        yield Text(f"mean rank on {tasks} so far: {places}\n")
    else:
        yield Text(f"no ranks yet: {tasks} have all scores\n")
    titles, *rows = text.score_grid(report, "{}" + BEST, "±")
    task_rows = rows[: len(report.board.tasks)]
    yield from _tables(_printable_cells([titles, *task_rows[-most:]]), width)


def _printable_cells(grid: TextRows) -> list[list[str]]:
    return [[printable(cell) for cell in row] for row in grid]


def _bold(lines: Sequence[str]) -> Text:
    return Text("\n".join(lines), style="bold")


def _section(section: text.Section, width: int) -> Iterator[RenderableType]:
    yield _bold(["", *text.wrapped(section.title, width), ""])
    yield from _tables(_printable_cells(section.grid), width)


def _add_curves(report: BoardReport, grid: list[list[str]]) -> bool:
    """Add sparklines to cells with a learning curve; return whether any has one."""
    has_curves = False
    for row, task in zip(grid[1:], report.board.tasks, strict=False):
        curves = report.validation_curves(task)
        values = [value for curve in curves.values() for value in curve]
        for column, method in enumerate(report.methods, start=1):
            if method in curves:
                has_curves = True
                line = sparkline(curves[method], min(values), max(values))
                row[column] += f"\n{line}"
    return has_curves


def sparkline(values: Sequence[float], low: float, high: float) -> str:
    """Return a text with one character per value, from ``▁`` to ``█``.

    ``▁`` stands for ``low``, ``█`` for ``high``, a space for NaN. If there are more
    than `MAX_CURVE` values, `MAX_CURVE` evenly spaced ones are drawn, from the first to
    the last.
    """
    if len(values) > MAX_CURVE:
        last = len(values) - 1
        places = [round(i * last / (MAX_CURVE - 1)) for i in range(MAX_CURVE)]
        values = [values[place] for place in places]
    step = (high - low) / len(BLOCKS) if high > low else math.inf
    characters = []
    for value in values:
        if math.isnan(value):
            characters.append(" ")
        else:
            level = min(int((value - low) / step), len(BLOCKS) - 1)
            characters.append(BLOCKS[level])
    return "".join(characters)


def _sentences(sentences: Sequence[str], width: int) -> RenderableType:
    lines = [""]
    for sentence in sentences:
        lines += text.wrapped(sentence, width)
    return Text("\n".join(lines))


def _tables(grid: TextRows, width: int, rule: int = 0) -> Iterator[RenderableType]:
    """Yield a grid as tables of at most ``width`` characters a line.

    Each table has the first column of the grid. A horizontal rule follows the first
    ``rule`` rows.
    """
    sizes = [max(map(_cell_width, column)) for column in zip(*grid, strict=True)]
    for part in text.column_parts(sizes, width):
        yield _table([[row[0], *row[part]] for row in grid], rule)


def _cell_width(cell: str) -> int:
    return max(cell_len(line) for line in cell.split("\n"))


def _table(grid: TextRows, rule: int) -> RenderableType:
    """Return a grid as a Rich table, with a rule after its first ``rule`` rows."""
    titles, *rows = grid
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for title in titles:
        table.add_column(_cell(title), no_wrap=True)
    for index, row in enumerate(rows, start=1):
        is_before_rule = index == rule - 1  # the titles are the first of ``rule`` rows
        table.add_row(*map(_cell, row), end_section=is_before_rule)
    return table


def _cell(cell: str) -> RenderableType:
    score, *curve_lines = cell.split("\n")
    lines = [Text(score, style="bold green" if score.endswith(BEST) else "")]
    lines += [Text(line, style="cyan") for line in curve_lines]
    return Text("\n").join(lines)


def _render(report: BoardReport) -> str:
    """Return a board as plain text, without colours."""
    stream = io.StringIO()
    console = Console(
        file=stream,
        width=10_000,  # so wide that Rich wraps nothing
        color_system=None,
        highlight=False,
        markup=False,
        emoji=False,
    )
    console.print(*renderables(report), sep="\n")
    return "\n".join(line.rstrip() for line in stream.getvalue().rstrip().split("\n"))


def _table_effects(effects: Effects) -> str:
    """Return the tables of effects, without ratios on single tasks, as plain text."""
    lines = [printable(effects_title(effects))]
    for section in effects_sections(effects, full=False):
        lines += ["", printable(section.title), "", *_plain_table(section.grid)]
    lines.append("")
    for note in effects_footer(effects):
        lines += text.wrapped(note)
    return "\n".join(lines)


def _plain_table(grid: TextRows) -> list[str]:
    """Return the lines of a table: titles, a rule, and rows with padded cells."""
    cells = _printable_cells(grid)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join(padded).rstrip())
    titles, *rows = lines
    return [titles, "-" * max(map(len, lines)), *rows]


FORMAT = Format("table", ".txt", _render, _table_effects)
