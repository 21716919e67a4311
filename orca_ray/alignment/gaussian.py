"""2-Wasserstein distances W between the Gaussians fitted to clouds of points (Bures metric).

W = ‖m − m'‖² + tr S + tr S' − 2 tr (S^½ S' S^½)^½. With factors S = A^T A the last trace is the nuclear norm of A A'^T:
20 times faster than `ot.gaussian` for 25 points. Letters: K and L clouds on the two sides, r_c rows of a factor.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn.utils.rnn import pad_sequence

from orca_ray.alignment.cost import half_squared_distances, recomputed, row_blocks


@dataclass(frozen=True)
class Gaussians:
    """Clouds as Gaussians N(m_c, A_c^T A_c), with factors A_c [r_c, D]; covariances are divided by n_c."""

    means_KD: Tensor
    factors: tuple[Tensor, ...]

    @classmethod
    def of(cls, clouds: Sequence[Tensor]) -> "Gaussians":
        """Fit to points [n_c, D] each, differentiably; r_c is n_c."""
        means_KD = torch.stack([points.mean(0) for points in clouds])
        return cls(means_KD, tuple((p - m) / math.sqrt(len(p)) for p, m in zip(clouds, means_KD, strict=True)))

    @classmethod
    def from_terms(cls, terms: Mapping[str, Tensor], like: Tensor) -> "Gaussians":
        """Restore the Gaussians from `terms`, in the precision and on the device of ``like``."""
        return cls(terms["means"].to(like), terms["factors"].to(like).split_with_sizes(terms["factor_rows"].tolist()))

    def terms(self) -> dict[str, Tensor]:
        """Return the same Gaussians as tensors, with factors of at most D rows."""
        factors = [_compressed(factor) for factor in self.factors]
        rows = torch.tensor([len(factor) for factor in factors])
        return {"means": self.means_KD, "factors": torch.cat(factors), "factor_rows": rows}

    def distances(self, other: "Gaussians") -> Tensor:
        """Return W [K, L]; O(r_c r_c' D) and an eigendecomposition of size min(r_c, r_c') for each pair."""
        center_D = self.means_KD.detach().mean(0)
        gaps_KL = 2.0 * half_squared_distances(self.means_KD - center_D, other.means_KD - center_D)
        traces_K, traces_L = (torch.stack([f.square().sum() for f in side.factors]) for side in (self, other))
        overlap_KL = torch.stack([_overlaps(self.factors, factor) for factor in other.factors], dim=1)
        return gaps_KL + (traces_K[:, None] + traces_L - 2.0 * overlap_KL).clamp_min(0)

    def own_distances(self) -> Tensor:
        """Return W [K, K] between the clouds themselves: symmetric, its diagonal exactly zero."""
        w_KK = self.distances(self)
        return (0.5 * (w_KK + w_KK.T)).fill_diagonal_(0.0)


def _compressed(factor: Tensor) -> Tensor:
    """Return an R with R^T R = A^T A and at most D rows; this QR has no gradient, so it is for constants only."""
    num_rows, num_features = factor.shape
    if num_rows <= num_features:
        return factor
    r_rD = factor[:0]
    for start in range(0, num_rows, 4 * num_features):
        r_rD = torch.linalg.qr(torch.cat([r_rD, factor[start : start + 4 * num_features]]), mode="r").R
    return r_rD


def _overlaps(factors: Sequence[Tensor], other_rD: Tensor) -> Tensor:
    """Return ‖A_c B^T‖_* for each factor A_c and one B [r, D]; recomputed in the backward pass."""
    largest = max(len(factor) for factor in factors)
    # A padded product exists about three times: as itself, its singular vectors, and its polar factor.
    row_bytes = 3 * other_rD.element_size() * largest * len(other_rD)
    what = f"classes of {largest} and {len(other_rD)} points or features"
    blocks = row_blocks(len(factors), row_bytes, torch.device("meta"), what=what)
    return torch.cat([recomputed(_nuclear_norms, other_rD, *factors[block]) for block in blocks])


def _nuclear_norms(other_rD: Tensor, *factors: Tensor) -> Tensor:
    products = (torch.cat(factors) @ other_rD.T).split_with_sizes([len(factor) for factor in factors])
    return cast(Tensor, _NuclearNorm.apply(pad_sequence(list(products), batch_first=True)))  # type: ignore[no-untyped-call]


class _NuclearNorm(torch.autograd.Function):
    """Sum of singular values of each matrix of [K, p, q]; the gradient is U V^T over the nonzero singular values.

    That is the subgradient of minimum norm: singular values are zero in directions in which the matrix cannot move.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, m_Kpq: Tensor) -> Tensor:
        wide = m_Kpq.shape[1] < m_Kpq.shape[2]
        tall = m_Kpq.mT if wide else m_Kpq
        squares, v = torch.linalg.eigh(tall.mT @ tall)
        sigma = squares.clamp_min(0).sqrt()
        # Eigenvalues of the product are accurate to 1e-16 of the largest, their roots to 1e-8.
        nonzero = sigma > 1e-7 * sigma[:, -1:]
        inverse = torch.where(nonzero, 1.0 / sigma, 0.0)
        polar = (tall @ v) * inverse[:, None, :] @ v.mT
        ctx.save_for_backward(polar.mT if wide else polar)
        return cast(Tensor, (sigma * nonzero).sum(1))

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_K: Tensor) -> Tensor:
        (polar_Kpq,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return cast(Tensor, grad_K[:, None, None] * polar_Kpq)
