"""The page of an adaptation: an HTML file beside a model, without a program, that opens
without a network.

A ``report`` has the fields of `orca_ray.selection.Report` as JSON values.
"""

import base64
import html
import io
import itertools
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import pandas as pd

from orca_ray.errors import printable

Array = np.ndarray[Any, Any]
Points = Sequence[Sequence[float]]

MOST_CLASSES = 12
MOST_POINTS = 800
MOST_PIXELS = 96
"""Number of classes of a confusion matrix (the most frequent), of points of a chart, of
pixels of a side of a field.
"""
_SAMPLES = {
    "a better one than most": 0.1,
    "a typical one": 0.5,
    "a worse one than most": 0.9,
}
"""Samples whose fields are shown, by the quantile of their error."""
_VALUES = np.array(
    [(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)]
)
_SIGNED = np.array([(33, 102, 172), (247, 247, 247), (178, 24, 43)])
"""Colours of values, from low to high, and of differences around zero."""


def interval(row: Mapping[str, Any]) -> str:
    """Return a score of a report with its interval, e.g. "0.12 [0.1, 0.15]"."""
    return f"{row['score']:.4g} [{row['low']:.4g}, {row['high']:.4g}]"


def score_lines(report: Mapping[str, Any]) -> list[str]:
    """Return sentences about the scores in a report, and about the size and the latency
    of its model.
    """
    folds = f"a model that has not seen it ({report['num_folds']} folds)"
    judged = (
        f"each predicted by {folds}"
        if report["num_folds"] > 1
        else "the validation split"
    )
    lines = [
        f"Score {interval(report)}, with its 90 % interval, is expected on new samples."
    ]
    if report["num_folds"]:
        score = report.get("out_of_fold", report["score"])
        lines.append(f"{score:.4g} on {report['num_samples']:,} samples, {judged}.")
    if report["holdout"] is not None:
        seen = (
            "that no choice has seen"
            if report["num_folds"]
            else "that were held out, and chose one of three models"
        )
        lines.append(
            f"{report['holdout']:.4g} on {report['num_holdout']:,} samples {seen}."
        )
    base = [row for row in report["standings"] if row["method"] == report["baseline"]]
    lines += [f"Best baseline: {row['method']}, {interval(row)}." for row in base]
    size = report["size_mb"]
    latency = report["latency_ms"]
    measured = (
        [f"{size:.3g} MB; {latency:.3g} ms for one sample, where the model was made."]
        if size
        else []
    )
    return lines + measured


def adaptation_page(
    report: Mapping[str, Any],
    findings: Iterable[Sequence[str]],
    warnings: Iterable[str],
    evidence: str,
    *,
    name: str,
    folder: str,
) -> str:
    """Return the page of an adaptation to the data ``name``, whose model is in
    ``folder``.

    ``findings`` say what was inferred from the data: property, value, reason, and the
    option that changes the value. ``warnings`` are about the data. ``evidence`` is the
    result of `make_evidence`, or "".
    """
    here = Path(__file__).parent
    place = shlex.quote(folder)
    texts = {key: report[key] for key in ("model", "metric", "verdict")}
    axis, methods = _methods(report)
    warned = _paragraphs(warnings)
    return Template((here / "adaptation.html").read_text(encoding="utf-8")).substitute(
        {
            key: _escaped(text)
            for key, text in {**texts, "name": name, "place": place}.items()
        },
        policy=(
            "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri"
            " 'none'; form-action 'none'"
        ),
        style=(here / "page.css").read_text(encoding="utf-8"),
        scores=_paragraphs(score_lines(report)),
        warnings=(
            '<div class="brief warnings"><h2>Warnings about the'
            f" data</h2>{warned}</div>"
            if warned
            else ""
        ),
        axis=axis,
        methods=methods,
        evidence=evidence,
        curve=_curve(report["curve"]),
        findings="\n".join(_row(map(_escaped, cells)) for cells in findings),
    )


def _escaped(text: object) -> str:
    return html.escape(printable(str(text)))


def _paragraphs(texts: Iterable[str]) -> str:
    return "".join(f"<p>{_escaped(text)}</p>" for text in texts)


def _row(cells: Iterable[str]) -> str:
    first, *others = cells
    return (
        "<tr><th"
        f' scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in others)}</tr>'
    )


