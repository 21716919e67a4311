"""Maximum mean discrepancy (MMD) with several Gaussian kernels."""

from collections.abc import Mapping

import torch
from torch import Tensor

from orca_ray.alignment.cost import CostMatrix
from orca_ray.alignment.distance import Distance

_NUM_KERNELS = 5
"""Number of kernels.

Their widths are 1/4, 1/2, 1, 2 and 4 times the bandwidth, as in the ORCA reference.
"""


class MMD(Distance):
    """Squared MMD: mean k(s, s') + mean k(t, t') − 2 mean k(s, t).

    The means are over source points s and target points t. k(x, y) = sum over w in {¼,
    ½, 1, 2, 4} of exp(−‖x − y‖² / (w h)). Labels are ignored. This is the biased
    estimate (V-statistic) of Gretton et al. 2012 (JMLR 13:25, eq. 5): never negative,
    zero on itself. Every call computes the bandwidth h as the mean of ‖x − y‖² over all
    pairs of different points of source and target, as in the ORCA reference (after DAN,
    arXiv:1502.02791), so that gradients do not vanish for distant targets. The gradient
    treats h as constant. With N source points, n target points and D features, a call
    costs O(N² + n (N + n) D), or O((N + n)² D) if the squared distances within the
    source do not fit in memory.
    """

    name = "mmd"
    version = 2
    degree = 0
    # At 0.1, the stage ends at a distance a quarter higher.
    learning_rate = 0.2

    def bandwidth(self, x_nD: Tensor) -> float:
        """Return the kernels' bandwidth h in a call with target features ``x_nD``.

        It is the mean squared distance between different points of source and target.
        """
        joint = torch.cat([self._x_ND, x_nD.detach().to(self._x_ND) - self._center_D])
        num = len(joint)
        total_variance = float(joint.var(0, correction=0).sum())
        if total_variance == 0:
            return 1.0
        # Over ordered pairs, ‖x − y‖² sums to 2 num² times the total variance; num (num
        # − 1) pairs differ.
        return 2.0 * total_variance * num / (num - 1)

    def _prepare(self, x_ND: Tensor, y_N: Tensor, terms: Mapping[str, Tensor]) -> None:
        self._center_D = x_ND.mean(0)
        self._x_ND = x_ND - self._center_D
        self._source_cost = CostMatrix(
            self._x_ND, what="kernels within the source"
        ).store()

    def _distance(self, x_nD: Tensor, y_n: Tensor, shares_L: Tensor) -> Tensor:
        """Return the squared MMD, with the gradient for a constant bandwidth."""
        h = self.bandwidth(x_nD)
        wants_gradient = x_nD.requires_grad
        x_nD = x_nD - self._center_D
        with torch.no_grad():
            source_mean, _ = _mean_kernel(self._source_cost, h)
            # Near the origin, squared distances are more accurate.
            centred_nD = x_nD - x_nD.mean(0)
            target_cost = CostMatrix(centred_nD, what="target kernels")
            target_mean, target_nD = _mean_kernel(target_cost, h, wants_gradient)
            cost = CostMatrix(x_nD, self._x_ND, what="kernels of target and source")
            across_mean, across_nD = _mean_kernel(cost, h, wants_gradient)
        # ``linear`` has this gradient, and its value is subtracted again.
        # 2 target_nD: a target point is in a row and in a column.
        linear = (x_nD * (2.0 * (target_nD - across_nD))).sum()
        value = source_mean + target_mean - 2.0 * across_mean
        return value + (linear - linear.detach())


def _mean_kernel(
    cost: CostMatrix, bandwidth: float, wants_gradient: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the mean of the sum of kernels over all pairs, and its gradient [n, D].

    The gradient is with respect to the points of the rows. It is 0 unless
    ``wants_gradient``.
    """
    x_nD = cost.x_nD
    z_mD = cost.z_mD
    total = x_nD.new_zeros(())
    gradient_nD = torch.zeros_like(x_nD)
    for rows, half_rm in cost:
        # exp(slope · ½‖x − z‖²) is the widest kernel.
        slope = -2.0 / (2.0 ** (_NUM_KERNELS // 2) * bandwidth)
        kernel_rm = (half_rm * slope).exp_()
        total += kernel_rm.sum()
        slope_rm = kernel_rm * slope if wants_gradient else None
        for _ in range(_NUM_KERNELS - 1):  # each kernel is the square of the wider one
            slope *= 2.0
            total += kernel_rm.square_().sum()
            if slope_rm is not None:
                slope_rm.add_(kernel_rm, alpha=slope)
        if slope_rm is not None:
            gradient_nD[rows] = (
                slope_rm.sum(1, keepdim=True) * x_nD[rows] - slope_rm @ z_mD
            )
    num_pairs = cost.shape[0] * cost.shape[1]
    return total / num_pairs, gradient_nD / num_pairs


DISTANCE = MMD
