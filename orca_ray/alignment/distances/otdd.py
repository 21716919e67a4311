"""Optimal transport dataset distance: transport between labelled points, classes being points of a second space."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from orca_ray.alignment.distances.sinkhorn import Sinkhorn
from orca_ray.alignment.entropic import Ledger
from orca_ray.alignment.inner import GaussianLabels, LabelDistance
from orca_ray.alignment.kernel import Side


class OTDD(Sinkhorn):
    """Debiased entropic OTDD of all target classes jointly (arXiv:2002.02923; debiasing arXiv:1810.08278).

    Points are (feature, class) pairs. The cost between two is C = ½‖x − y‖² + ½ W[class of x, class of y], where W is
    the squared 2-Wasserstein distance between the two classes' points: that of Gaussians by default (`GaussianLabels`),
    or entropic (`EntropicLabels`). With OT the entropic transport cost between uniform measures,

        value = OT(target, source) − ½ OT(source, source) − ½ OT(target, target),

    in the units of squared features. All three use one eps, 0.05 of the mean cost within the source, W included:
    scaling both sides by s scales the value by s². Tolerance, iterations and start are those of `Sinkhorn`. The
    gradient flows through the features' cost and through W, with the plans of the solution (envelope theorem).

    The reference (ORCA) transports one target class at a time, with a constant W: the labels then cancel from its
    gradient. Here they act: moving a class changes what it costs to carry it to each source class.

    W within the source and the source's class summaries are computed by `fit`, too. A call costs what `Sinkhorn` costs
    and what W takes: about as much at 128 points a class.
    """

    name = "otdd"
    uses_labels = True

    def __init__(self, labels: LabelDistance[Any] | None = None) -> None:
        super().__init__()
        self._labels: LabelDistance[Any] = labels or GaussianLabels()

    def _source_labels(self, side: Side, ledger: Ledger) -> tuple[Mapping[str, Tensor], Tensor]:
        classes = _split(side.x_nD, side.y_n)
        terms = self._labels.source_terms(classes, ledger)
        return terms, self._labels.within(self._labels.restore(classes, terms), ledger)

    def _prepare(self, x_ND: Tensor, y_N: Tensor, terms: Mapping[str, Tensor]) -> None:
        super()._prepare(x_ND, y_N, terms)
        self._classes = self._labels.restore(_split(self._side.x_nD, y_N), terms)

    def _label_distances(self, x_nD: Tensor, y_n: Tensor, ledger: Ledger) -> tuple[Tensor, Tensor]:
        parts = _split(x_nD, y_n)
        if singles := sum(len(part) == 1 for part in parts):
            ledger.note(
                f"{singles} of {len(parts)} target classes have one sample: they count as points, without spread"
            )
        classes = self._labels.summarise(parts, ledger)
        return self._labels.between(self._classes, classes, ledger).T, self._labels.within(classes, ledger)


def _split(x_nD: Tensor, y_n: Tensor | None) -> list[Tensor]:
    assert y_n is not None
    return [x_nD[y_n == c] for c in range(int(y_n.max()) + 1)]


DISTANCE = OTDD
