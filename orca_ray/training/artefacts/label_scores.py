"""Average precision, AUROC and share of positive test samples of each label of a multi-label task."""

import warnings
from collections.abc import Iterator

from orca_ray.results.artefacts import Bars, BarSeries, rounded
from orca_ray.tasks.dense_metrics import area_under_roc
from orca_ray.training.artefact import ArtefactKind, Evaluated


def _compute(evaluated: Evaluated) -> Iterator[tuple[str, Bars]]:
    from sklearn.metrics import average_precision_score

    positive = evaluated.y > 0
    columns: list[tuple[float | None, float | None]] = []
    for label, logits in zip(positive.T, evaluated.predictions.T, strict=True):
        if not 0 < label.sum() < len(label):
            columns.append((None, None))
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            precision_of_label, area_of_label = average_precision_score(label, logits), area_under_roc(logits, label)
        columns.append((rounded(float(precision_of_label)), rounded(float(area_of_label))))
    precision, area = zip(*columns, strict=True)
    yield (
        "test",
        Bars(
            title="Scores of each label on the test split",
            caption="Labels without both positive and negative samples have no score.",
            x="label",
            series=(
                BarSeries("average precision", precision),
                BarSeries("area under the ROC curve", area),
                BarSeries("share of positive samples", tuple(rounded(share) for share in positive.mean(axis=0))),
            ),
        ),
    )


ARTEFACT = ArtefactKind(
    name="label_scores", needs=Evaluated, applies=lambda task: task.target.kind == "labels", compute=_compute
)
