"""Debiased entropic transport between the points of two sides, with or without their labels."""

import logging
from collections.abc import Mapping

import torch
from torch import Tensor

from orca_ray.alignment.distance import Distance
from orca_ray.alignment.entropic import TOLERANCE, Ledger, epsilon_for, self_potential, self_transport, transport
from orca_ray.alignment.kernel import Side

logger = logging.getLogger(__name__)


class Sinkhorn(Distance):
    """Sinkhorn divergence of the features, blind to labels (Feydy et al. 2019, arXiv:1810.08278).

        value = OT(target, source) − ½ OT(source, source) − ½ OT(target, target)

    with the cost ½‖x − y‖², uniform weights, and OT the entropic transport cost at eps = 0.05 of the mean cost between
    points of the source, in the units of squared features: scaling both sides by s scales the value by s².

    Solved to an L1 error of 1e-7 of the plans' marginals (`sinkhorn.TOLERANCE`), which takes 20 to 60 iterations where
    the two sides are of like scale; the gradient is that of the solution, in closed form. What a call took, and whether
    it got there within 500 iterations, is in `diagnosis`.

    OT(source, source) is computed by `fit`, and its potential is where the iterations of a call start. A call costs
    O((N + n) n D) for the costs and O((N + n) n) an iteration.
    """

    name = "sinkhorn"
    version = 2
    degree = 2

    def _source_terms(self, x_ND: Tensor, y_N: Tensor) -> Mapping[str, Tensor]:
        center_D = x_ND.mean(0)
        side = Side(x_ND - center_D, y_N)
        ledger = Ledger()
        label_terms, w_KK = self._source_labels(side, ledger)
        mean_cost = float(side.x_nD.var(0, correction=0).sum())
        if w_KK is not None:
            shares_K = torch.bincount(y_N) / x_ND.new_tensor(len(y_N))
            mean_cost += 0.5 * float(shares_K @ w_KK @ shares_K)
        epsilon = epsilon_for(mean_cost, x_ND)
        own, potential_N = self_potential(side, w_KK, epsilon, ledger, "the source and itself")
        for note in ledger.notes:
            logger.warning("%s: %s", self.name, note)
        plain = {"epsilon": x_ND.new_tensor(epsilon), "error": x_ND.new_tensor(ledger.error)}
        return {**plain, "own": own, "potential": potential_N, **label_terms}

    def _prepare(self, x_ND: Tensor, y_N: Tensor, terms: Mapping[str, Tensor]) -> None:
        self._center_D = x_ND.mean(0)
        self._side = Side(x_ND - self._center_D, y_N)
        self._epsilon = float(terms["epsilon"])
        self._source_error = float(terms["error"])
        self._own, self._potential_N = terms["own"].to(x_ND), terms["potential"].to(x_ND)

    def _distance(self, x_nD: Tensor, y_n: Tensor, shares_L: Tensor) -> Tensor:
        ledger = Ledger()
        x_nD = x_nD - self._center_D
        w_LK, w_LL = self._label_distances(x_nD, y_n, ledger)
        across = transport(
            Side(x_nD, y_n),
            self._side,
            w_LK,
            self._epsilon,
            ledger,
            "target and source",
            start_m=self._potential_N,
        )
        alone = Side(x_nD - x_nD.detach().mean(0), y_n)
        own = self_transport(alone, w_LL, self._epsilon, ledger, "the target and itself")
        if not self._source_error <= TOLERANCE:
            ledger.note(
                "the source's own terms ended before their tolerance: the distance is off by a constant or more"
            )
        self.diagnosis = ledger.diagnosis()
        return across - 0.5 * (self._own + own)

    def _source_labels(self, side: Side, ledger: Ledger) -> tuple[Mapping[str, Tensor], Tensor | None]:
        """Return terms of the source's classes, and the distances [K, K] between them, if labels play a part."""
        return {}, None

    def _label_distances(self, x_nD: Tensor, y_n: Tensor, ledger: Ledger) -> tuple[Tensor | None, Tensor | None]:
        """Return the distances between classes, [L, K] and [L, L], if labels play a part."""
        return None, None


DISTANCE = Sinkhorn
