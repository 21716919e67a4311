"""The kinds of artefacts: fields, features, samples, and scores.

Features are shown before and after aligning.
"""

import math
from collections.abc import Iterator

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
    shrink,
    spaced_indices,
)

MAX_FIELD_SIDE = 96
"""Largest side of an image of a field; three such images fit into one artefact."""
MAX_LINE = 256
"""Largest number of points of a line."""
MAX_INPUT_SIDE = 128
"""Largest side of a grey image of an input."""
MAX_COLOUR_SIDE = 96
"""Largest side of a colour image of an input."""
MAX_LINES = 4
"""Series of at most this many channels are shown as lines, others as an image."""
MAX_CLASSES = 100
"""Tasks of more classes have no confusion matrix."""
MAX_POINTS = 500
"""Largest number of points of a scatter plot."""
_SHOWN_LABELS = 5
"""Largest number of true and of predicted labels in a caption."""
_NO_VARIANCE = 1e-9
"""A principal component below this part of the features' norm has no variance."""


def _compute_field(evaluated: Evaluated) -> Iterator[tuple[str, Picture]]:
    """Yield the first test sample, and the one with the largest error."""
    axes = tuple(range(1, evaluated.y.ndim))
    squares = (evaluated.predictions - evaluated.y) ** 2
    errors_N = squares.mean(axis=axes, dtype=np.float64)
    yield "first", _field(evaluated, sample=0, title="Test sample 0")
    worst = int(errors_N.argmax())
    if worst > 0:
        title = f"Test sample {worst}, which has the largest error"
        yield "worst", _field(evaluated, worst, title)


def _field(evaluated: Evaluated, sample: int, title: str) -> Picture:
    """Return the true and the predicted field of a sample, and their difference."""
    true = np.asarray(evaluated.y[sample], np.float64)
    predicted = np.asarray(evaluated.predictions[sample], np.float64)
    input_shape = evaluated.task.input_shape
    is_series = input_shape is not None and len(input_shape) == 2
    num_channels = 1
    if is_series:
        num_channels = len(true.reshape(-1, true.shape[-1]))
    elif true.ndim > 2:
        num_channels = len(true)
    error = np.sqrt(((predicted - true) ** 2).mean())
    caption = f"Root mean squared error {error:.4g}"
    if num_channels > 1:
        caption += f"; the first of {num_channels} channels is shown."
    else:
        caption += "."
    if is_series:
        true_line = true.reshape(num_channels, -1)[0]
        predicted_line = predicted.reshape(num_channels, -1)[0]
        return _field_lines(true_line, predicted_line, title, caption)
    return _field_images(_first_plane(true), _first_plane(predicted), title, caption)


def _field_lines(true: Array, predicted: Array, title: str, caption: str) -> Lines:
    """Return lines of a true and a predicted series, and of their difference."""
    lines = {"true": true, "predicted": predicted, "error": predicted - true}
    series = tuple(
        Series(name, Quantised.encode(shrink(values, MAX_LINE)))
        for name, values in lines.items()
    )
    return Lines(title=title, caption=caption, x="position", series=series)


def _first_plane(field: Array) -> Array:
    """Return the first channel of a field as a plane, shrunk for an image."""
    plane = field[0] if field.ndim > 2 else field
    return shrink(np.atleast_2d(plane), MAX_FIELD_SIDE)


def _field_images(true: Array, predicted: Array, title: str, caption: str) -> Images:
    """Return images of a true and a predicted field, and of their difference."""
    low = min(true.min(), predicted.min())
    high = max(true.max(), predicted.max())
    difference = predicted - true
    most = float(np.abs(difference).max())
    encoded_difference = Quantised.encode(difference, -most, most)
    return Images(
        title=title,
        caption=caption,
        panels=(
            Image("true", Quantised.encode(true, low, high)),
            Image("predicted", Quantised.encode(predicted, low, high)),
            Image("predicted − true", encoded_difference, "diverging"),
        ),
    )


