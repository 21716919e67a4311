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
from orca_ray.leaderboard.format import BoardReport, Format

BEST = "*"
BLOCKS = "▁▂▃▄▅▆▇█"
MAX_CURVE = 12
"""Largest number of characters of a sparkline."""
TextRows = Sequence[Sequence[str]]


def renderables(
    report: BoardReport, width: int = text.WIDTH, *, curves: bool = True
) -> Iterator[RenderableType]:
    """Yield a leaderboard as Rich text and tables.

    A wider table is split by methods; a table of one method may still be wider.
    ``curves`` adds sparklines, which need a terminal with Unicode.
    """
    board = report.board
    title, subtitle = text.titles(report)
    yield Text(
        "\n".join([printable(title), *text.wrapped(subtitle, width)]), style="bold"
    )
    below = []
    if board.tasks:
        grid = [
            [printable(cell) for cell in row]
            for row in text.score_grid(report, "{}" + BEST, "±")
        ]
        yield ""
        drawn = curves and _add_curves(report, grid)
        yield from _tables(grid, width, 1 + len(board.tasks))
        below = [
            f"{BEST} best score of the task",
            text.metrics_text(board.metrics, board.benchmark),
        ]
        below += (
            ["curves: validation score by epoch, mean over seeds, one scale per task"]
            if drawn
            else []
        )
    if lines := [*below, *text.footer(report)]:
        yield _sentences(lines, width)
    if costs := text.cost_grid(report):
        yield from _section(*costs, width)
    for heading, rows in text.published_grids(report, "{}" + BEST):
        yield from _section(heading, rows, width)
    if lines := text.published_footer(report):
        yield _sentences(lines, width)


def brief(report: BoardReport, width: int, most: int) -> Iterator[RenderableType]:
    """Yield mean ranks and the scores of the last ``most`` tasks.

    It is for a board that is drawn again and again.
    """
    ranks = report.statistic("mean_rank")["value"].dropna().items()
    places = ", ".join(
        f"{printable(str(method))} {value:.2f}" for method, value in ranks
    )
    tasks = f"{len(report.common_tasks)} of {len(report.board.tasks)} tasks"
    yield Text(
        f"mean rank on {tasks} so far: {places}\n"
        if places
        else f"no ranks yet: {tasks} have all scores\n"
    )
    grid = text.score_grid(report, "{}" + BEST, "±")[: 1 + len(report.board.tasks)]
    grid[1:] = grid[1:][-most:]
    yield from _tables([[printable(cell) for cell in row] for row in grid], width)


def _section(heading: str, grid: TextRows, width: int) -> Iterator[RenderableType]:
    yield Text("\n".join(["", *text.wrapped(heading, width), ""]), style="bold")
    yield from _tables([[printable(cell) for cell in row] for row in grid], width)


def _add_curves(report: BoardReport, grid: list[list[str]]) -> bool:
    """Add a sparkline to the cells that have a learning curve; return if there is any."""
    found = False
    for row, task in zip(grid[1:], report.board.tasks, strict=False):
        curves = report.validation_curves(task)
        values = [value for curve in curves.values() for value in curve]
        for column, method in enumerate(report.methods, start=1):
            if method in curves:
                found = True
                row[column] += "\n" + sparkline(
                    curves[method], min(values), max(values)
                )
    return found


def sparkline(values: Sequence[float], low: float, high: float) -> str:
    """Return a text with one character per value, from ``▁`` to ``█``.

    ``▁`` stands for ``low``, ``█`` for ``high``, a space for NaN. If there are more
    than `MAX_CURVE` values, `MAX_CURVE` evenly spaced ones are drawn, from the first to
    the last.
    """
    if len(values) > MAX_CURVE:
        values = [
            values[round(i * (len(values) - 1) / (MAX_CURVE - 1))]
            for i in range(MAX_CURVE)
        ]
    step = (high - low) / len(BLOCKS) if high > low else math.inf
    levels = (
        None if math.isnan(value) else min(int((value - low) / step), len(BLOCKS) - 1)
        for value in values
    )
    return "".join(" " if level is None else BLOCKS[level] for level in levels)


def _sentences(texts: Sequence[str], width: int) -> RenderableType:
    return Text(
        "\n".join(["", *(line for note in texts for line in text.wrapped(note, width))])
    )


def _tables(grid: TextRows, width: int, rule: int = 0) -> Iterator[RenderableType]:
    """Yield a grid as tables of at most ``width`` columns; each has the first column.

    ``rule`` rows precede a rule.
    """
    sizes = [
        max(cell_len(line) for cell in column for line in cell.split("\n"))
        for column in zip(*grid, strict=True)
    ]
    for part in text.column_parts(sizes, width):
        yield _table([[row[0], *row[part]] for row in grid], rule)


def _table(grid: TextRows, rule: int) -> RenderableType:
    result = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for cell in grid[0]:
        result.add_column(_cell(cell), no_wrap=True)
    for index, row in enumerate(grid[1:], start=1):
        result.add_row(*map(_cell, row), end_section=index == rule - 1)
    return result


def _cell(text: str) -> RenderableType:
    score, *curve = text.split("\n")
    best = Text(score, style="bold green" if score.endswith(BEST) else "")
    return Text("\n").join([best, *(Text(line, style="cyan") for line in curve)])


def _render(report: BoardReport) -> str:
    stream = io.StringIO()
    console = Console(
        file=stream,
        width=10_000,
        color_system=None,
        highlight=False,
        markup=False,
        emoji=False,
    )
    console.print(*renderables(report), sep="\n")
    return "\n".join(line.rstrip() for line in stream.getvalue().rstrip().split("\n"))


def _table_effects(effects: Effects) -> str:
    lines = [printable(text.effects_title(effects))]
    for title, rows, _ in text.effects_sections(effects, full=False):
        lines += ["", printable(title), "", *_plain_table(rows)]
    return "\n".join(
        [
            *lines,
            "",
            *(
                line
                for note in text.effects_footer(effects)
                for line in text.wrapped(note)
            ),
        ]
    )


def _plain_table(grid: Sequence[Sequence[str]]) -> list[str]:
    cells = [[printable(cell) for cell in row] for row in grid]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rows = [
        "  ".join(
            cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in cells
    ]
    return [rows[0], "-" * max(map(len, rows)), *rows[1:]]


FORMAT = Format("table", ".txt", _render, _table_effects)
