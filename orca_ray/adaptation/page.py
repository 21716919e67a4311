"""The page of an adaptation: an HTML file beside a model.

It contains no script, and opens without a network.

A ``report`` has the fields of `orca_ray.adaptation.report.Report` as JSON values.
"""

import itertools
import shlex
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from string import Template
from typing import Any, NamedTuple

import numpy as np

from orca_ray.adaptation.page_figures import Points, draw_chart, escape
from orca_ray.methods.model_card import interval_text, score_lines

MOST_ABOVE_MEDIAN = 4
"""End of the axis of intervals, in distances from the lowest end to the median score.

The interval of a bad method is cut off at this end, so that the other intervals remain
wide enough to be read.
"""
MOST_FEATURES = 30
"""Largest number of features whose importance is shown."""
AXIS_PIXELS = (6, 214)
"""First and last pixel of the axis of intervals."""
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none';"
    " form-action 'none'"
)
"""Content security policy of the page."""


def adaptation_page(
    report: Mapping[str, Any],
    findings: Iterable[Sequence[str]],
    warnings: Iterable[str],
    evidence: str,
    *,
    name: str,
    folder: str,
) -> str:
    """Return the page of an adaptation, as HTML.

    Args:
        report: the report of the model.
        findings: rows about what was inferred from the data: property, value, reason,
            and the option that changes the value.
        warnings: warnings about the data.
        evidence: result of `make_evidence`, or "".
        name: name of the data.
        folder: path of the model folder.
    """
    template = Template(_read("orca_ray.adaptation", "page.html"))
    methods = _method_table(report)
    rows = [_row([escape(cell) for cell in cells]) for cells in findings]
    title = f"{name}: model"
    if report["headline"]:
        title = f"{report['headline']} on {name}"
    return template.substitute(
        title=escape(title),
        place=escape(shlex.quote(folder)),
        model=escape(report["model"]),
        metric=escape(report["metric"]),
        verdict=escape(report["verdict"]),
        policy=POLICY,
        style=_read("orca_ray.leaderboard.page", "page.css"),
        scores=_paragraphs(score_lines(report)),
        warnings=_warnings(warnings),
        axis=methods.axis,
        methods=methods.rows,
        evidence=evidence,
        curve=_curve(report["curve"]),
        importance=_importance(report["importance"]),
        interval=" --interval 0.9" if report["has_intervals"] else "",
        findings="\n".join(rows),
    )


def _read(package: str, name: str) -> str:
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")


def _warnings(warnings: Iterable[str]) -> str:
    """Return a section with the warnings, as HTML; "" if there are none."""
    paragraphs = _paragraphs(warnings)
    if not paragraphs:
        return ""
    return (
        '<div class="brief warnings"><h2>Warnings about the data</h2>'
        f"{paragraphs}</div>"
    )


def _paragraphs(texts: Iterable[str]) -> str:
    return "".join(f"<p>{escape(text)}</p>" for text in texts)


def _row(cells: Sequence[str]) -> str:
    first, *others = cells
    columns = "".join(f"<td>{cell}</td>" for cell in others)
    return f'<tr><th scope="row">{first}</th>{columns}</tr>'


class _MethodTable(NamedTuple):
    """Table of the model and the methods, as HTML."""

    axis: str
    """Head of the column of intervals."""
    rows: str


class _Axis(NamedTuple):
    """Axis of the intervals of scores."""

    low: float
    high: float

    def pixel(self, score: float) -> float:
        """Return the pixel of a score; that of the edge if the score is beyond it."""
        return float(np.interp(score, self, AXIS_PIXELS).round(1))


def _method_table(report: Mapping[str, Any]) -> _MethodTable:
    """Return a table with a row for the model and one for each method."""
    rows = [{**report, "method": "this model", "colour": "--ink"}]
    for row in report["standings"]:
        colour = "--c0" if row.get("pretrained") else "--c1"
        rows.append({**row, "colour": colour})
    axis = _make_axis(rows)
    baselines = [row for row in rows if row["method"] == report["baseline"]]
    # The score of the best baseline, as a dashed line through all rows.
    dashes = "".join(
        f'<path class="dashed" d="M{axis.pixel(row["score"])} 0v30"/>'
        for row in baselines
    )
    ends = (
        f'<text x="6" y="20">{axis.low:.3g}</text><text x="214" y="20"'
        f' text-anchor="end">{axis.high:.3g}</text>'
    )
    head = f'<svg class="bar" viewBox="0 0 220 30">{ends}</svg>'
    return _MethodTable(head, "\n".join(_method_row(row, axis, dashes) for row in rows))