def principal_plane(x_ND: Array) -> tuple[Array, Array]:
    """Return the mean [D] and two principal components [2, D] of features.

    A component without variance is 0. The largest entry of each component is positive.
    The Gram matrix takes a tenth of the time of an SVD.
    """
    mean_D = x_ND.mean(axis=0)
    centred_ND = x_ND - mean_D
    values, vectors_NN = np.linalg.eigh(centred_ND @ centred_ND.T)
    components_2D = np.zeros((2, x_ND.shape[1]))
    for component, column in enumerate(np.argsort(-values, kind="stable")[:2]):
        direction_D = vectors_NN[:, column] @ centred_ND
        length = float(np.linalg.norm(direction_D))
        if length > _NO_VARIANCE * float(np.linalg.norm(centred_ND)):
            largest_entry = direction_D[np.abs(direction_D).argmax()]
            components_2D[component] = direction_D / length * np.sign(largest_entry)
    return mean_D, components_2D


def gaps(source_MD: Array, target_ND: Array) -> tuple[float, float]:
    """Return the centroid gap and the distribution gap.

    Together, they are the squared Fréchet distance of features. The first is the
    squared distance of the means. The second is that of the centred features: the
    squared Bures distance of their covariances, which is too large for few samples.
    Both are relative to the variance of the source; NaN if that is 0. After Liu et al.,
    arXiv:2604.00279, whose samples are paired.
    """
    source_mean_D = source_MD.mean(axis=0)
    target_mean_D = target_ND.mean(axis=0)
    centred_source_MD = (source_MD - source_mean_D) / len(source_MD) ** 0.5
    centred_target_ND = (target_ND - target_mean_D) / len(target_ND) ** 0.5
    source_variance = float((centred_source_MD**2).sum())
    target_variance = float((centred_target_ND**2).sum())
    if source_variance == 0:
        return math.nan, math.nan
    centroid_gap = float(((source_mean_D - target_mean_D) ** 2).sum())
    overlap = float(np.linalg.norm(centred_source_MD @ centred_target_ND.T, "nuc"))
    distribution_gap = source_variance + target_variance - 2 * overlap
    return (
        centroid_gap / source_variance,
        max(distribution_gap, 0.0) / source_variance,
    )


