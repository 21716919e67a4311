"""A forest plot as SVG: ratios with intervals on a logarithmic axis, legible at 400
pixels, light and dark.
"""

import math
from collections.abc import Iterator, Sequence
from html import escape

from benchmarks.findings import ratio_text
from benchmarks.regression import Estimate

WIDTH = 400
LEFT = 140
RIGHT = 285
"""Pixels: width of the picture, ends of the axis."""
TOP = 44
ROW = 15
GAP = 7
BOTTOM = 40
"""Pixels: heights above the rows, of a row, between groups, and below."""
LIMITS = (4.0, 8.0, 16.0)
"""Ratios at the right end of the axis: the first one that is above all points.

An interval beyond ends in an arrow.
"""
STYLE = """
    .page { fill: #ffffff; }
    .one { stroke: #17202b; stroke-width: 1; }
    .grid { stroke: #d5dbe3; stroke-width: 1; }
    .line { stroke: #2563b0; stroke-width: 1.6; fill: none; }
    .dot { fill: #2563b0; }
    .whole { stroke: #17202b; stroke-width: 2; fill: none; }
    .diamond { fill: #17202b; }
    text { font: 11px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: #17202b; }
    .title { font-size: 13px; font-weight: 600; }
    .whole-name { font-weight: 700; }
    .middle { text-anchor: middle; }
    .end { text-anchor: end; }
    @media (prefers-color-scheme: dark) {
      .page { fill: #14181e; }
      .one, .whole { stroke: #eef2f7; }
      .grid { stroke: #36404c; }
      .line { stroke: #7db4f5; }
      .dot { fill: #7db4f5; }
      .diamond, text { fill: #eef2f7; }
    }"""

Group = Sequence[tuple[str, Estimate]]
"""Label and log ratio of each row; the first row is the mean over all tasks, the others
are of parts of them.
"""


def draw(title: str, groups: Sequence[Group]) -> str:
    """Return the picture of some groups of log ratios."""
    height = TOP + sum(ROW * len(rows) + GAP for rows in groups) + BOTTOM
    words = "; ".join(
        ", ".join(f"{label} {ratio_text(of)}" for label, of in rows) for rows in groups
    )
    body = "\n".join(f"  {line}" for line in _lines(title, groups, height))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"'
        f' width="{WIDTH}" height="{height}" role="img" aria-labelledby="title'
        f' description">\n  <title id="title">{escape(title)}</title>\n  <desc'
        f' id="description">{escape(words)}</desc>\n  <style>{STYLE}\n '
        f" </style>\n{body}\n</svg>\n"
    )


def _lines(title: str, groups: Sequence[Group], height: int) -> Iterator[str]:
    yield f'<rect class="page" width="{WIDTH}" height="{height}" rx="8"/>'
    yield f'<text class="title" x="10" y="18">{escape(title)}</text>'
    bottom = height - BOTTOM
    middle = (LEFT + RIGHT) / 2
    farthest = max(
        (math.exp(abs(found.value)) for rows in groups for _, found in rows),
        default=1.0,
    )
    limit = next((each for each in LIMITS if each > farthest), LIMITS[-1])
    for tick in (1 / limit, 0.5, 1, 2, limit):
        x = _x(math.log(tick), limit)
        yield (
            f'<path class="{"one" if tick == 1 else "grid"}" d="M{x:.1f}'
            f' {TOP - 6}V{bottom}"/>'
        )
        yield f'<text class="middle" x="{x:.1f}" y="{bottom + 14}">{tick:.3g}</text>'
    yield (
        f'<text class="end" x="{middle - 6:.1f}" y="{TOP - 10}">← better than'
        " nft</text>"
    )
    yield f'<text x="{middle + 6:.1f}" y="{TOP - 10}">worse →</text>'
    note = "geometric means and 95 % intervals over tasks (their number)"
    yield f'<text class="end" x="{WIDTH - 8}" y="{height - 8}">{note}</text>'
    y = TOP
    for rows in groups:
        for number, (label, found) in enumerate(rows):
            y += ROW
            name = " whole-name" if number == 0 else ""
            yield (
                f'<text class="end{name}" x="{LEFT - 8}" y="{y}">{escape(label)}</text>'
            )
            yield (
                f'<text class="end{name}" x="{WIDTH - 8}"'
                f' y="{y}">{ratio_text(found)}</text>'
            )
            yield from _mark(found, y - 4, limit, whole=number == 0)
        y += GAP


def _mark(found: Estimate, y: float, limit: float, *, whole: bool) -> Iterator[str]:
    x = _x(found.value, limit)
    low, high = found.ends
    if not math.isnan(low):
        yield (
            f'<path class="{"whole" if whole else "line"}" d="M{_x(low, limit):.1f}'
            f' {y}H{_x(high, limit):.1f}"/>'
        )
        for end, way in ((low, -1), (high, 1)):
            if end * way > math.log(limit):
                place = f"M{_x(end, limit) + 3 * way:.1f} {y}l{-8 * way} -4v8z"
                yield f'<path class="{"diamond" if whole else "dot"}" d="{place}"/>'
    if whole:
        yield f'<path class="diamond" d="M{x - 5:.1f} {y}l5 -5l5 5l-5 5z"/>'
    else:
        yield f'<circle class="dot" cx="{x:.1f}" cy="{y}" r="3.5"/>'


def _x(log: float, limit: float) -> float:
    """Return the place of a log ratio on the axis that ends at ``limit``, at its end if
    it is beyond.
    """
    share = max(-1.0, min(1.0, log / math.log(limit)))
    return (LEFT + RIGHT) / 2 + share * (RIGHT - LEFT) / 2
