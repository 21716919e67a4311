"""Sliced 2-Wasserstein distance: transport between projections on lines, where sorting solves it."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from orca_ray.alignment.cost import recomputed, row_blocks
from orca_ray.alignment.distance import Distance

_SEED = 20260
_LEAST_DIRECTIONS = 512


class Sliced(Distance):
    """Mean over directions of the squared 2-Wasserstein distance between the projections; blind to labels.

    (Rabin et al. 2011; Bonneel et al. 2015.) The optimal coupling matches quantiles, exactly for any n and N. Moving
    one side of a set and itself apart by d gives ‖d‖² / D. The directions are orthonormal frames of D directions each,
    at least 512, from a fixed seed. Other frames move the value by 1 to 3 % (D from 16 to 768), but the gradient of a
    point by more: at D = 768, where one frame is all, two seeds agree to a cosine of 0.5 to 0.8. For P directions,
    O(N P D + P N log N) once and O(n P D + P n log n) a call.
    """

    name = "sliced"
    degree = 2

    def _prepare(self, x_ND: Tensor, y_N: Tensor, terms: Mapping[str, Tensor]) -> None:
        self._center_D = x_ND.mean(0)
        self._directions_PD = directions(x_ND.shape[1]).to(x_ND)
        num = len(x_ND)
        self._integral_PM = x_ND.new_zeros(len(self._directions_PD), num + 1)
        self._square_P = x_ND.new_zeros(len(self._directions_PD))
        for rows in self._blocks(num):
            sorted_pN = (self._directions_PD[rows] @ (x_ND - self._center_D).T).sort(dim=1).values
            # On the CPU: the order of a GPU's sums varies.
            self._integral_PM[rows, 1:] = (sorted_pN / num).cpu().cumsum(1).to(x_ND)
            self._square_P[rows] = (sorted_pN * sorted_pN).mean(1)

    def _distance(self, x_nD: Tensor, y_n: Tensor, shares_L: Tensor) -> Tensor:
        x_nD = x_nD - self._center_D
        blocks, total = self._blocks(len(x_nD)), x_nD.new_zeros(())
        for rows in blocks:
            total = total + (self._sum_over(rows, x_nD) if len(blocks) == 1 else recomputed(self._sum_over, rows, x_nD))
        return total / len(self._directions_PD)

    def _blocks(self, num_points: int) -> list[slice]:
        # About four arrays of the block's size: projections, their order, quantile means, gaps.
        num_directions, device = len(self._directions_PD), torch.device("meta")
        return row_blocks(num_directions, 4 * 8 * num_points, device, what=f"projections of {num_points} points")

    def _sum_over(self, rows: slice, x_nD: Tensor) -> Tensor:
        sorted_pn, mean_pn = (self._directions_PD[rows] @ x_nD.T).sort(dim=1).values, self._quantile_means(rows, x_nD)
        # The variance of the source's quantiles within a target point's share is constant.
        within_p = (self._square_P[rows] - (mean_pn * mean_pn).mean(1)).clamp_min(0)
        moved_p: Tensor = ((sorted_pn - mean_pn) ** 2).mean(1)
        return (moved_p + within_p).sum()

    def _quantile_means(self, rows: slice, x_nD: Tensor) -> Tensor:
        """Return the means of the source's quantile functions over n equal shares of the mass, [p, n]."""
        n, num = len(x_nD), self._integral_PM.shape[1] - 1
        # Knot i N / n is in source point `whole`, at the share `part` of it.
        knots = torch.arange(n + 1, device=x_nD.device) * num
        whole, part = knots // n, (knots % n).to(x_nD) / n
        lower_pM = self._integral_PM[rows][:, whole]
        upper_pM = self._integral_PM[rows][:, (whole + 1).clamp_max(num)]
        at_knots = lower_pM + part * (upper_pM - lower_pM)
        return n * at_knots.diff(dim=1)


def directions(num_features: int) -> Tensor:
    """Return unit vectors [P, D]: orthonormal frames from a fixed seed, P the multiple of D that reaches 512 first."""
    generator = torch.Generator().manual_seed(_SEED)
    num_frames = math.ceil(_LEAST_DIRECTIONS / num_features)
    gaussian = torch.randn(num_frames, num_features, num_features, generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(gaussian)
    # Without these signs, the frames of QR are not uniform.
    signs = torch.where(r.diagonal(dim1=1, dim2=2) < 0, -1.0, 1.0)
    frames: Tensor = (q * signs[:, None, :]).mT
    return frames.reshape(-1, num_features)


DISTANCE = Sliced
