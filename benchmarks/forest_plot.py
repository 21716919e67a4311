"""A forest plot as SVG: ratios with intervals on a logarithmic axis.

It is legible at 400 pixels, in light and dark colours.
"""

import math
from collections.abc import Iterator, Sequence
from html import escape

from benchmarks.findings import ratio_text
from benchmarks.regression import Estimate

WIDTH = 400
"""Width of the picture in pixels."""
LEFT = 140
"""Pixels from the left edge to the start of the axis."""
RIGHT = 285
"""Pixels from the left edge to the end of the axis."""
TOP = 44
"""Pixels above the rows."""
ROW = 15
"""Height of a row in pixels."""
GAP = 7
"""Pixels between groups of rows."""
BOTTOM = 40
"""Pixels below the rows."""
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
    text { font: 11px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; \
fill: #17202b; }
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
"""Style sheet of the picture."""

Group = Sequence[tuple[str, Estimate]]
"""Label and log ratio of each row.

The first row is the mean over all tasks, the others are means over some of the tasks.
"""


def draw(
    title: str, groups: Sequence[Group], *, reference: str = "nft", units: str = "tasks"
) -> str:
    """Return the picture of some groups of log ratios to a ``reference``.

    Means are over ``units``.
    """
    height = TOP + sum(ROW * len(rows) + GAP for rows in groups) + BOTTOM
    descriptions = [
        ", ".join(f"{label} {ratio_text(estimate)}" for label, estimate in rows)
        for rows in groups
    ]
    lines = _lines(title, groups, height, reference, units)
    body = "\n".join(f"  {line}" for line in lines)
    description = escape("; ".join(descriptions))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"'
        f' width="{WIDTH}" height="{height}" role="img"'
        ' aria-labelledby="title description">\n'
        f'  <title id="title">{escape(title)}</title>\n'
        f'  <desc id="description">{description}</desc>\n'
        f"  <style>{STYLE}\n  </style>\n"
        f"{body}\n"
        "</svg>\n"
    )


def _lines(
    title: str, groups: Sequence[Group], height: int, reference: str, units: str
) -> Iterator[str]:
    yield f'<rect class="page" width="{WIDTH}" height="{height}" rx="8"/>'
    yield f'<text class="title" x="10" y="18">{escape(title)}</text>'
    bottom = height - BOTTOM
    limit = _limit(groups)
    for tick in (1 / limit, 0.5, 1, 2, limit):
        x = _x(math.log(tick), limit)
        style = "one" if tick == 1 else "grid"
        yield f'<path class="{style}" d="M{x:.1f} {TOP - 6}V{bottom}"/>'
        yield f'<text class="middle" x="{x:.1f}" y="{bottom + 14}">{tick:.3g}</text>'
    middle = (LEFT + RIGHT) / 2
    yield (
        f'<text class="end" x="{middle - 6:.1f}" y="{TOP - 10}">← better than'
        f" {escape(reference)}</text>"
    )
    yield f'<text x="{middle + 6:.1f}" y="{TOP - 10}">worse →</text>'
    note = f"geometric means and 95 % intervals over {units} (their number)"
    yield f'<text class="end" x="{WIDTH - 8}" y="{height - 8}">{note}</text>'
    y = TOP
    for rows in groups:
        for number, (label, estimate) in enumerate(rows):
            y += ROW
            is_whole = number == 0
            style = "end whole-name" if is_whole else "end"
            ratio = ratio_text(estimate)
            yield f'<text class="{style}" x="{LEFT - 8}" y="{y}">{escape(label)}</text>'
            yield f'<text class="{style}" x="{WIDTH - 8}" y="{y}">{ratio}</text>'
            yield from _mark(estimate, y - 4, limit, whole=is_whole)
        y += GAP


def _limit(groups: Sequence[Group]) -> float:
    """Return the ratio at the right end of the axis."""
    ratios = [math.exp(abs(estimate.value)) for rows in groups for _, estimate in rows]
    farthest = max(ratios, default=1.0)
    return next((limit for limit in LIMITS if limit > farthest), LIMITS[-1])


def _mark(estimate: Estimate, y: float, limit: float, *, whole: bool) -> Iterator[str]:
    """Yield the mark of a mean and its interval; a mean over all tasks is a diamond."""
    low, high = estimate.ends
    if not math.isnan(low):
        style = "whole" if whole else "line"
        start = _x(low, limit)
        end = _x(high, limit)
        yield f'<path class="{style}" d="M{start:.1f} {y}H{end:.1f}"/>'
        arrow_style = "diamond" if whole else "dot"
        for log, direction in ((low, -1), (high, 1)):
            if log * direction > math.log(limit):
                tip = _x(log, limit) + 3 * direction
                path = f"M{tip:.1f} {y}l{-8 * direction} -4v8z"
                yield f'<path class="{arrow_style}" d="{path}"/>'
    x = _x(estimate.value, limit)
    if whole:
        yield f'<path class="diamond" d="M{x - 5:.1f} {y}l5 -5l5 5l-5 5z"/>'
    else:
        yield f'<circle class="dot" cx="{x:.1f}" cy="{y}" r="3.5"/>'


def _x(log: float, limit: float) -> float:
    """Return the place of a log ratio on the axis, at an end if it is beyond.

    The axis ends at the ratio ``limit``.
    """
    share = max(-1.0, min(1.0, log / math.log(limit)))
    return (LEFT + RIGHT) / 2 + share * (RIGHT - LEFT) / 2
