"""Squared 2-Wasserstein distances W between Gaussians fitted to clouds of points (Bures metric).

For means m, m' and covariances S, S': W = ‖m − m'‖² + tr S + tr S' − 2 tr (S^½ S' S^½)^½. With factors S = A^T A, the
last trace is the nuclear norm of A A'^T, which is 20 times faster than `ot.gaussian` for 25 points. Shapes: K and L
clouds on the two sides, n_c points of cloud c, r_c rows of its factor A_c, D features.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn.utils.rnn import pad_sequence

from orca_ray.alignment import distance
from orca_ray.alignment.cost import half_squared_distances, recomputed, row_blocks

_COPIES = 3
"""Memory of a padded product A A'^T, in its own size: itself, its singular vectors, and its polar factor."""


@dataclass(frozen=True)
class Gaussians:
    """Gaussians N(m_c, A_c^T A_c) fitted to clouds c of n_c points, with factors A_c [r_c, D] of the covariances."""

    means_KD: Tensor
    factors: tuple[Tensor, ...]

    @classmethod
    def of(cls, clouds: Sequence[Tensor]) -> "Gaussians":
        """Fit one Gaussian to each cloud [n_c, D], differentiably; covariances are means over n_c, not n_c − 1."""
        means_KD = torch.stack([points.mean(0) for points in clouds])
        return cls(means_KD, tuple((p - m) / math.sqrt(len(p)) for p, m in zip(clouds, means_KD, strict=True)))

    @classmethod
    def from_terms(cls, terms: Mapping[str, Tensor], like: Tensor) -> "Gaussians":
        """Restore the Gaussians from `terms`, in the precision and on the device of ``like``."""
        return cls(terms["means"].to(like), terms["factors"].to(like).split_with_sizes(terms["factor_rows"].tolist()))

    def terms(self) -> dict[str, Tensor]:
        """Return equal Gaussians as tensors for storage, with factors of at most D rows; not differentiable."""
        factors = [_compressed(factor) for factor in self.factors]
        rows = torch.tensor([len(factor) for factor in factors])
        return {"means": self.means_KD, "factors": torch.cat(factors), "factor_rows": rows}

    def distances(self, other: "Gaussians") -> Tensor:
        """Return the squared distances [K, L] to the Gaussians ``other``; a pair of ranks r and r' takes O(r r' D)."""
        center_D = self.means_KD.detach().mean(0)
        gaps_KL = 2.0 * half_squared_distances(self.means_KD - center_D, other.means_KD - center_D)
        traces_K, traces_L = (torch.stack([f.square().sum() for f in side.factors]) for side in (self, other))
        padded = len(self.factors) * max(map(len, self.factors)) * sum(map(len, other.factors))
        small = _COPIES * self.means_KD.element_size() * padded <= distance.MEMORY_BYTES // 8
        overlaps = _nuclear_norms if small else _overlaps
        overlap_KL = torch.stack([overlaps(factor, *self.factors) for factor in other.factors], dim=1)
        return gaps_KL + (traces_K[:, None] + traces_L - 2.0 * overlap_KL).clamp_min(0)

    def own_distances(self) -> Tensor:
        """Return W [K, K] between all pairs of these Gaussians, exactly symmetric with zeros on the diagonal."""
        w_KK = self.distances(self)
        return (0.5 * (w_KK + w_KK.T)).fill_diagonal_(0.0)


def _compressed(factor: Tensor) -> Tensor:
    """Return R with at most D rows and R^T R = A^T A for A = ``factor``. Use it for constants: it has no gradient."""
    num_rows, num_features = factor.shape
    if num_rows <= num_features:
        return factor
    r_rD = factor[:0]
    for start in range(0, num_rows, 4 * num_features):
        r_rD = torch.linalg.qr(torch.cat([r_rD, factor[start : start + 4 * num_features]]), mode="r").R
    return r_rD


def _overlaps(other_rD: Tensor, *factors: Tensor) -> Tensor:
    """Return `_nuclear_norms`, in blocks that the backward pass computes again, to save memory."""
    largest = max(len(factor) for factor in factors)
    row_bytes = _COPIES * other_rD.element_size() * largest * len(other_rD)
    what = f"classes of {largest} and {len(other_rD)} points or features"
    blocks = row_blocks(len(factors), row_bytes, torch.device("meta"), what=what)
    return torch.cat([recomputed(_nuclear_norms, other_rD, *factors[block]) for block in blocks])


def _nuclear_norms(other_rD: Tensor, *factors: Tensor) -> Tensor:
    """Return the nuclear norm ‖A_c B^T‖_* for each A_c of ``factors`` and B = ``other_rD``."""
    products = (torch.cat(factors) @ other_rD.T).split_with_sizes([len(factor) for factor in factors])
    return cast(Tensor, _NuclearNorm.apply(pad_sequence(list(products), batch_first=True)))  # type: ignore[no-untyped-call]


class _NuclearNorm(torch.autograd.Function):
    """Nuclear norm (sum of the singular values) of each matrix of [K, p, q].

    The gradient is U V^T over the nonzero singular values, the subgradient of minimum norm.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, m_Kpq: Tensor) -> Tensor:
        wide = m_Kpq.shape[1] < m_Kpq.shape[2]
        tall = m_Kpq.mT if wide else m_Kpq
        squares, v = torch.linalg.eigh(tall.mT @ tall)
        sigma = squares.clamp_min(0).sqrt()
        # Eigenvalues of M^T M are accurate to 1e-16 of the largest one, so their square roots to 1e-8.
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
