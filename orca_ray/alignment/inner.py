"""Distances between classes: the label-to-label term of OTDD, between the clouds of points of two classes.

Letters: K and L classes on the two sides, D features, n_c points in a class, r rows of a factor.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

from orca_ray.alignment import distance
from orca_ray.alignment.blocks import half_squared_distances, row_blocks
from orca_ray.alignment.entropic import Ledger, epsilon_for, self_transport, transport
from orca_ray.alignment.kernel import Side

S = TypeVar("S")


class LabelDistance(ABC, Generic[S]):
    """A squared distance W between classes, zero between a class and itself, differentiable in the points.

    ``S`` is what it keeps of one side's classes, so that the source's is computed once. Classes are given as float64
    points [n_c, D] each.
    """

    @abstractmethod
    def source_terms(self, classes: Sequence[Tensor], ledger: Ledger) -> dict[str, Tensor]:
        """Return what is dear to compute of the source's classes."""

    @abstractmethod
    def restore(self, classes: Sequence[Tensor], terms: Mapping[str, Tensor]) -> S:
        """Return the source's summary, of what `source_terms` gave."""

    @abstractmethod
    def summarise(self, classes: Sequence[Tensor], ledger: Ledger) -> S:
        """Summarise the target's classes; after `restore`."""

    @abstractmethod
    def between(self, x: S, y: S, ledger: Ledger) -> Tensor:
        """Return W [K, L] between the classes of source and target."""

    @abstractmethod
    def within(self, x: S, ledger: Ledger) -> Tensor:
        """Return W [K, K] between the classes of one side: symmetric, its diagonal exactly zero."""


@dataclass(frozen=True)
class Gaussians:
    """Classes as Gaussians N(m_c, A_c^T A_c)."""

    means_KD: Tensor
    stacked_RD: Tensor
    """Factors A_c [r_c, D] of the covariances, one below the other."""
    rows: tuple[int, ...]
    """Their r_c."""

    @property
    def factors(self) -> tuple[Tensor, ...]:
        """The A_c."""
        return split(self.stacked_RD, self.rows)

    @property
    def traces_K(self) -> Tensor:
        """Traces of the covariances."""
        return torch.stack([(factor * factor).sum() for factor in self.factors])


def split(stacked_RD: Tensor, rows: Sequence[int]) -> tuple[Tensor, ...]:
    """Return blocks of so many rows each."""
    blocks: tuple[Tensor, ...] = stacked_RD.split_with_sizes(list(rows))
    return blocks


