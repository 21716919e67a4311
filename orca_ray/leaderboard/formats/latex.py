"""LaTeX tables with booktabs, to be read by ``\\input`` in a document that loads the package booktabs."""

import re
import unicodedata
from collections.abc import Iterator, Sequence

from orca_ray.errors import printable
from orca_ray.leaderboard.format import BoardReport, Format
from orca_ray.leaderboard.statistics import on_boards
from orca_ray.leaderboard.text import footer, metrics_text, published_footer, published_grids, score_grid, titles

_SPECIAL = {
    **{each: f"\\{each}" for each in "&%$#_{}"},
    **{each: f"{{{each}}}" for each in "[]*"},  # options of a line break, at the start of a row
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"{\char34}", "`": r"{\char96}", "±": r"$\pm$", "–": "{--}",
    "−": "$-$", "×": r"$\times$", "≈": r"$\approx$", "…": r"\dots{}",
    "α": r"$\alpha$", "β": r"$\beta$", "λ": r"$\lambda$",
}  # fmt: skip
"""Characters that LaTeX executes, or lacks in its default font."""
_ACCENTS = {"\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0308": '"', "\u030a": "r", "\u030c": "v",
            "\u0327": "c"}  # fmt: skip
_BEST = "\0{}\0"


def escaped(text: str) -> str:
    """Return text that LaTeX prints as it is; a character without an equivalent becomes its code, such as U+4E2D."""
    return re.sub("-(?=-)", "-{}", "".join(map(_character, printable(text)))).replace("{-{}-}", "{--}")


def _character(char: str) -> str:
    if char in _SPECIAL:
        return _SPECIAL[char]
    if char.isascii():
        return char
    parts = unicodedata.normalize("NFD", char)
    if len(parts) == 2 and parts[0].isascii() and parts[1] in _ACCENTS:
        return f"\\{_ACCENTS[parts[1]]}{{{parts[0]}}}"
    return f"U+{ord(char):04X}"


def _tabular(grid: Sequence[Sequence[str]], names: int, rule: int = 0) -> Iterator[str]:
    """Yield the lines of a table: ``names`` columns aligned left, then numbers; ``rule`` rows precede a second rule."""
    yield r"\begin{tabular}{" + "l" * names + "r" * (len(grid[0]) - names) + "}"
    yield r"\toprule"
    for index, row in enumerate(grid, start=1):
        yield (
            " & ".join(f"\\textbf{{{escaped(cell[1:-1])}}}" if cell[:1] == "\0" else escaped(cell) for cell in row)
            + r" \\"
        )
        if index in (1, rule):
            yield r"\midrule"
    yield r"\bottomrule"
    yield r"\end{tabular}"


def _notes(lines: Sequence[str]) -> Iterator[str]:
    yield from (rf"\par {escaped(line)}." for line in lines)


def _render(report: BoardReport) -> str:
    board = report.board
    title, subtitle = titles(report)
    lines = [r"% requires \usepackage{booktabs}", rf"\par {escaped(title)}; {escaped(subtitle)}.\par"]
    if board.tasks:
        grid = score_grid(report, _BEST, " ± ")
        lines += _tabular(grid, 1, len(grid) - len(on_boards()))
        lines += _notes(["bold: best score of the task", metrics_text(board.metrics, board.benchmark)])
    lines += _notes(footer(report))
    for heading, grid in published_grids(report, _BEST):
        lines += [rf"\par\medskip {escaped(heading)}\par", *_tabular(grid, 1)]
    return "\n".join([*lines, *_notes(published_footer(report))])


FORMAT = Format("latex", ".tex", _render)
