"""Optimal transport dataset distance: transport between labelled points, classes being points of a second space."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from orca_ray.alignment.distance import Distance
from orca_ray.alignment.inner import EntropicLabels, GaussianLabels, LabelDistance
from orca_ray.alignment.sinkhorn import entropic_cost, epsilon_for, half_squared_distances, self_entropic_cost


class OTDD(Distance):
    """Debiased entropic OTDD of all target classes jointly (arXiv:2002.02923; debiasing arXiv:1810.08278).

    Points are (feature, class) pairs. The cost between two is C = ½‖x − y‖² + ½ W[class of x, class of y], where W is
    the squared 2-Wasserstein distance between the two classes' points: that of Gaussians by default (`GaussianLabels`),
    or entropic (`EntropicLabels`). With OT the entropic transport cost between uniform measures,

        value = OT(target, source) − ½ OT(source, source) − ½ OT(target, target),

    in the units of squared features. All three use one eps, 0.05 of the mean cost within the source: scaling both sides
    by s scales the value by s². The gradient flows through the features' cost and through W, with the plans of the
    solution (envelope theorem).

    The reference (ORCA) transports one target class at a time, with a constant W: the labels then cancel from its
    gradient. Here they act: moving a class changes what it costs to carry it to each source class.

    OT(source, source), W within the source and the source's class summaries are computed by `fit`. A call costs
    O((N + n) n) a Sinkhorn sweep, O((N + n) n D) for the costs, and what W takes.
    """

    name = "otdd-gaussian"

    def __init__(self, labels: LabelDistance[Any] | None = None) -> None:
        super().__init__()
        self._labels: LabelDistance[Any] = labels or GaussianLabels()

    def _fit(self, x_ND: Tensor, y_N: Tensor) -> None:
        self._center_D = x_ND.mean(0)
        self._x_ND = x_ND - self._center_D
        self._labels.fit(self._x_ND)
        self._one_hot_NK = _one_hot(y_N)
        self._classes = self._labels.summarise(_split(self._x_ND, y_N))
        cost_NN = self._within(self._x_ND, self._one_hot_NK, self._classes)
        self._epsilon = epsilon_for(cost_NN, fallback=float((x_ND * x_ND).sum(1).mean()) or 1.0)
        self._own = self_entropic_cost(cost_NN, self._epsilon)

    def _distance(self, x_nD: Tensor, y_n: Tensor) -> Tensor:
        x_nD = x_nD - self._center_D
        one_hot_nL = _one_hot(y_n)
        classes = self._labels.summarise(_split(x_nD, y_n))
        w_LK = self._labels.between(self._classes, classes).T
        across_nN = half_squared_distances(x_nD, self._x_ND) + 0.5 * one_hot_nL @ w_LK @ self._one_hot_NK.T
        own = self_entropic_cost(self._within(x_nD, one_hot_nL, classes), self._epsilon)
        return entropic_cost(across_nN, self._epsilon) - 0.5 * (self._own + own)

    def _within(self, x_nD: Tensor, one_hot_nL: Tensor, classes: object) -> Tensor:
        """Return C [n, n] between the points of one side, its diagonal exactly zero."""
        x_nD = x_nD - x_nD.detach().mean(0)
        w_LL = self._labels.within(classes)
        off_diagonal = 1.0 - torch.eye(len(x_nD), dtype=x_nD.dtype, device=x_nD.device)
        return off_diagonal * (half_squared_distances(x_nD, x_nD) + 0.5 * one_hot_nL @ w_LL @ one_hot_nL.T)


class EntropicOTDD(OTDD):
    """`OTDD` with entropic transport between classes, too; slower, for small sets or to check the Gaussian one."""

    name = "otdd-entropic"

    def __init__(self) -> None:
        super().__init__(EntropicLabels())


def _one_hot(y_n: Tensor) -> Tensor:
    # A product with it spreads W over pairs of points; indexing would do, but its backward scatters point by point.
    return torch.nn.functional.one_hot(y_n).double()


def _split(x_nD: Tensor, y_n: Tensor) -> Sequence[Tensor]:
    return [x_nD[y_n == c] for c in range(int(y_n.max()) + 1)]
