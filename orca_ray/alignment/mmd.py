"""Maximum mean discrepancy with several Gaussian kernels."""

import torch
from torch import Tensor

from orca_ray.alignment.distance import Distance
from orca_ray.alignment.sinkhorn import half_squared_distances

_NUM_KERNELS = 5  # widths 1/4, 1/2, 1, 2, 4 of the bandwidth, as the reference


class MMD(Distance):
    """Squared MMD, blind to labels: mean k(s, s') + mean k(t, t') − 2 mean k(s, t) over all pairs.

    k(x, y) = sum over w in {¼, ½, 1, 2, 4} of exp(−‖x − y‖² / (w h)). It is the biased estimate (V-statistic) of
    Gretton et al. 2012 (JMLR 13:25, eq. 5): never negative, zero on itself. The bandwidth h is the mean of ‖x − y‖²
    over all pairs of different points of source and target together, as the reference has it (after DAN,
    arXiv:1502.02791): taken anew at every call, so that far-off targets still feel a pull, and constant in the
    gradient. O((N + n)² D) a call.

    Args:
        bandwidth: a fixed h instead, in squared feature units.
    """

    name = "mmd"

    def __init__(self, bandwidth: float | None = None) -> None:
        super().__init__()
        self._given_bandwidth = bandwidth

    def bandwidth(self, x_nD: Tensor) -> float:
        """Return the h used for target features [n, D]: the given one, or the mean squared distance."""
        if self._given_bandwidth is not None:
            return self._given_bandwidth
        joint = torch.cat([self._x_ND, x_nD.detach().to(self._x_ND) - self._center_D])
        num = len(joint)
        # Over ordered pairs, ||x - y||² sums to 2 num² times the total variance; num (num - 1) pairs differ.
        mean = 2.0 * float(joint.var(0, correction=0).sum()) * num / (num - 1)
        return mean if mean > 0 else 1.0

    def _fit(self, x_ND: Tensor, y_N: Tensor) -> None:
        self._center_D = x_ND.mean(0)
        self._x_ND = x_ND - self._center_D
        self._half_NN = half_squared_distances(self._x_ND, self._x_ND)

    def _distance(self, x_nD: Tensor, y_n: Tensor) -> Tensor:
        h = self.bandwidth(x_nD)
        x_nD = x_nD - self._center_D
        own = x_nD - x_nD.detach().mean(0)
        within_source = _kernel_sum(self._half_NN, h).mean()
        within_target = _kernel_sum(half_squared_distances(own, own), h).mean()
        across = _kernel_sum(half_squared_distances(x_nD, self._x_ND), h).mean()
        return within_source + within_target - 2.0 * across


def _kernel_sum(half_nm: Tensor, bandwidth: float) -> Tensor:
    """Sum the kernels for half squared distances; each narrower kernel is the square of the wider before it."""
    kernel = torch.exp(half_nm * (-2.0 / (2.0 ** (_NUM_KERNELS // 2) * bandwidth)))
    total = kernel
    for _ in range(_NUM_KERNELS - 1):
        kernel = kernel * kernel
        total = total + kernel
    return total
