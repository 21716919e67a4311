"""LaTeX tables with the package booktabs, for ``\\input`` in a document."""

import re
import unicodedata
from collections.abc import Iterator, Sequence

from orca_ray.errors import printable
from orca_ray.leaderboard import text
from orca_ray.leaderboard.format import BoardReport, Format
from orca_ray.leaderboard.statistics import on_boards

_SPECIAL = {
    **{char: f"\\{char}" for char in "&%$#_{}"},
    # At the start of a row, these would be options of the line break before it.
    **{char: f"{{{char}}}" for char in "[]*"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"{\char34}",
    "`": r"{\char96}",
    "±": r"$\pm$",
    "–": "{--}",
    "−": "$-$",
    "×": r"$\times$",
    "≈": r"$\approx$",
    "…": r"\dots{}",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "λ": r"$\lambda$",
}
"""Characters that LaTeX executes, or lacks in its default font."""
_ACCENTS = {
    "\u0300": "`",
    "\u0301": "'",
    "\u0302": "^",
    "\u0303": "~",
    "\u0308": '"',
    "\u030a": "r",
    "\u030c": "v",
    "\u0327": "c",
}
"""LaTeX commands of combining accents."""
_BEST = "\0{}\0"
"""Marks the best score of a task until the text around it is escaped."""
_WIDTH = 90
"""Number of characters of a table's row that fit a page; see `_HEIGHT`."""
_HEIGHT = 45
"""Number of rows of a table that fit a page.

The page is A4 or Letter at 10 pt with margins of 2.5 cm.
"""


def escaped(text: str) -> str:
    """Return text that LaTeX prints as it is.

    A character without an equivalent becomes its code, such as U+4E2D.
    """
    latex = "".join(map(_character, printable(text)))
    # LaTeX would print "--" as one dash; the dash of `_SPECIAL` is meant.
    without_dashes = re.sub("-(?=-)", "-{}", latex)
    return without_dashes.replace("{-{}-}", "{--}")


def _character(char: str) -> str:
    """Return the LaTeX of a character: itself, a command, or its code U+...."""
    if char in _SPECIAL:
        return _SPECIAL[char]
    if char.isascii():
        return char
    parts = unicodedata.normalize("NFD", char)  # a letter and its accents
    if len(parts) == 2 and parts[0].isascii() and parts[1] in _ACCENTS:
        return f"\\{_ACCENTS[parts[1]]}{{{parts[0]}}}"
    return f"U+{ord(char):04X}"


def _tables(grid: Sequence[Sequence[str]], rule: int = 0) -> Iterator[str]:
    """Yield the lines of tables that show a grid, each no larger than a page.

    After the first ``rule`` rows of the grid comes a second rule; 0: none.
    """
    titles, *rows = grid
    sizes = [
        max(len(cell.strip("\0")) for cell in column)
        for column in zip(*grid, strict=True)
    ]
    parts = [
        (columns, start)
        for columns in text.column_parts(sizes, _WIDTH)
        for start in range(0, len(rows), _HEIGHT)
    ]
    for number, (columns, start) in enumerate(parts):
        if number:
            yield r"\par\medskip"
        rows_of_part = [titles, *rows[start : start + _HEIGHT]]
        part = [[row[0], *row[columns]] for row in rows_of_part]
        yield from _tabular(part, rule - start)


def _tabular(grid: Sequence[Sequence[str]], rule: int) -> Iterator[str]:
    """Yield the lines of a table: a column of names, then columns of numbers.

    A second horizontal rule follows the first ``rule`` rows.
    """
    yield r"\begin{tabular}{l" + "r" * (len(grid[0]) - 1) + "}"
    yield r"\toprule"
    for index, row in enumerate(grid, start=1):
        yield " & ".join(map(_cell, row)) + r" \\"
        if index in (1, rule):
            yield r"\midrule"
    yield r"\bottomrule"
    yield r"\end{tabular}"


def _cell(text: str) -> str:
    if text.startswith("\0"):
        return f"\\textbf{{{escaped(text[1:-1])}}}"
    return escaped(text)


def _notes(lines: Sequence[str]) -> Iterator[str]:
    for line in lines:
        yield rf"\par {escaped(line)}."


def _render(report: BoardReport) -> str:
    """Return the tables of a board and of published results, and the notes on them."""
    board = report.board
    title, subtitle = text.titles(report)
    lines = [
        r"% requires \usepackage{booktabs}",
        rf"\par {escaped(title)}; {escaped(subtitle)}.\par",
    ]
    if board.tasks:
        grid = text.score_grid(report, _BEST, " ± ")
        # The last rows are statistics, which a rule divides from the scores.
        lines += _tables(grid, rule=len(grid) - len(on_boards()))
        lines += _notes(
            [
                "bold: best score of the task",
                text.metrics_text(board.metrics, board.benchmark),
            ]
        )
    lines += _notes(text.footer(report))
    for heading, grid in text.published_grids(report, _BEST):
        lines += [rf"\par\medskip {escaped(heading)}\par", *_tables(grid)]
    return "\n".join([*lines, *_notes(text.published_footer(report))])


FORMAT = Format("latex", ".tex", _render)