class GaussianLabels(LabelDistance[Gaussians]):
    """2-Wasserstein distance between the Gaussians fitted to two classes (Bures metric).

    W = ‖m − m'‖² + tr S + tr S' − 2 tr (S^½ S' S^½)^½  (OTDD, Alvarez-Melis & Fusi 2020, arXiv:2002.02923). With
    factors S = A^T A the last trace is the nuclear norm of A A'^T, so no D × D matrix is ever formed: O(r_c r_c' D) for
    a pair and an eigendecomposition of size min(r_c, r_c'), where r_c = min(n_c, D) for the source and n_c for the
    target. Covariances are those of the points themselves (divided by n_c): a class of one point is that point, and
    copying every point changes nothing.
    """

    def source_terms(self, classes: Sequence[Tensor], ledger: Ledger) -> dict[str, Tensor]:
        """Means, and factors of at most D rows each, stacked."""
        factors = [_compressed(_factor(points)) for points in classes]
        return {
            "means": torch.stack([points.mean(0) for points in classes]),
            "factors": torch.cat(factors),
            "factor_rows": torch.tensor([len(factor) for factor in factors]),
        }

    def restore(self, classes: Sequence[Tensor], terms: Mapping[str, Tensor]) -> Gaussians:
        """Return the stacked terms class by class."""
        means_KD, stacked_RD = (terms[name].to(classes[0]) for name in ("means", "factors"))
        return Gaussians(means_KD, stacked_RD, tuple(terms["factor_rows"].tolist()))

    def summarise(self, classes: Sequence[Tensor], ledger: Ledger) -> Gaussians:
        """Centre each class."""
        means_KD = torch.stack([points.mean(0) for points in classes])
        stacked_RD = torch.cat([_factor(points) for points in classes])
        return Gaussians(means_KD, stacked_RD, tuple(len(points) for points in classes))

    def between(self, x: Gaussians, y: Gaussians, ledger: Ledger) -> Tensor:
        """Return W [K, L]; see the class."""
        gaps_KL = 2.0 * half_squared_distances(*_centred(x.means_KD, y.means_KD))
        keeps = _keeps(len(x.rows) * max(x.rows) * sum(y.rows))
        overlap_KL = torch.stack([_overlaps(x, len(x.rows), factor, keeps) for factor in y.factors], dim=1)
        return gaps_KL + (x.traces_K[:, None] + y.traces_K - 2.0 * overlap_KL).clamp_min(0)

    def within(self, x: Gaussians, ledger: Ledger) -> Tensor:
        """Return W [K, K], each pair of classes computed once."""
        num = len(x.rows)
        gaps_KK = 2.0 * half_squared_distances(*_centred(x.means_KD, x.means_KD))
        keeps = _keeps(num * max(x.rows) * sum(x.rows) // 2)
        columns = [_overlaps(x, i, factor, keeps) for i, factor in enumerate(x.factors) if i > 0]
        padded = [torch.cat([column, column.new_zeros(num - len(column))]) for column in columns]
        upper_KK = torch.stack([gaps_KK.new_zeros(num), *padded], dim=1)
        spreads_KK = x.traces_K[:, None] + x.traces_K - 2.0 * (upper_KK + upper_KK.T)
        w_KK: Tensor = gaps_KK + spreads_KK.clamp_min(0)
        return w_KK * (1.0 - torch.eye(num, dtype=w_KK.dtype, device=w_KK.device))


def _factor(points: Tensor) -> Tensor:
    factor: Tensor = (points - points.mean(0)) / math.sqrt(len(points))
    return factor


def _compressed(factor: Tensor) -> Tensor:
    """Return an R with R^T R = A^T A and at most D rows; QR of this kind has no gradient, so only for constants."""
    num_rows, num_features = factor.shape
    if num_rows <= num_features:
        return factor
    r_rD = factor[:0]
    for start in range(0, num_rows, 4 * num_features):
        chunk = factor[start : start + 4 * num_features]
        r_rD = torch.linalg.qr(torch.cat([r_rD, chunk]), mode="r").R
    return r_rD


def _centred(x_KD: Tensor, y_LD: Tensor) -> tuple[Tensor, Tensor]:
    center_D = x_KD.detach().mean(0)
    return x_KD - center_D, y_LD - center_D


def _keeps(num_numbers: int) -> bool:
    """Whether so many float64 numbers are kept for the backward pass: up to an eighth of the memory of a call."""
    return 8 * num_numbers <= distance.MEMORY_BYTES // 8


def _overlaps(x: Gaussians, num: int, other_rD: Tensor, keeps: bool) -> Tensor:
    """Return ‖A_c B^T‖_* for the first ``num`` classes c and one B [r, D]; the gradient is computed anew or kept."""
    largest = max(x.rows[:num])
    # A class's block is there about three times: padded, its singular vectors, its polar factor.
    row_bytes = 3 * other_rD.element_size() * largest * len(other_rD)
    what = f"classes of {largest} and {len(other_rD)} points or features"
    blocks = row_blocks(num, row_bytes, torch.device("meta"), what=what)
    parts = []
    for block in blocks:
        start, rows = sum(x.rows[: block.start]), x.rows[block]
        stacked_RD = x.stacked_RD[start : start + sum(rows)]
        if (keeps and len(blocks) == 1) or not torch.is_grad_enabled():
            norms = _nuclear_norms(stacked_RD, rows, other_rD)
        else:  # computed again in the backward pass
            norms = cast(
                Tensor,
                checkpoint(_nuclear_norms, stacked_RD, rows, other_rD, use_reentrant=False, preserve_rng_state=False),
            )
        parts.append(norms)
    return torch.cat(parts)


def _nuclear_norms(stacked_RD: Tensor, rows: Sequence[int], other_rD: Tensor) -> Tensor:
    blocks = split(stacked_RD @ other_rD.T, rows)
    return cast(Tensor, _NuclearNorm.apply(pad_sequence(list(blocks), batch_first=True)))  # type: ignore[no-untyped-call]


class _NuclearNorm(torch.autograd.Function):
    """Sum of singular values of each matrix of [K, p, q]; gradient U V^T over the singular values that are not zero.

    The sum of |sigma| has a kink at zero singular values. Padding, and classes with fewer points than features, put the
    matrix on that kink in directions in which it cannot move, so the minimum-norm subgradient is the gradient there.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, m_Kpq: Tensor) -> Tensor:
        wide = m_Kpq.shape[1] < m_Kpq.shape[2]
        tall = m_Kpq.mT if wide else m_Kpq
        squares, v = torch.linalg.eigh(tall.mT @ tall)
        sigma = squares.clamp_min(0).sqrt()
        # Eigenvalues of the product are good to 1e-16 of the largest, their roots to 1e-8.
        kept = sigma > 1e-7 * sigma[:, -1:]
        inverse = torch.where(kept, 1.0 / sigma.where(kept, torch.ones_like(sigma)), torch.zeros_like(sigma))
        polar = (tall @ v) * inverse[:, None, :] @ v.mT
        ctx.save_for_backward(polar.mT if wide else polar)
        total: Tensor = (sigma * kept).sum(1)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_K: Tensor) -> Tensor:
        (polar_Kpq,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return cast(Tensor, grad_K[:, None, None] * polar_Kpq)


@dataclass(frozen=True)
class Clouds:
    """Classes as their points, and each one's transport cost to itself [K]."""

    points: tuple[Tensor, ...]
    own_K: Tensor


class EntropicLabels(LabelDistance[Clouds]):
    """Debiased Sinkhorn divergence with cost ‖x − x'‖² between the points of two classes.

    W = OT(c, c') − ½ OT(c, c) − ½ OT(c', c')  at eps = 0.05 of the mean squared distance between source points. One
    small transport problem a pair of classes: about as quick as `GaussianLabels` at 128 points a class, and it sees the
    shape of a class. The gradient is the plans' (envelope theorem).
    """

    _half_epsilon = 1.0  # OT for ‖x − x'‖² at eps is twice OT for its half at half the eps

    def source_terms(self, classes: Sequence[Tensor], ledger: Ledger) -> dict[str, Tensor]:
        """Half of eps, and each class's cost to itself."""
        x_ND = torch.cat(list(classes))
        self._half_epsilon = epsilon_for(float(x_ND.var(0, correction=0).sum()), x_ND)
        return {
            "label_half_epsilon": x_ND.new_tensor(self._half_epsilon),
            "label_own": self.summarise(classes, ledger).own_K,
        }

    def restore(self, classes: Sequence[Tensor], terms: Mapping[str, Tensor]) -> Clouds:
        """Return the classes themselves, with their costs to themselves."""
        self._half_epsilon = float(terms["label_half_epsilon"])
        return Clouds(tuple(classes), terms["label_own"].to(classes[0]))

    def summarise(self, classes: Sequence[Tensor], ledger: Ledger) -> Clouds:
        """Solve each class against itself."""
        own = []
        for points in classes:
            side = Side(points - points.detach().mean(0))
            own.append(2.0 * self_transport(side, None, self._half_epsilon, ledger, "the points of a class"))
        return Clouds(tuple(classes), torch.stack(own))

    def between(self, x: Clouds, y: Clouds, ledger: Ledger) -> Tensor:
        """Return W [K, L]; the points of ``y``, the target's, are the rows of each problem."""
        keeps = _keeps(len(x.points) * sum(points.numel() for points in y.points))
        rows = [torch.stack([self._across(q, p, ledger, keeps) for q in y.points]) for p in x.points]
        return torch.stack(rows) - 0.5 * (x.own_K[:, None] + y.own_K)

    def within(self, x: Clouds, ledger: Ledger) -> Tensor:
        """Return W [K, K], each pair of classes computed once."""
        num = len(x.points)
        keeps = _keeps(num * sum(points.numel() for points in x.points))
        w = [[x.own_K.new_zeros(())] * num for _ in range(num)]
        for i in range(num):
            for j in range(i):
                across = self._across(x.points[i], x.points[j], ledger, keeps)
                w[i][j] = w[j][i] = across - 0.5 * (x.own_K[i] + x.own_K[j])
        return torch.stack([torch.stack(row) for row in w])

    def _across(self, rows: Tensor, columns: Tensor, ledger: Ledger, keeps: bool) -> Tensor:
        if keeps or not torch.is_grad_enabled():
            return self._solve(rows, columns, ledger)
        # Solved again in the backward pass: the gradients of all pairs take more memory than a call has.
        solved = checkpoint(self._solve, rows, columns, ledger, use_reentrant=False, preserve_rng_state=False)
        return cast(Tensor, solved)

    def _solve(self, rows: Tensor, columns: Tensor, ledger: Ledger) -> Tensor:
        center_D = columns.detach().mean(0)
        sides = Side(rows - center_D), Side(columns - center_D)
        return 2.0 * transport(*sides, None, self._half_epsilon, ledger, "two classes")