def _figure(title: str, body: str) -> str:
    return f"<figure><figcaption><h3>{title}</h3></figcaption>{body}</figure>"


def _methods(report: Mapping[str, Any]) -> tuple[str, str]:
    """Return the head of the column of intervals, and the rows of the table: the model,
    then the methods.
    """
    rows = [{**report, "method": "this model", "colour": "--ink"}]
    rows += [
        {**row, "colour": "--c0" if row.get("pretrained") else "--c1"}
        for row in report["standings"]
    ]
    low = min(row["low"] for row in rows)
    middle = float(np.median([row["score"] for row in rows]))
    # A bad method does not press the others together: its interval ends at the edge.
    highest = max(row["high"] for row in rows)
    high = min(highest, low + 4 * (middle - low)) if middle > low else highest
    pixels = [
        np.interp([row["low"], row["score"], row["high"]], (low, high), (6, 214)).round(
            1
        )
        for row in rows
    ]
    bases = [
        at
        for (_, at, _), row in zip(pixels, rows, strict=True)
        if row["method"] == report["baseline"]
    ]
    dashes = "".join(f'<path class="dashed" d="M{at} 0v30"/>' for at in bases)
    found = []
    for (left, at, right), row in zip(pixels, rows, strict=True):
        bar = f'<path d="M{left} 15H{right}"/><circle cx="{at}" cy="15" r="4"/>'
        drawn = (
            '<svg class="bar" viewBox="0 0 220 30" style="color:'
            f' var({row["colour"]})">{dashes}{bar}</svg>'
        )
        seconds = f"{row['seconds']:.3g}" if "seconds" in row else ""
        found.append(
            _row(
                [
                    _escaped(row["method"]),
                    drawn,
                    interval(row),
                    str(row["num_folds"] or ""),
                    seconds,
                ]
            )
        )
    ends = (
        f'<text x="6" y="20">{low:.3g}</text><text x="214" y="20"'
        f' text-anchor="end">{high:.3g}</text>'
    )
    return f'<svg class="bar" viewBox="0 0 220 30">{ends}</svg>', "\n".join(found)


def _chart(title: str, **marks: Points) -> str:
    """Return a chart of points (x, y), by how they are drawn: as ``dots``, ``line`` or
    ``dashed`` line.
    """
    (left, bottom), (right, top) = (
        end(np.concatenate([*marks.values()]), axis=0) for end in (np.min, np.max)
    )
    paths = ['<path class="frame" d="M56 6V194H374"/>']
    for name, points in marks.items():
        x, y = np.transpose(points)
        across = np.interp(x, (left, right), (60, 370))
        up = np.interp(y, (bottom, top), (190, 10))
        places = [f"{a:.1f} {b:.1f}" for a, b in zip(across, up, strict=True)]
        paths.append(
            f'<path class="{name}"'
            f' d="M{("h0M" if name == "dots" else "L").join(places)}h0"/>'
        )
    ends = (
        (60, 210, "start", left),
        (370, 210, "end", right),
        (52, 194, "end", bottom),
        (52, 18, "end", top),
    )
    texts = (
        f'<text x="{a}" y="{b}" text-anchor="{anchor}">{value:.4g}</text>'
        for a, b, anchor, value in ends
    )
    return _figure(
        title,
        f'<svg class="chart" viewBox="0 0 380 216">{"".join([*paths, *texts])}</svg>',
    )


def _curve(curve: Points) -> str:
    steps = [
        point
        for (_, before), after in itertools.pairwise(curve)
        for point in ((after[0], before), after)
    ]
    return (
        _chart("Best score against seconds", line=[*curve[:1], *steps]) if steps else ""
    )


