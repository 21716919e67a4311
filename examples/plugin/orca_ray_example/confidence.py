"""A picture: how sure the model is of right and of wrong predictions of classes."""

from collections.abc import Iterator

import numpy as np

from orca_ray.results.artefacts import Bars, BarSeries
from orca_ray.training.artefacts.base import ArtefactKind, Evaluated


def compute(evaluated: Evaluated) -> Iterator[tuple[str, Bars]]:
    """Yield the shares of right and of wrong samples by the model's confidence.

    The confidence is the probability of the predicted class, in tenths.
    """
    logits_NK = np.asarray(evaluated.predictions, np.float64)
    odds_NK = np.exp(logits_NK - logits_NK.max(axis=1, keepdims=True))
    tenths_N = np.minimum((10 / odds_NK.sum(axis=1)).astype(int), 9)
    right_N = logits_NK.argmax(axis=1) == evaluated.y
    series = []
    for title, chosen_N in (("right", right_N), ("wrong", ~right_N)):
        shares = np.bincount(tenths_N[chosen_N], minlength=10) / len(right_N)
        series.append(BarSeries(title, tuple(shares.tolist())))
    bars = Bars(
        title="Confidence on the test split",
        x="tenth of the probability",
        series=tuple(series),
    )
    yield "test", bars


ARTEFACT = ArtefactKind(
    name="confidence",
    needs=Evaluated,
    applies=lambda task: task.target.kind == "classes",
    compute=compute,
)