def _compute_features(aligned: Aligned) -> Iterator[tuple[str, Points | Bars]]:
    """Yield features before and after aligning, and their gaps to the source."""
    source = np.asarray(aligned.source, np.float64)
    before = np.asarray(aligned.before, np.float64)
    after = np.asarray(aligned.after, np.float64)
    centroid, distribution = zip(gaps(source, before), gaps(source, after), strict=True)
    gap_caption = (
        f"Centroid gap {_before_and_after(centroid)}, distribution gap"
        f" {_before_and_after(distribution)}."
    )
    yield (
        "aligning",
        Points(
            title="Features before and after aligning",
            caption=(
                "Principal components of the source's and the training samples'"
                f" features before aligning. {gap_caption}"
            ),
            x="first component",
            y="second component",
            panels=_feature_plots(aligned, source, before, after),
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


def _before_and_after(gap: tuple[float, float]) -> str:
    before, after = gap
    return f"{before:.3g} before and {after:.3g} after"


def _feature_plots(
    aligned: Aligned, source: Array, before: Array, after: Array
) -> tuple[Plot, Plot]:
    """Return source and target features in the principal plane before aligning.

    So both plots share their axes.
    """
    mean_D, components_2D = principal_plane(np.concatenate([source, before]))
    projected = [(part - mean_D) @ components_2D.T for part in (source, before, after)]
    low = np.concatenate(projected).min(axis=0)
    high = np.concatenate(projected).max(axis=0)

    def group(title: str, points: Array, classes: Array | None) -> Group:
        x, y = (
            Quantised.encode(points[:, axis], float(low[axis]), float(high[axis]))
            for axis in (0, 1)
        )
        class_ids = None if classes is None else tuple(map(int, classes))
        return Group(title, x, y, class_ids)

    source_2D, before_2D, after_2D = projected
    source_group = group("source", source_2D, aligned.source_classes)
    before_group = group("target", before_2D, aligned.classes)
    after_group = group("target", after_2D, aligned.classes)
    return (
        Plot("before", (source_group, before_group)),
        Plot("after", (source_group, after_group)),
    )


def _compute_sample(evaluated: Evaluated) -> Iterator[tuple[str, Picture]]:
    """Yield test samples with their predictions.

    These are the first sample that is predicted correctly and the first that is not;
    for labels, the first sample.
    """
    if evaluated.task.target.kind == "labels":
        caption = _describe_labels(evaluated, sample=0)
        yield "first", _sample(evaluated, 0, "Test sample 0", caption)
        return
    is_correct = evaluated.predictions.argmax(axis=1) == evaluated.y
    for name, is_candidate in (("correct", is_correct), ("wrong", ~is_correct)):
        if is_candidate.any():
            sample = int(is_candidate.argmax())
            title = f"Test sample {sample}, predicted {name}ly"
            caption = _describe_class(evaluated, sample)
            yield name, _sample(evaluated, sample, title, caption)


def _describe_class(evaluated: Evaluated, sample: int) -> str:
    """Return the caption of a sample: its true and its predicted class."""
    logits = np.asarray(evaluated.predictions[sample], dtype=np.float64)
    shares = np.exp(logits - logits.max())
    best = int(logits.argmax())
    probability = shares[best] / shares.sum()
    return (
        f"True class {int(evaluated.y[sample])}, predicted class {best} (probability"
        f" {probability:.2f})."
    )


def _describe_labels(evaluated: Evaluated, sample: int) -> str:
    """Return the caption of a sample: its true labels and the most probable ones."""
    logits = np.asarray(evaluated.predictions[sample], dtype=np.float64)
    best = np.argsort(-logits, kind="stable")[:_SHOWN_LABELS]
    probabilities = (1 + np.tanh(logits / 2)) / 2
    predicted = ", ".join(f"{label} ({probabilities[label]:.2f})" for label in best)
    true_labels = np.flatnonzero(evaluated.y[sample] > 0)[:_SHOWN_LABELS]
    true = ", ".join(map(str, true_labels)) if len(true_labels) else "none"
    return f"True labels: {true}. Highest probabilities: {predicted}."


def _sample(evaluated: Evaluated, sample: int, title: str, caption: str) -> Picture:
    """Return the input of a test sample: lines of few channels, or else an image."""
    x = np.asarray(evaluated.input(sample), dtype=np.float64)
    is_one_hot = len(x) > 1 and bool(np.isin(x, (0.0, 1.0)).all())
    if x.ndim == 2 and len(x) <= MAX_LINES and not is_one_hot:
        lines = (Quantised.encode(shrink(line, MAX_LINE)) for line in x)
        series = tuple(
            Series(f"channel {number}", line) for number, line in enumerate(lines)
        )
        return Lines(title=title, caption=caption, x="position", series=series)
    return Images(
        title=title, caption=caption, panels=(_input(x, evaluated.task.domain),)
    )


def _input(x: Array, domain: str) -> Image:
    """Return an input as an image.

    For x [C, L], the image has C rows. For x [C, H, W], it shows the colours or the
    first channel.
    """
    if x.ndim == 2:
        pixels = Quantised.encode(shrink(x, MAX_INPUT_SIDE))
        return Image("channels and positions", pixels)
    is_image = "image" in domain
    if len(x) == 3 and is_image:
        x_HWC = x.transpose(1, 2, 0)
        pixels = Quantised.encode(shrink(x_HWC, MAX_COLOUR_SIDE))
        return Image("input", pixels, "colour")
    rows = x[0]
    if domain == "audio":  # low frequencies at the bottom
        rows = rows[::-1]
    pixels = Quantised.encode(shrink(rows, MAX_INPUT_SIDE))
    return Image("input", pixels, "grey" if is_image else "sequential")


def _compute_label_scores(evaluated: Evaluated) -> Iterator[tuple[str, Bars]]:
    """Yield the scores of each label on the test split."""
    from sklearn.metrics import average_precision_score

    def scores(positive_N: Array, logits_N: Array) -> tuple[float | None, float | None]:
        if not 0 < positive_N.sum() < len(positive_N):
            return None, None
        precision = average_precision_score(positive_N, logits_N)
        area = area_under_roc(logits_N, positive_N)
        return rounded(precision), rounded(area)

    positive = evaluated.y > 0
    scores_of_labels = map(scores, positive.T, evaluated.predictions.T)
    precisions, areas = zip(*scores_of_labels, strict=True)
    shares = tuple(map(rounded, positive.mean(axis=0)))
    yield (
        "test",
        Bars(
            title="Scores of each label on the test split",
            caption="Labels without both positive and negative samples have no score.",
            x="label",
            series=(
                BarSeries("average precision", precisions),
                BarSeries("area under the ROC curve", areas),
                BarSeries("share of positive samples", shares),
            ),
        ),
    )


def _compute_confusion_matrix(evaluated: Evaluated) -> Iterator[tuple[str, Matrix]]:
    """Yield the confusion matrix of the test split."""
    size = evaluated.task.target.size
    counts = np.zeros((size, size), dtype=np.int64)
    np.add.at(counts, (evaluated.y, evaluated.predictions.argmax(axis=1)), 1)
    num_correct = int(np.trace(counts))
    yield (
        "test",
        Matrix(
            title="Confusion matrix of the test split",
            caption=f"{num_correct} of {len(evaluated.y)} samples are right.",
            rows="true class",
            columns="predicted class",
            counts=tuple(map(tuple, counts.tolist())),
        ),
    )


def _compute_scatter(evaluated: Evaluated) -> Iterator[tuple[str, Points]]:
    """Yield the true and the predicted values of evenly spaced test samples."""
    indices = spaced_indices(len(evaluated.y), MAX_POINTS)
    true = evaluated.y[indices]
    predicted = evaluated.predictions[indices]
    low = float(min(true.min(), predicted.min()))
    high = float(max(true.max(), predicted.max()))
    x = Quantised.encode(true, low, high)
    y = Quantised.encode(predicted, low, high)
    yield (
        "test",
        Points(
            title="True and predicted values of the test split",
            caption=f"{len(indices)} of {len(evaluated.y)} samples.",
            x="true",
            y="predicted",
            panels=(Plot("test", (Group("test", x, y),)),),
            diagonal=True,
        ),
    )


def _has_confusion_matrix(task: Task) -> bool:
    return task.target.kind == "classes" and task.target.size <= MAX_CLASSES


def _has_sample(task: Task) -> bool:
    return task.target.kind in ("classes", "labels") and task.domain != "tabular"


ARTEFACTS = (
    ArtefactKind(
        name="features",
        needs=Aligned,
        applies=lambda task: True,
        compute=_compute_features,
    ),
    ArtefactKind(
        name="confusion_matrix",
        needs=Evaluated,
        applies=_has_confusion_matrix,
        compute=_compute_confusion_matrix,
    ),
    ArtefactKind(
        name="field",
        needs=Evaluated,
        applies=lambda task: task.target.kind == "dense",
        compute=_compute_field,
    ),
    ArtefactKind(
        name="label_scores",
        needs=Evaluated,
        applies=lambda task: task.target.kind == "labels",
        compute=_compute_label_scores,
    ),
    ArtefactKind(
        name="sample",
        needs=Evaluated,
        applies=_has_sample,
        compute=_compute_sample,
    ),
    ArtefactKind(
        name="scatter",
        needs=Evaluated,
        applies=lambda task: task.target.kind == "scalar",
        compute=_compute_scatter,
    ),
)
