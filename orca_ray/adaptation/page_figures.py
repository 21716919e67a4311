"""Figures of the page of an adaptation, as HTML and SVG without scripts."""

import base64
import html
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from orca_ray.errors import printable

Array = np.ndarray[Any, Any]
Points = Sequence[Sequence[float]]
"""Points (x, y)."""

MOST_CLASSES = 12
"""Largest number of classes in a confusion matrix, which shows the most frequent ones.
"""
MOST_POINTS = 800
"""Largest number of points in a scatter chart."""
MOST_PIXELS = 96
"""Largest number of pixels along a side of a field."""
FIELD_SAMPLES = {
    "a better one than most": 0.1,
    "a typical one": 0.5,
    "a worse one than most": 0.9,
}
"""Samples whose fields are shown, by the quantile of their error."""
COLOURS_OF_VALUES = np.array(
    [(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)]
)
"""Red, green and blue of values, from low to high."""
COLOURS_OF_DIFFERENCES = np.array([(33, 102, 172), (247, 247, 247), (178, 24, 43)])
"""Red, green and blue of differences, from negative over zero to positive."""
FULL_TINT = 60
"""Tint, in percent, of a table cell that holds all counts of its row."""


def escape(text: object) -> str:
    """Return printable text in which no character is markup."""
    return html.escape(printable(str(text)))


def add_title(title: str, body: str) -> str:
    """Return ``body`` as an HTML figure with a title."""
    return f"<figure><figcaption><h3>{title}</h3></figcaption>{body}</figure>"


def draw_chart(title: str, **marks: Points) -> str:
    """Return a chart of points (x, y).

    ``marks`` are points by the way in which they are drawn: as ``dots``, as a ``line``
    or as a ``dashed`` line.
    """
    # Numbers are places in a drawing that is 380 wide and 216 high, y downwards.
    points = np.concatenate([*marks.values()])
    left, bottom = np.min(points, axis=0)
    right, top = np.max(points, axis=0)
    paths = ['<path class="frame" d="M56 6V194H374"/>']
    for name, marked in marks.items():
        x, y = np.transpose(marked)
        across = np.interp(x, (left, right), (60, 370))
        up = np.interp(y, (bottom, top), (190, 10))
        coordinates = [f"{a:.1f} {b:.1f}" for a, b in zip(across, up, strict=True)]
        # Lines of length 0 with round ends, "h0", are dots.
        joint = "h0M" if name == "dots" else "L"
        paths.append(f'<path class="{name}" d="M{joint.join(coordinates)}h0"/>')
    ends = (
        (60, 210, "start", left),
        (370, 210, "end", right),
        (52, 194, "end", bottom),
        (52, 18, "end", top),
    )
    texts = [
        f'<text x="{x}" y="{y}" text-anchor="{anchor}">{value:.4g}</text>'
        for x, y, anchor, value in ends
    ]
    drawing = "".join([*paths, *texts])
    return add_title(title, f'<svg class="chart" viewBox="0 0 380 216">{drawing}</svg>')


def make_evidence(
    predictions: Array, targets: Array, label_names: Sequence[str] = ()
) -> str:
    """Return a figure of out-of-fold predictions beside the targets, as HTML.

    "" if no target is known.

    Args:
        predictions: probabilities [N, K] of classes or labels, numbers [N], or fields
            [N, *shape].
        targets: classes [N] as integers, labels [N, K] as 0 and 1, numbers [N], or
            fields [N, *shape].
        label_names: names of the classes or labels; they must be given for labels.
    """
    is_known = np.isfinite(targets.reshape(len(targets), -1)).all(axis=1)
    if targets.dtype.kind in "iu":
        is_known = is_known & (targets >= 0)
    rows = np.flatnonzero(is_known)
    if not len(rows):
        return ""
    if targets.ndim < predictions.ndim:
        return _confusion_matrix(predictions[rows], targets[rows], label_names)
    if targets.ndim == 1:
        return _scatter_chart(predictions[rows], targets[rows])
    if targets.ndim == 2 and label_names:
        return _label_table(predictions[rows], targets[rows], label_names)
    return _field_images(predictions[rows], targets[rows])


def _confusion_matrix(
    predictions: Array, targets: Array, label_names: Sequence[str]
) -> str:
    """Return the confusion matrix of probabilities [N, K] and classes [N].

    Only the `MOST_CLASSES` most frequent classes are shown.
    """
    names = label_names
    if not names:
        names = [str(number) for number in range(predictions.shape[1])]
    common = sorted(pd.Series(targets).value_counts().index[:MOST_CLASSES])
    counts = pd.crosstab(targets, predictions.argmax(axis=1))
    counts = counts.reindex(index=common, columns=common, fill_value=0)
    common_names = [names[number] for number in common]
    title = "True class (rows) and predicted class (columns)"
    return _table(title, common_names, common_names, counts.to_numpy())