def make_evidence(
    predictions: Array, targets: Array, label_names: Sequence[str] = ()
) -> str:
    """Return a figure of out-of-fold predictions beside the targets, as HTML; "" if no
    target is known.

    Args:
        predictions: probabilities [N, K] of classes or labels, numbers [N], or fields
            [N, *shape].
        targets: classes [N] as integers, labels [N, K] as 0 and 1, numbers [N], or
            fields [N, *shape].
        label_names: names of the classes or labels; they must be given for labels.
    """
    finite = np.isfinite(targets.reshape(len(targets), -1)).all(axis=1)
    known = np.flatnonzero(
        finite & (targets >= 0) if targets.dtype.kind in "iu" else finite
    )
    if not len(known):
        return ""
    if targets.ndim < predictions.ndim:
        names = label_names or list(map(str, range(predictions.shape[1])))
        common = sorted(pd.Series(targets[known]).value_counts().index[:MOST_CLASSES])
        counts = pd.crosstab(targets[known], predictions[known].argmax(axis=1))
        counts = counts.reindex(index=common, columns=common, fill_value=0)
        shown = [names[k] for k in common]
        return _table(
            "True class (rows) and predicted class (columns)",
            shown,
            shown,
            counts.to_numpy(),
        )
    if targets.ndim == 1:
        pairs = np.stack([targets[known], predictions[known]], axis=1).astype(float)
        half, most = np.quantile(np.abs(pairs[:, 1] - pairs[:, 0]), [0.5, 0.9])
        shown = pairs[
            np.unique(np.linspace(0, len(pairs) - 1, MOST_POINTS).astype(int))
        ]
        title = (
            f"Predicted (up) against true (across): half within {half:.3g}, nine of ten"
            f" within {most:.3g}"
        )
        return _chart(
            title,
            dots=shown.tolist(),
            dashed=[2 * [pairs[:, 0].min()], 2 * [pairs[:, 0].max()]],
        )
    if targets.ndim == 2 and label_names:
        found = predictions[known] > 0.5
        true = targets[known] > 0.5
        totals = [
            each.sum(axis=0)
            for each in (found & true, ~found & true, found & ~true, ~found & ~true)
        ]
        columns = "found", "missed", "wrongly found", "rightly absent"
        return _table(
            "Labels, from a probability of 0.5",
            label_names,
            columns,
            np.stack(totals, axis=1),
        )
    errors = [float(np.square(predictions[row] - targets[row]).mean()) for row in known]
    order = known[np.argsort(errors, kind="stable")]
    parts = []
    for what, quantile in _SAMPLES.items():
        row = order[round(quantile * (len(order) - 1))]
        true = _plane(targets[row])
        predicted = _plane(predictions[row])
        most = float(np.abs(predicted - true).max())
        parts += [
            f"<p>{what}</p>",
            *(
                _image(each, true.min(), true.max(), _VALUES)
                for each in (true, predicted)
            ),
        ]
        parts.append(_image(predicted - true, -most, most, _SIGNED))
    return _figure(
        "Fields: true, predicted, difference",
        f'<div class="fields">{"".join(parts)}</div>',
    )


def _table(
    title: str, names: Sequence[str], columns: Sequence[str], counts: Array
) -> str:
    """Return a table of counts, each coloured by its share of the row."""
    tint = "background: color-mix(in srgb, var(--tint) {:.0f}%, transparent)"
    shares = 60 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    head = "".join(f'<th scope="col">{_escaped(each)}</th>' for each in columns)
    rows = []
    for name, *row in zip(names, counts.tolist(), shares.tolist(), strict=True):
        cells = (
            f'<td style="{tint.format(share)}">{count}</td>'
            for count, share in zip(*row, strict=True)
        )
        rows.append(f'<tr><th scope="row">{_escaped(name)}</th>{"".join(cells)}</tr>')
    table = (
        "<table"
        f' class="matrix"><thead><tr><th></th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    )
    return _figure(title, f'<div class="scroll">{table}</div>')


def _plane(field: Array) -> Array:
    """Return the first channel of a field, [H, W] or [1, L], with at most `MOST_PIXELS`
    values a side.
    """
    plane = np.atleast_2d(
        field.reshape(-1, *field.shape[-2:])[0] if field.ndim > 2 else field
    )
    height, width = (-(-side // MOST_PIXELS) for side in plane.shape)
    return np.asarray(plane[::height, ::width], dtype=float)


def _image(values: Array, low: float, high: float, colours: Array) -> str:
    """Return a picture [H, W] as an HTML element; ``low`` and ``high`` get the first
    and last of ``colours``.
    """
    from PIL import Image

    stops = low + np.linspace(0, 1, len(colours)) * ((high - low) or 1)
    pixels = np.stack(
        [np.interp(values, stops, each) for each in colours.T], axis=-1
    ).astype(np.uint8)
    Image.fromarray(pixels).save(buffer := io.BytesIO(), "PNG")
    return (
        '<img alt=""'
        f' src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
    )
