"""The kinds of artefacts: fields, features before and after aligning, samples, and
scores.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from orca_ray.data.rows import Array
from orca_ray.results.artefacts import (
    Bars,
    BarSeries,
    Group,
    Image,
    Images,
    Lines,
    Matrix,
    Picture,
    Plot,
    Points,
    Quantised,
    Series,
    rounded,
)
from orca_ray.tasks.metrics import area_under_roc
from orca_ray.tasks.task import Task
from orca_ray.training.artefacts.base import (
    Aligned,
    ArtefactKind,
    Evaluated,
    evenly,
    shrunk,
)

MAX_FIELD_SIDE = 96
MAX_LINE = 256
"""Largest side of an image of a field, and largest length of a line; three such images
fit into one artefact.
"""
MAX_INPUT_SIDE = 128
MAX_COLOUR_SIDE = 96
MAX_LINES = 4
MAX_CLASSES = 100
MAX_POINTS = 500
_SHOWN_LABELS = 5


def _compute_field(evaluated: Evaluated) -> Iterator[tuple[str, Picture]]:
    axes = tuple(range(1, evaluated.y.ndim))
    errors_N = ((evaluated.predictions - evaluated.y) ** 2).mean(
        axis=axes, dtype=np.float64
    )
    yield "first", _field(evaluated, 0, "Test sample 0")
    if worst := int(errors_N.argmax()):
        yield (
            "worst",
            _field(
                evaluated, worst, f"Test sample {worst}, which has the largest error"
            ),
        )


def _field(evaluated: Evaluated, sample: int, title: str) -> Picture:
    true = np.asarray(evaluated.y[sample], np.float64)
    predicted = np.asarray(evaluated.predictions[sample], np.float64)
    caption = f"Root mean squared error {np.sqrt(((predicted - true) ** 2).mean()):.4g}"
    flat = len(evaluated.task.input_shape or ()) == 2
    channels = (
        len(true.reshape(-1, true.shape[-1]))
        if flat
        else (len(true) if true.ndim > 2 else 1)
    )
    caption += f"; the first of {channels} channels is shown." if channels > 1 else "."
    if flat:
        true, predicted = (
            values.reshape(channels, -1)[0] for values in (true, predicted)
        )
        parts = (("true", true), ("predicted", predicted), ("error", predicted - true))
        series = tuple(
            Series(name, Quantised.encode(shrunk(values, MAX_LINE)))
            for name, values in parts
        )
        return Lines(title=title, caption=caption, x="position", series=series)
    true, predicted = (
        shrunk(np.atleast_2d(values[0] if values.ndim > 2 else values), MAX_FIELD_SIDE)
        for values in (true, predicted)
    )
    ends = min(true.min(), predicted.min()), max(true.max(), predicted.max())
    most = float(np.abs(predicted - true).max())
    return Images(
        title=title,
        caption=caption,
        panels=(
            Image("true", Quantised.encode(true, *ends)),
            Image("predicted", Quantised.encode(predicted, *ends)),
            Image(
                "predicted − true",
                Quantised.encode(predicted - true, -most, most),
                "diverging",
            ),
        ),
    )


def principal_plane(x_ND: Array) -> tuple[Array, Array]:
    """Return the mean [D] and the first two principal components [2, D] of features; a
    component without variance is 0.

    The largest entry of each component is positive. The Gram matrix takes a tenth of
    the time of an SVD.
    """
    mean_D = x_ND.mean(axis=0)
    centred_ND = x_ND - mean_D
    values, vectors_NN = np.linalg.eigh(centred_ND @ centred_ND.T)
    components_2D = np.zeros((2, x_ND.shape[1]))
    for number, column in enumerate(np.argsort(-values, kind="stable")[:2]):
        direction_D = vectors_NN[:, column] @ centred_ND
        length = float(np.linalg.norm(direction_D))
        if length > 1e-9 * float(np.linalg.norm(centred_ND)):
            components_2D[number] = (
                direction_D
                / length
                * np.sign(direction_D[np.abs(direction_D).argmax()])
            )
    return mean_D, components_2D


def gaps(source_MD: Array, target_ND: Array) -> tuple[float, float]:
    """Return the centroid gap and the distribution gap, which together are the squared
    Fréchet distance of features.

    The first is the squared distance of the means. The second is that of the centred
    features: the squared Bures distance of their covariances, which is too large for
    few samples. Both are relative to the variance of the source; NaN if that is 0.
    After Liu et al., arXiv:2604.00279, whose samples are paired.
    """
    means = source_MD.mean(axis=0), target_ND.mean(axis=0)
    source_MD, target_ND = (
        (x - m) / len(x) ** 0.5
        for x, m in zip((source_MD, target_ND), means, strict=True)
    )
    variances = float((source_MD**2).sum()), float((target_ND**2).sum())
    if not variances[0]:
        return math.nan, math.nan
    spread = sum(variances) - 2 * float(np.linalg.norm(source_MD @ target_ND.T, "nuc"))
    return (
        float(((means[0] - means[1]) ** 2).sum()) / variances[0],
        max(spread, 0.0) / variances[0],
    )


def _compute_features(aligned: Aligned) -> Iterator[tuple[str, Points | Bars]]:
    """Yield source and target features in the principal plane before aligning, so that
    both plots share their axes.
    """
    source, before, after = (
        np.asarray(part, np.float64)
        for part in (aligned.source, aligned.before, aligned.after)
    )
    mean_D, components_2D = principal_plane(np.concatenate([source, before]))
    flat = [(part - mean_D) @ components_2D.T for part in (source, before, after)]
    low = np.concatenate(flat).min(axis=0)
    high = np.concatenate(flat).max(axis=0)

    def group(title: str, points: Array, classes: Array | None) -> Group:
        x, y = (
            Quantised.encode(points[:, axis], float(low[axis]), float(high[axis]))
            for axis in (0, 1)
        )
        return Group(title, x, y, None if classes is None else tuple(map(int, classes)))

    shared = group("source", flat[0], aligned.source_classes)
    centroid, distribution = zip(gaps(source, before), gaps(source, after), strict=True)
    means, spreads = (
        f"{before:.3g} before and {after:.3g} after"
        for before, after in (centroid, distribution)
    )
    yield (
        "aligning",
        Points(
            title="Features before and after aligning",
            caption=(
                "Principal components of the source's and the training samples' features"
                f" before aligning. Centroid gap {means}, distribution gap {spreads}."
            ),
            x="first component",
            y="second component",
            panels=(
                Plot("before", (shared, group("target", flat[1], aligned.classes))),
                Plot("after", (shared, group("target", flat[2], aligned.classes))),
            ),
        ),
    )
    yield (
        "gap",
        Bars(
            title="Gap between source and target, before (0) and after (1) aligning",
            caption=(
                "Centroid gap: of the means; distribution gap: of centred features; in"
                " variances of the source."
            ),
            x="before, after",
            series=(
                BarSeries("centroid gap", tuple(map(rounded, centroid))),
                BarSeries("distribution gap", tuple(map(rounded, distribution))),
            ),
        ),
    )


def _compute_sample(evaluated: Evaluated) -> Iterator[tuple[str, Picture]]:
    if evaluated.task.target.kind == "labels":
        yield "first", _sample(evaluated, 0, "Test sample 0", _labels(evaluated, 0))
        return
    right = evaluated.predictions.argmax(axis=1) == evaluated.y
    for name, chosen in (("correct", right), ("wrong", ~right)):
        if chosen.any():
            sample = int(chosen.argmax())
            title = f"Test sample {sample}, predicted {name}ly"
            yield name, _sample(evaluated, sample, title, _class(evaluated, sample))


def _class(evaluated: Evaluated, sample: int) -> str:
    logits = np.asarray(evaluated.predictions[sample], dtype=np.float64)
    shares = np.exp(logits - logits.max())
    best = int(logits.argmax())
    probability = shares[best] / shares.sum()
    return (
        f"True class {int(evaluated.y[sample])}, predicted class {best} (probability"
        f" {probability:.2f})."
    )


def _labels(evaluated: Evaluated, sample: int) -> str:
    logits = np.asarray(evaluated.predictions[sample], dtype=np.float64)
    best = np.argsort(-logits, kind="stable")[:_SHOWN_LABELS]
    true = (
        ", ".join(map(str, np.flatnonzero(evaluated.y[sample] > 0)[:_SHOWN_LABELS]))
        or "none"
    )
    predicted = ", ".join(
        f"{label} ({(1 + np.tanh(logits[label] / 2)) / 2:.2f})" for label in best
    )
    return f"True labels: {true}. Highest probabilities: {predicted}."


def _sample(evaluated: Evaluated, sample: int, title: str, caption: str) -> Picture:
    x = np.asarray(evaluated.input(sample), dtype=np.float64)
    one_hot = len(x) > 1 and bool(np.isin(x, (0.0, 1.0)).all())
    if x.ndim == 2 and len(x) <= MAX_LINES and not one_hot:
        lines = (Quantised.encode(shrunk(line, MAX_LINE)) for line in x)
        series = tuple(
            Series(f"channel {number}", line) for number, line in enumerate(lines)
        )
        return Lines(title=title, caption=caption, x="position", series=series)
    return Images(
        title=title, caption=caption, panels=(_input(x, evaluated.task.domain),)
    )


def _input(x: Array, domain: str) -> Image:
    """Return x [C, L] as an image with C rows, and of x [C, H, W] the colours or the
    first channel.
    """
    if x.ndim == 2:
        return Image(
            "channels and positions", Quantised.encode(shrunk(x, MAX_INPUT_SIDE))
        )
    if len(x) == 3 and "image" in domain:
        return Image(
            "input",
            Quantised.encode(shrunk(x.transpose(1, 2, 0), MAX_COLOUR_SIDE)),
            "colour",
        )
    rows = x[0, ::-1] if domain == "audio" else x[0]  # low frequencies at the bottom
    return Image(
        "input",
        Quantised.encode(shrunk(rows, MAX_INPUT_SIDE)),
        "grey" if "image" in domain else "sequential",
    )


def _compute_label_scores(evaluated: Evaluated) -> Iterator[tuple[str, Bars]]:
    from sklearn.metrics import average_precision_score

    def scores(positive_N: Array, logits_N: Array) -> tuple[float | None, float | None]:
        if not 0 < positive_N.sum() < len(positive_N):
            return None, None
        return rounded(average_precision_score(positive_N, logits_N)), rounded(
            area_under_roc(logits_N, positive_N)
        )

    positive = evaluated.y > 0
    precision, area = zip(
        *map(scores, positive.T, evaluated.predictions.T), strict=True
    )
    yield (
        "test",
        Bars(
            title="Scores of each label on the test split",
            caption="Labels without both positive and negative samples have no score.",
            x="label",
            series=(
                BarSeries("average precision", precision),
                BarSeries("area under the ROC curve", area),
                BarSeries(
                    "share of positive samples",
                    tuple(map(rounded, positive.mean(axis=0))),
                ),
            ),
        ),
    )


def _compute_confusion_matrix(evaluated: Evaluated) -> Iterator[tuple[str, Matrix]]:
    size = evaluated.task.target.size
    counts = np.zeros((size, size), dtype=np.int64)
    np.add.at(counts, (evaluated.y, evaluated.predictions.argmax(axis=1)), 1)
    right = int(np.trace(counts))
    yield (
        "test",
        Matrix(
            title="Confusion matrix of the test split",
            caption=f"{right} of {len(evaluated.y)} samples are right.",
            rows="true class",
            columns="predicted class",
            counts=tuple(map(tuple, counts.tolist())),
        ),
    )


def _compute_scatter(evaluated: Evaluated) -> Iterator[tuple[str, Points]]:
    chosen = evenly(len(evaluated.y), MAX_POINTS)
    true = evaluated.y[chosen]
    predicted = evaluated.predictions[chosen]
    ends = (
        float(min(true.min(), predicted.min())),
        float(max(true.max(), predicted.max())),
    )
    group = Group(
        "test", Quantised.encode(true, *ends), Quantised.encode(predicted, *ends)
    )
    yield (
        "test",
        Points(
            title="True and predicted values of the test split",
            caption=f"{len(chosen)} of {len(evaluated.y)} samples.",
            x="true",
            y="predicted",
            panels=(Plot("test", (group,)),),
            diagonal=True,
        ),
    )


def _has_confusion_matrix(task: Task) -> bool:
    return task.target.kind == "classes" and task.target.size <= MAX_CLASSES


_OF_PREDICTIONS: Sequence[
    tuple[
        str,
        Callable[[Task], bool],
        Callable[[Evaluated], Iterator[tuple[str, Picture]]],
    ]
] = (
    ("confusion_matrix", _has_confusion_matrix, _compute_confusion_matrix),
    ("field", lambda task: task.target.kind == "dense", _compute_field),
    ("label_scores", lambda task: task.target.kind == "labels", _compute_label_scores),
    (
        "sample",
        lambda task: (
            task.target.kind in ("classes", "labels") and task.domain != "tabular"
        ),
        _compute_sample,
    ),
    ("scatter", lambda task: task.target.kind == "scalar", _compute_scatter),
)
"""Name of each kind that shows predictions, the tasks that have it, and the function
that computes its pictures.
"""

ARTEFACTS = (
    ArtefactKind(
        name="features",
        needs=Aligned,
        applies=lambda task: True,
        compute=_compute_features,
    ),
    *(
        ArtefactKind(name=name, needs=Evaluated, applies=applies, compute=compute)
        for name, applies, compute in _OF_PREDICTIONS
    ),
)
