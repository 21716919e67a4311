"""Maximum mean discrepancy with several Gaussian kernels."""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from orca_ray.alignment.cost import Cost
from orca_ray.alignment.distance import Distance

_NUM_KERNELS = 5
"""Of widths 1/4, 1/2, 1, 2, 4 of the bandwidth, as in the reference."""


class MMD(Distance):
    """Squared MMD, blind to labels: mean k(s, s') + mean k(t, t') − 2 mean k(s, t) over all pairs.

    k(x, y) = sum over w in {¼, ½, 1, 2, 4} of exp(−‖x − y‖² / (w h)). It is the biased estimate (V-statistic) of
    Gretton et al. 2012 (JMLR 13:25, eq. 5): never negative, zero on itself. The bandwidth h is the mean of ‖x − y‖²
    over all pairs of different points of source and target together, as in the reference (after DAN, arXiv:1502.02791):
    recomputed at every call, so that the gradient reaches distant targets, and constant in the gradient. ``bandwidth``
    fixes it. A call costs O((N + n)² D).
    """

    name = "mmd"
    version = 2
    degree = 0

    def __init__(self, bandwidth: float | None = None) -> None:
        super().__init__()
        self._given_bandwidth = bandwidth

    def bandwidth(self, x_nD: Tensor) -> float:
        """Return the h used for target features [n, D]."""
        if self._given_bandwidth is not None:
            return self._given_bandwidth
        joint = torch.cat([self._x_ND, x_nD.detach().to(self._x_ND) - self._center_D])
        num = len(joint)
        # Over ordered pairs, ‖x − y‖² sums to 2 num² times the total variance; num (num − 1) pairs differ.
        return 2.0 * float(joint.var(0, correction=0).sum()) * num / (num - 1) or 1.0

    def _prepare(self, x_ND: Tensor, y_N: Tensor, terms: Mapping[str, Tensor]) -> None:
        self._center_D = x_ND.mean(0)
        self._x_ND = x_ND - self._center_D
        self._own = Cost(self._x_ND, what="kernels within the source").store()

    def _distance(self, x_nD: Tensor, y_n: Tensor, shares_L: Tensor) -> Tensor:
        h, x_nD, s_ND = self.bandwidth(x_nD), x_nD - self._center_D, self._x_ND
        moved_nD = x_nD - x_nD.detach().mean(0)  # nearer to the origin, where the distances cancel less
        across, alone = Cost(x_nD, s_ND, what="kernels of target and source"), Cost(moved_nD, what="target kernels")
        return _mean_kernel(self._own, h) + _mean_kernel(alone, h) - 2.0 * _mean_kernel(across, h)


def _mean_kernel(cost: Cost, bandwidth: float) -> Tensor:
    """Return the mean of k over all pairs; blocks are recomputed in the backward pass."""

    def block_sum(rows: slice) -> Tensor:
        return _kernel_sum(cost.rows(rows), bandwidth)

    total = cost.x_nD.new_zeros(())
    if not cost.x_nD.requires_grad:
        total = sum((_kernel_sum(half_rm, bandwidth) for _, half_rm in cost), total)
    for rows in cost.blocks if cost.x_nD.requires_grad else ():
        total = total + cast(Tensor, checkpoint(block_sum, rows, use_reentrant=False, preserve_rng_state=False))
    return total / (cost.shape[0] * cost.shape[1])


def _kernel_sum(half_rm: Tensor, bandwidth: float) -> Tensor:
    kernel = torch.exp(half_rm * (-2.0 / (2.0 ** (_NUM_KERNELS // 2) * bandwidth)))
    total = kernel.sum()
    for _ in range(_NUM_KERNELS - 1):  # each kernel is the square of the wider one
        kernel = kernel.square()
        total = total + kernel.sum()
    return total


DISTANCE = MMD
