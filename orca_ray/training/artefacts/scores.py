"""Predictions of a whole split: confusion matrix, scores of each label, true against predicted numbers."""

from collections.abc import Iterator

import numpy as np

from orca_ray.data.rows import Array
from orca_ray.results.artefacts import Bars, BarSeries, Group, Matrix, Plot, Points, Quantised, rounded
from orca_ray.tasks.dense_metrics import area_under_roc
from orca_ray.training.artefacts.base import ArtefactKind, Evaluated, evenly


def _scores(positive_N: Array, logits_N: Array) -> tuple[float | None, float | None]:
    from sklearn.metrics import average_precision_score

    if not 0 < positive_N.sum() < len(positive_N):
        return None, None
    return rounded(average_precision_score(positive_N, logits_N)), rounded(area_under_roc(logits_N, positive_N))


def _compute_label_scores(evaluated: Evaluated) -> Iterator[tuple[str, Bars]]:
    positive = evaluated.y > 0
    precision, area = zip(*map(_scores, positive.T, evaluated.predictions.T), strict=True)
    shares = tuple(rounded(share) for share in positive.mean(axis=0))
    picture = Bars(
        title="Scores of each label on the test split",
        caption="Labels without both positive and negative samples have no score.",
        x="label",
        series=(
            BarSeries("average precision", precision),
            BarSeries("area under the ROC curve", area),
            BarSeries("share of positive samples", shares),
        ),
    )
    yield "test", picture


_LABEL_SCORES = ArtefactKind(
    name="label_scores",
    needs=Evaluated,
    applies=lambda task: task.target.kind == "labels",
    compute=_compute_label_scores,
)


MAX_CLASSES = 100


def _compute_confusion_matrix(evaluated: Evaluated) -> Iterator[tuple[str, Matrix]]:
    size = evaluated.task.target.size
    counts = np.zeros((size, size), dtype=np.int64)
    np.add.at(counts, (evaluated.y, evaluated.predictions.argmax(axis=1)), 1)
    right = int(np.trace(counts))
    yield "test", Matrix(
        title="Confusion matrix of the test split", caption=f"{right} of {len(evaluated.y)} samples are right.",
        rows="true class", columns="predicted class", counts=tuple(map(tuple, counts.tolist())),
    )  # fmt: skip


_CONFUSION_MATRIX = ArtefactKind(
    name="confusion_matrix",
    needs=Evaluated,
    applies=lambda task: task.target.kind == "classes" and task.target.size <= MAX_CLASSES,
    compute=_compute_confusion_matrix,
)


MAX_POINTS = 500


def _compute_scatter(evaluated: Evaluated) -> Iterator[tuple[str, Points]]:
    chosen = evenly(len(evaluated.y), MAX_POINTS)
    true, predicted = evaluated.y[chosen], evaluated.predictions[chosen]
    ends = float(min(true.min(), predicted.min())), float(max(true.max(), predicted.max()))
    group = Group("test", Quantised.encode(true, *ends), Quantised.encode(predicted, *ends))
    yield "test", Points(
        title="True and predicted values of the test split", caption=f"{len(chosen)} of {len(evaluated.y)} samples.",
        x="true", y="predicted", panels=(Plot("test", (group,)),), diagonal=True,
    )  # fmt: skip


_SCATTER = ArtefactKind(
    name="scatter", needs=Evaluated, applies=lambda task: task.target.kind == "scalar", compute=_compute_scatter
)

ARTEFACTS = (_LABEL_SCORES, _CONFUSION_MATRIX, _SCATTER)
