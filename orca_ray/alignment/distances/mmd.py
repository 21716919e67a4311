"""Maximum mean discrepancy with several Gaussian kernels."""

from collections.abc import Iterator, Mapping
from typing import cast

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from orca_ray.alignment import distance
from orca_ray.alignment.blocks import half_squared_distances, half_squares, row_blocks
from orca_ray.alignment.distance import Distance

_NUM_KERNELS = 5  # widths 1/4, 1/2, 1, 2, 4 of the bandwidth, as the reference
_BINS = 4096  # of a histogram; four passes narrow a value down to 1e-11 of the largest


class MMD(Distance):
    """Squared MMD, blind to labels: mean k(s, s') + mean k(t, t') − 2 mean k(s, t) over all pairs.

    k(x, y) = sum over w in {¼, ½, 1, 2, 4} of exp(−‖x − y‖² / (w h)). It is the biased estimate (V-statistic) of
    Gretton et al. 2012 (JMLR 13:25, eq. 5): never negative, zero on itself. The bandwidth h is the mean of ‖x − y‖²
    over all pairs of different points of source and target together, as the reference has it (after DAN,
    arXiv:1502.02791): taken anew at every call, so that far-off targets still feel a pull, and constant in the
    gradient, which is in closed form. A call costs O(N² + n (N + n) D), or O((N + n)² D) where N² numbers do not fit
    its memory.

    Args:
        bandwidth: a fixed h instead, in squared feature units.
    """

    name = "mmd"
    degree = 0

    def __init__(self, bandwidth: float | None = None) -> None:
        super().__init__()
        self._given_bandwidth = bandwidth

    def bandwidth(self, x_nD: Tensor) -> float:
        """Return the h used for target features [n, D]: the given one, or what the rule says."""
        x_nD = x_nD.detach().to(self._x_ND) - self._center_D
        return self._bandwidth(x_nD, _Pairs(x_nD, self._x_ND), _Pairs(x_nD - x_nD.mean(0), None))

    def _prepare(self, x_ND: Tensor, y_N: Tensor, terms: Mapping[str, Tensor]) -> None:
        self._center_D = x_ND.mean(0)
        self._x_ND = x_ND - self._center_D
        self._own = _Pairs(self._x_ND, None)

    def _distance(self, x_nD: Tensor, y_n: Tensor, shares_L: Tensor) -> Tensor:
        x_nD = x_nD - self._center_D
        with torch.no_grad():
            across, own = _Pairs(x_nD, self._x_ND), _Pairs(x_nD - x_nD.mean(0), None)
            h = self._bandwidth(x_nD, across, own)
        parts = cast(Tensor, _TargetParts.apply(x_nD, across, own, h))  # type: ignore[no-untyped-call]
        return self._own.mean_kernel(h) + parts

    def _bandwidth(self, x_nD: Tensor, across: "_Pairs", own: "_Pairs") -> float:
        if self._given_bandwidth is not None:
            return self._given_bandwidth
        joint = torch.cat([self._x_ND, x_nD])
        num = len(joint)
        # Over ordered pairs, ||x - y||² sums to 2 num² times the total variance; num (num - 1) pairs differ.
        return 2.0 * float(joint.var(0, correction=0).sum()) * num / (num - 1)


class _Pairs:
    """½‖x − y‖² of all pairs of points, in blocks of rows [r, m]; kept where they fit a quarter of a call's memory."""

    def __init__(self, x_nD: Tensor, y_mD: Tensor | None) -> None:
        self.x_nD, self.y_mD = x_nD, x_nD if y_mD is None else y_mD
        self._half_y_m = half_squares(self.y_mD)
        self._alone = y_mD is None
        self.num = len(self.x_nD) * len(self.y_mD)
        row_bytes = x_nD.element_size() * len(self.y_mD)
        self._slices = row_blocks(len(x_nD), row_bytes, x_nD.device, what=f"kernels of {len(self.y_mD)} points")
        keep = row_bytes * len(x_nD) <= distance.MEMORY_BYTES // 4
        self._kept = [self._block(rows) for rows in self._slices] if keep else None

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield slices of rows and their blocks, to be left unchanged."""
        for i, rows in enumerate(self._slices):
            yield rows, self._block(rows) if self._kept is None else self._kept[i]

    def mean_kernel(self, bandwidth: float) -> Tensor:
        """Return the mean of k over all pairs."""
        total = self.x_nD.new_zeros(())
        for _, half_rm in self:
            total += _kernel_sum(half_rm, bandwidth)[0].sum()
        return total / self.num

    def mean_and_gradient(self, bandwidth: float) -> tuple[Tensor, Tensor]:
        """Return the mean of k over all pairs, and its gradient [n, D] in the points of the rows, as rows alone."""
        total, grad_nD = self.x_nD.new_zeros(()), torch.empty_like(self.x_nD)
        for rows, half_rm in self:
            kernel_rm, slope_rm = _kernel_sum(half_rm, bandwidth)
            total += kernel_rm.sum()
            grad_nD[rows] = slope_rm.sum(1, keepdim=True) * self.x_nD[rows] - slope_rm @ self.y_mD
        return total / self.num, grad_nD / self.num

    def _block(self, rows: slice) -> Tensor:
        half_rm = half_squared_distances(self.x_nD[rows], self.y_mD, self._half_y_m)
        if self._alone:
            half_rm.diagonal(rows.start).zero_()
        return half_rm


class _TargetParts(torch.autograd.Function):
    """mean k(t, t') − 2 mean k(s, t), with its gradient at a fixed bandwidth taken along."""

    @staticmethod
    def forward(ctx: FunctionCtx, x_nD: Tensor, across: _Pairs, own: _Pairs, bandwidth: float) -> Tensor:
        if not any(ctx.needs_input_grad):  # type: ignore[attr-defined]
            return own.mean_kernel(bandwidth) - 2.0 * across.mean_kernel(bandwidth)
        mean_own, grad_own_nD = own.mean_and_gradient(bandwidth)
        mean_across, grad_across_nD = across.mean_and_gradient(bandwidth)
        ctx.save_for_backward(2.0 * (grad_own_nD - grad_across_nD))  # own: a point is in a row and in a column
        return mean_own - 2.0 * mean_across

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (grad_nD,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return grad * grad_nD, None, None, None


def _kernel_sum(half_rm: Tensor, bandwidth: float) -> tuple[Tensor, Tensor]:
    """Return k for half squared distances, and its derivative in them; each kernel is the square of the wider one."""
    slope = -2.0 / (2.0 ** (_NUM_KERNELS // 2) * bandwidth)
    kernel = torch.exp(half_rm * slope)
    total, derivative = kernel.clone(), kernel * slope
    for _ in range(_NUM_KERNELS - 1):
        slope *= 2.0
        kernel *= kernel
        total += kernel
        derivative.add_(kernel, alpha=slope)
    return total, derivative


DISTANCE = MMD
