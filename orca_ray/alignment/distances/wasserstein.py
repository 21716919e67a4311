"""Exact optimal transport between the points of two sides, solved by POT."""

from collections.abc import Mapping

import ot
import torch
from torch import Tensor

from orca_ray.alignment import distance as contract
from orca_ray.alignment.blocks import half_squared_distances
from orca_ray.alignment.distance import Diagnosis, Distance
from orca_ray.errors import UserError

_COPIES = 8
"""Matrices [n, N] in float64 that a call takes at its peak (measured: 7): the cost with what its gradient needs, the
plan, and the solver's network, of 25 bytes a pair."""
_MAX_ITERATIONS = 10_000_000


class Wasserstein(Distance):
    """½ W₂² of the features, blind to labels: the least mean cost ½‖x − y‖² of carrying one side to the other.

    No regularisation, so nothing to tune and nothing to debias, in the units of squared features. POT's network simplex
    (Bonneel et al. 2011) runs on the CPU in about O(n N (n + N)) for n target and N source points: fine for some
    hundreds on each side, tens of times the price of `sinkhorn` for thousands. The gradient is y_j − Σ_i P_ij x_i / b_j
    of the plan P, piecewise constant in P (envelope theorem).

    Raises:
        UserError: where the matrices of a call take more than `distance.MEMORY_BYTES`.
    """

    name = "wasserstein"
    degree = 2

    def _prepare(self, x_ND: Tensor, y_N: Tensor, terms: Mapping[str, Tensor]) -> None:
        self._center_D = x_ND.mean(0)
        self._x_ND = x_ND - self._center_D

    def _distance(self, x_nD: Tensor, y_n: Tensor, shares_L: Tensor) -> Tensor:
        n, num_source = len(x_nD), len(self._x_ND)
        needed = _COPIES * 8 * n * num_source
        if needed > contract.MEMORY_BYTES:
            raise UserError(
                f"wasserstein between {n} target and {num_source} source samples takes {needed / 1e6:.1f} MB, more "
                f"than the {contract.MEMORY_BYTES / 1e6:.1f} MB that a call may use: take fewer (align.samples, "
                "align.source_samples), or distance sinkhorn, which works in blocks"
            )
        cost_nN = half_squared_distances(x_nD - self._center_D, self._x_ND)
        plan_nN, solved = _plan(cost_nN.detach())
        if not solved:
            note = (
                "the exact transport was stopped at its limit of iterations: take fewer samples, or distance sinkhorn"
            )
            self.diagnosis = Diagnosis(converged=False, iterations=_MAX_ITERATIONS, notes=(note,))
        return (plan_nN * cost_nN).sum()


def _plan(cost_nN: Tensor) -> tuple[Tensor, bool]:
    """Return an optimal plan between uniform weights, and whether it is one."""
    weights_n, weights_N = (torch.full((size,), 1.0 / size, dtype=torch.float64) for size in cost_nN.shape)
    unit = cost_nN / (cost_nN.mean() or 1.0)  # the solver takes differences below an absolute 1e-16 or so for none
    plan, log = ot.emd(
        weights_n.numpy(),
        weights_N.numpy(),
        unit.cpu().numpy(),
        numItermax=_MAX_ITERATIONS,
        log=True,
        check_marginals=False,
    )
    return torch.from_numpy(plan).to(cost_nN), log["warning"] is None


DISTANCE = Wasserstein