def _make_axis(rows: Sequence[Mapping[str, Any]]) -> _Axis:
    """Return the axis of the intervals in ``rows``.

    The interval of a bad method may exceed it (see `MOST_ABOVE_MEDIAN`).
    """
    low = min(row["low"] for row in rows)
    high = max(row["high"] for row in rows)
    median = float(np.median([row["score"] for row in rows]))
    if median > low:
        high = min(high, low + MOST_ABOVE_MEDIAN * (median - low))
    return _Axis(low, high)


def _method_row(row: Mapping[str, Any], axis: _Axis, dashes: str) -> str:
    """Return a row of the table, with the score as a dot and its interval as a line.

    ``dashes`` are drawn behind them. The drawing is 220 wide and 30 high.
    """
    left = axis.pixel(row["low"])
    right = axis.pixel(row["high"])
    bar = (
        f'<path d="M{left} 15H{right}"/>'
        f'<circle cx="{axis.pixel(row["score"])}" cy="15" r="4"/>'
    )
    drawing = (
        f'<svg class="bar" viewBox="0 0 220 30" style="color: var({row["colour"]})">'
        f"{dashes}{bar}</svg>"
    )
    seconds = f"{row['seconds']:.3g}" if "seconds" in row else ""
    num_folds = str(row["num_folds"]) if row["num_folds"] else ""
    return _row(
        [escape(row["method"]), drawing, interval_text(row), num_folds, seconds]
    )


def _importance(importance: Mapping[str, Any]) -> str:
    """Return a section with the most important features; "" if they are unknown."""
    if not importance:
        return ""
    heading = "<section><h2>Importance of features</h2>"
    features = importance["features"]
    if not features:
        note = (
            "The time was too short to measure it. In Python, model.importance(data)"
            " does."
        )
        return f'{heading}<p class="note">{note}</p></section>'
    shown = features[:MOST_FEATURES]
    scale = max(max(row["importance"] for row in shown), 1e-12)
    rows = "\n".join(_importance_row(row, scale) for row in shown)
    repeats = [row["num_repeats"] for row in features]
    mean = "One repeat."
    if max(repeats) > 1:
        counts = " to ".join(map(str, sorted({min(repeats), max(repeats)})))
        mean = f"Mean of {counts} repeats, with its standard error."
    note = (
        "How much the score rises if the values of one feature are shuffled, on"
        f" {importance['num_samples']:,} samples, each predicted by a model that has"
        f" not seen it. {mean}"
        " Features that tell the same share their importance."
    )
    if len(features) > len(shown):
        note += f" The first {len(shown)} of {len(features)} features."
    return (
        f'{heading}<p class="note">{escape(note)}</p>'
        '<div class="scroll"><table class="methods"><thead><tr>'
        '<th scope="col">Feature</th><th scope="col"></th>'
        '<th scope="col">Importance</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def _importance_row(row: Mapping[str, Any], scale: float) -> str:
    """Return a feature with its importance as a bar; ``scale`` is a whole bar."""
    end = np.interp(row["importance"] / scale, (0, 1), AXIS_PIXELS).round(1)
    bar = f'<path d="M{AXIS_PIXELS[0]} 15H{end}" stroke-width="8"/>'
    drawing = f'<svg class="bar" viewBox="0 0 220 30">{bar}</svg>'
    text = f"{row['importance']:.3g}"
    if row["standard_error"] is not None:
        text += f" ± {row['standard_error']:.1g}"
    return _row([escape(row["feature"]), drawing, escape(text)])


def _curve(curve: Points) -> str:
    """Return a chart of the best score so far, as steps; "" for a single point."""
    steps = [
        point
        for (_, score_before), after in itertools.pairwise(curve)
        for point in ((after[0], score_before), after)
    ]
    if not steps:
        return ""
    return draw_chart("Best score against seconds", line=[*curve[:1], *steps])
