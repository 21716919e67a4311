"""Average precision, AUROC and share of positive test samples of each label of a multi-label task."""

from collections.abc import Iterator

from orca_ray.data.rows import Array
from orca_ray.results.artefacts import Bars, BarSeries, rounded
from orca_ray.tasks.dense_metrics import area_under_roc
from orca_ray.training.artefact import ArtefactKind, Evaluated


def _scores(positive_N: Array, logits_N: Array) -> tuple[float | None, float | None]:
    from sklearn.metrics import average_precision_score

    if not 0 < positive_N.sum() < len(positive_N):
        return None, None
    return rounded(average_precision_score(positive_N, logits_N)), rounded(area_under_roc(logits_N, positive_N))


def _compute(evaluated: Evaluated) -> Iterator[tuple[str, Bars]]:
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


ARTEFACT = ArtefactKind(
    name="label_scores", needs=Evaluated, applies=lambda task: task.target.kind == "labels", compute=_compute
)