def _scatter_chart(predictions: Array, targets: Array) -> str:
    """Return a chart of predicted numbers [N] against true ones [N]."""
    pairs = np.stack([targets, predictions], axis=1).astype(float)
    errors = np.abs(pairs[:, 1] - pairs[:, 0])
    median, ninth_tenth = np.quantile(errors, [0.5, 0.9])
    # Rows that are shown, evenly spaced.
    shown = np.unique(np.linspace(0, len(pairs) - 1, MOST_POINTS).astype(int))
    title = (
        f"Predicted (up) against true (across): half within {median:.3g}, nine of ten"
        f" within {ninth_tenth:.3g}"
    )
    least = pairs[:, 0].min()
    most = pairs[:, 0].max()
    diagonal = [[least, least], [most, most]]
    return draw_chart(title, dots=pairs[shown].tolist(), dashed=diagonal)


def _label_table(predictions: Array, targets: Array, label_names: Sequence[str]) -> str:
    """Return a table of hits and misses of probabilities [N, K] of labels."""
    is_found = predictions > 0.5
    is_true = targets > 0.5
    counts = {
        "found": is_found & is_true,
        "missed": ~is_found & is_true,
        "wrongly found": is_found & ~is_true,
        "rightly absent": ~is_found & ~is_true,
    }
    totals = np.stack([cells.sum(axis=0) for cells in counts.values()], axis=1)
    title = "Labels, from a probability of 0.5"
    return _table(title, label_names, list(counts), totals)


def _field_images(predictions: Array, targets: Array) -> str:
    """Return pictures of a good, a typical and a bad prediction of fields."""
    errors = [
        float(np.square(predicted - true).mean())
        for predicted, true in zip(predictions, targets, strict=True)
    ]
    order = np.argsort(errors, kind="stable")
    parts = list[str]()
    for description, quantile in FIELD_SAMPLES.items():
        row = order[round(quantile * (len(order) - 1))]
        true = _plane(targets[row])
        predicted = _plane(predictions[row])
        difference = predicted - true
        most = float(np.abs(difference).max())
        low = true.min()
        high = true.max()
        parts += [
            f"<p>{description}</p>",
            _image(true, low, high, COLOURS_OF_VALUES),
            _image(predicted, low, high, COLOURS_OF_VALUES),
            _image(difference, -most, most, COLOURS_OF_DIFFERENCES),
        ]
    body = f'<div class="fields">{"".join(parts)}</div>'
    return add_title("Fields: true, predicted, difference", body)


def _table(
    title: str, names: Sequence[str], columns: Sequence[str], counts: Array
) -> str:
    """Return a table of counts, each coloured by its share of the row."""
    totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    tints = FULL_TINT * counts / totals
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    rows = [
        _table_row(name, row_counts, row_tints)
        for name, row_counts, row_tints in zip(
            names, counts.tolist(), tints.tolist(), strict=True
        )
    ]
    table = (
        '<table class="matrix">'
        f"<thead><tr><th></th>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )
    return add_title(title, f'<div class="scroll">{table}</div>')


def _table_row(name: str, counts: Sequence[int], tints: Sequence[float]) -> str:
    style = "background: color-mix(in srgb, var(--tint) {:.0f}%, transparent)"
    cells = [
        f'<td style="{style.format(tint)}">{count}</td>'
        for count, tint in zip(counts, tints, strict=True)
    ]
    return f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>'


def _plane(field: Array) -> Array:
    """Return the first channel of a field, [H, W] or [1, L].

    It has at most `MOST_PIXELS` values a side.
    """
    if field.ndim > 2:
        field = field.reshape(-1, *field.shape[-2:])[0]
    plane = np.atleast_2d(field)
    # The quotients are rounded up.
    height_step, width_step = (-(-side // MOST_PIXELS) for side in plane.shape)
    return np.asarray(plane[::height_step, ::width_step], dtype=float)


def _image(values: Array, low: float, high: float, colours: Array) -> str:
    """Return values [H, W] as a picture in an HTML element.

    The value ``low`` is shown in the first of ``colours``, ``high`` in the last one.
    """
    from PIL import Image

    span = high - low
    if span == 0:
        span = 1
    stops = low + np.linspace(0, 1, len(colours)) * span
    channels = [np.interp(values, stops, channel) for channel in colours.T]
    pixels = np.stack(channels, axis=-1).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    content = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="" src="data:image/png;base64,{content}">'
