"""Optimal transport dataset distance: transport between labelled points.

The costs include class distances.
"""

import logging
from collections.abc import Mapping

import torch
from torch import Tensor

from orca_ray.alignment.cost import CostMatrix, Gaussians
from orca_ray.alignment.distance import Distance
from orca_ray.alignment.transport import (
    TOLERANCE,
    SolverReport,
    epsilon_for,
    self_transport,
    transport,
)

logger = logging.getLogger(__name__)


class OTDD(Distance):
    """Debiased entropic OTDD, with all target classes in one problem.

        value = OT(target, source) − ½ OT(source, source) − ½ OT(target, target)

    After arXiv:2002.02923; debiasing after arXiv:1810.08278. OT is the entropic
    transport cost (`transport`) with uniform weights. Points are (feature, class)
    pairs. The cost between two points is C = ½‖x − y‖² + ½ W[class of x, class of y],
    where W is the squared 2-Wasserstein distance between the Gaussians fitted to the
    two classes' points (`Gaussians`). eps is 0.05 times the mean cost within the
    source. The solvers stop at an L1 error of 1e-7 of the plan's marginals, and the
    gradient, through both terms of C, is that of the solution. A call costs O((N + n) n
    D), and O((N + n) n) per iteration.

    The ORCA reference solves one problem per target class and treats W as constant, so
    labels do not affect its gradient. Here labels affect the gradient, because W
    depends on the target features. Computing W takes about as long as the transport if
    classes have 128 points.
    """

    name = "otdd"
    uses_labels = True
    version = 3
    degree = 2

    def _source_terms(self, x_ND: Tensor, y_N: Tensor) -> Mapping[str, Tensor]:
        """Return eps, the classes' Gaussians, and OT of the source to itself."""
        x_ND = x_ND - x_ND.mean(0)
        report = SolverReport()
        label_terms = Gaussians.of(_classes(x_ND, y_N)).terms()
        w_KK = Gaussians.from_terms(label_terms, x_ND).pairwise_distances()
        shares_K = torch.bincount(y_N) / x_ND.new_tensor(len(y_N))
        mean_cost = float(x_ND.var(0, correction=0).sum())
        mean_cost += 0.5 * float(shares_K @ w_KK @ shares_K)
        epsilon = epsilon_for(mean_cost, x_ND)
        cost = CostMatrix(
            x_ND, w_LK=w_KK, labels=(y_N, y_N), what="the source and itself"
        )
        value, potential_N = self_transport(cost, epsilon, report)
        for note in report.notes:
            logger.warning("%s: %s", self.name, note)
        return {
            "epsilon": x_ND.new_tensor(epsilon),
            "error": x_ND.new_tensor(report.error),
            "own": value,
            "potential": potential_N,
            **label_terms,
        }

    def _prepare(self, x_ND: Tensor, y_N: Tensor, terms: Mapping[str, Tensor]) -> None:
        self._center_D = x_ND.mean(0)
        self._x_ND = x_ND - self._center_D
        self._y_N = y_N
        self._epsilon = float(terms["epsilon"])
        self._source_error = float(terms["error"])
        self._source_value = terms["own"].to(x_ND)
        self._potential_N = terms["potential"].to(x_ND)
        self._gaussians = Gaussians.from_terms(terms, x_ND)

    def _distance(self, x_nD: Tensor, y_n: Tensor, shares_L: Tensor) -> Tensor:
        """Return the Sinkhorn divergence between target and source.

        The divergence is OT between both minus half of OT of each to itself.
        """
        report = SolverReport()
        x_nD = x_nD - self._center_D
        classes = _classes(x_nD, y_n)
        num_singles = sum(len(points) == 1 for points in classes)
        if num_singles:
            report.notes.append(
                f"{num_singles} of {len(classes)} target classes have one sample: they"
                " count as points, without spread"
            )
        gaussians = Gaussians.of(classes)
        w_LK = self._gaussians.distances(gaussians).T
        w_LL = gaussians.pairwise_distances()
        cost = CostMatrix(
            x_nD, self._x_ND, w_LK, labels=(y_n, self._y_N), what="target and source"
        )
        across = transport(cost, self._epsilon, report, self._potential_N)
        centred_nD = x_nD - x_nD.detach().mean(0)
        target_cost = CostMatrix(
            centred_nD, w_LK=w_LL, labels=(y_n, y_n), what="the target and itself"
        )
        target_value, _ = self_transport(target_cost, self._epsilon, report)
        if not self._source_error <= TOLERANCE:  # true for NaN, too
            report.notes.append(
                "the source's own terms did not converge: the distance is off by a"
                " constant or more"
            )
        self.diagnosis = report.diagnosis()
        return across - 0.5 * (self._source_value + target_value)


def _classes(x_nD: Tensor, y_n: Tensor) -> list[Tensor]:
    """Return the points of each class."""
    return [x_nD[y_n == c] for c in range(int(y_n.max()) + 1)]


DISTANCE = OTDD
