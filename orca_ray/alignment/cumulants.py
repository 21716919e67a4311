"""Soft minima at temperatures that are high beside the costs, from the costs' means and variances.

Letters as in `soft_minima`. With z_i = f_i − C_ji, −e log mean_i exp(z_i / e) = −mean z − var z / 2e − κ₃ / 6e² − …,
and what is left out is judged by a third cumulant κ₃ = 2 (var z)^1.5, that of an exponential distribution. It is no
bound (one outlier among N points has κ₃ = √N (var z)^1.5), but tolerances are far below what would show.
"""

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from orca_ray.alignment import soft_minima
from orca_ray.alignment.cost_matrix import Cost

_SAMPLE = 16  # rows that tell whether the others are worth a pass


@dataclass(frozen=True)
class Cumulants:
    """Means and variances of the rows and columns of C."""

    cost: Cost
    row_means_n: Tensor
    row_variances_n: Tensor
    column_means_N: Tensor
    column_variances_N: Tensor

    @classmethod
    def of(cls, cost: Cost, e: float, tolerance: float) -> Self | None:
        """Compute them in one pass; None where they will not do for potentials of zero."""
        n, num_source = cost.shape
        sample_sN = cost.block(slice(0, _SAMPLE))
        center = float(sample_sN.mean())  # about which squares lose less
        variances_s = (sample_sN - sample_sN.mean(1, keepdim=True)).square_().mean(1)  # var takes four times as long
        if not _negligible(float(variances_s.amax()), e, tolerance):
            return None
        sums_kn, sums_kN = sample_sN.new_zeros(2, n), sample_sN.new_zeros(2, num_source)
        for rows, c_rN in soft_minima.blocks(cost):
            powers_rN = c_rN - center
            for k in range(2):
                sums_kn[k, rows] = powers_rN.sum(1)
                sums_kN[k] += powers_rN.sum(0)
                powers_rN.square_()
        (row_means_n, row_squares_n), (column_means_N, column_squares_N) = sums_kn / num_source, sums_kN / n
        return cls(
            cost,
            row_means_n + center, row_squares_n - row_means_n.square(),
            column_means_N + center, column_squares_N - column_means_N.square(),
        )  # fmt: skip

    def soft_minima(self, f_N: Tensor, g_n: Tensor, e: float, tolerance: float) -> tuple[Tensor, Tensor] | None:
        """Return f~ and g~; None where what is left out exceeds the tolerance."""
        mean_f, mean_g = f_N.mean(), g_n.mean()
        off_f_N, off_g_n = f_N - mean_f, g_n - mean_g
        covariances_n = self.cost.times(off_f_N) / len(f_N)
        covariances_N = self.cost.times_T(off_g_n) / len(g_n)
        variances_n = self.row_variances_n + off_f_N.square().mean() - 2.0 * covariances_n
        variances_N = self.column_variances_N + off_g_n.square().mean() - 2.0 * covariances_N
        largest = float(torch.maximum(variances_n.amax(), variances_N.amax()))
        if not _negligible(largest, e, tolerance):
            return None
        next_f_N = torch.add(self.column_means_N - mean_g, variances_N, alpha=-0.5 / e)
        return next_f_N, torch.add(self.row_means_n - mean_f, variances_n, alpha=-0.5 / e)


def _negligible(variance: float, e: float, tolerance: float) -> bool:
    left_out = 2.0 * (variance / e) * (math.sqrt(variance) / e) if variance >= 0.0 else math.nan
    return left_out <= 6.0 * tolerance
