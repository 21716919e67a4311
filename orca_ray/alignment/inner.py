"""Distances between classes: the label-to-label term of OTDD, between the clouds of points of two classes.

Letters: K and L classes on the two sides, D features, n_c points in a class.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn.utils.rnn import pad_sequence

from orca_ray.alignment.sinkhorn import entropic_cost, epsilon_for, half_squared_distances, self_entropic_cost

S = TypeVar("S")


class LabelDistance(ABC, Generic[S]):
    """A squared distance W between classes, zero between a class and itself, differentiable in the points.

    ``S`` is what it keeps of one side's classes, so that the source's is computed once.
    """

    def fit(self, x_ND: Tensor) -> None:
        """Take from all source points what both sides need, such as a regularisation."""

    @abstractmethod
    def summarise(self, classes: Sequence[Tensor]) -> S:
        """Summarise classes given as float64 points [n_c, D] each."""

    @abstractmethod
    def between(self, x: S, y: S) -> Tensor:
        """Return W [K, L] between the classes of two sides."""

    @abstractmethod
    def within(self, x: S) -> Tensor:
        """Return W [K, K] between the classes of one side: symmetric, its diagonal exactly zero."""


@dataclass(frozen=True)
class Gaussians:
    """Classes as Gaussians N(m_c, A_c^T A_c): means [K, D] and factors A_c [r_c, D] of the covariances."""

    means_KD: Tensor
    factors: tuple[Tensor, ...]

    @property
    def traces_K(self) -> Tensor:
        """Traces of the covariances."""
        return torch.stack([(factor * factor).sum() for factor in self.factors])


class GaussianLabels(LabelDistance[Gaussians]):
    """2-Wasserstein distance between the Gaussians fitted to two classes (Bures metric).

    W = ‖m − m'‖² + tr S + tr S' − 2 tr (S^½ S' S^½)^½  (OTDD, Alvarez-Melis & Fusi 2020, arXiv:2002.02923). With
    factors S = A^T A the last trace is the nuclear norm of A A'^T, so no D × D matrix is ever formed: O(n_c n_c' D) for
    a pair and an eigendecomposition of size min(n_c, n_c', D). Covariances are those of the points themselves (divided
    by n_c): a class of one point is that point, and copying every point changes nothing.
    """

    def summarise(self, classes: Sequence[Tensor]) -> Gaussians:
        """Centre each class; a class of more points than features is compressed where no gradient is needed."""
        means = [points.mean(0) for points in classes]
        factors = [(points - mean) / len(points) ** 0.5 for points, mean in zip(classes, means, strict=True)]
        compressed = (_compress(factor) for factor in factors)
        return Gaussians(torch.stack(means), tuple(compressed))

    def between(self, x: Gaussians, y: Gaussians) -> Tensor:
        """Return W [K, L]; see the class."""
        gaps_KL = 2.0 * half_squared_distances(*_centred(x.means_KD, y.means_KD))
        products = torch.cat(x.factors) @ torch.cat(y.factors).T
        columns = torch.split(products, [len(factor) for factor in y.factors], dim=1)
        overlap_KL = torch.stack([_overlaps(x.factors, column) for column in columns], dim=1)
        return gaps_KL + (x.traces_K[:, None] + y.traces_K - 2.0 * overlap_KL).clamp_min(0)

    def within(self, x: Gaussians) -> Tensor:
        """Return W [K, K], each pair of classes computed once."""
        num = len(x.factors)
        gaps_KK = 2.0 * half_squared_distances(*_centred(x.means_KD, x.means_KD))
        stacked = torch.cat(x.factors)
        overlap_KK = stacked.new_zeros(num, num)
        ends = torch.tensor([len(factor) for factor in x.factors]).cumsum(0).tolist()
        columns = []
        for i in range(1, num):
            column = _overlaps(x.factors[:i], stacked[: ends[i - 1]] @ x.factors[i].T)
            columns.append(torch.cat([column, column.new_zeros(num - i)]))
        if columns:
            upper = torch.stack([torch.zeros_like(columns[0]), *columns], dim=1)
            overlap_KK = upper + upper.T
        off_diagonal = 1.0 - torch.eye(num, dtype=stacked.dtype, device=stacked.device)
        return off_diagonal * (gaps_KK + (x.traces_K[:, None] + x.traces_K - 2.0 * overlap_KK).clamp_min(0))


def _compress(factor: Tensor) -> Tensor:
    """Return an R with R^T R = A^T A and at most D rows; QR of this kind has no gradient, so only for constants."""
    if factor.requires_grad or factor.shape[0] <= factor.shape[1]:
        return factor
    r: Tensor = torch.linalg.qr(factor, mode="r").R
    return r


def _centred(x_KD: Tensor, y_LD: Tensor) -> tuple[Tensor, Tensor]:
    center_D = x_KD.detach().mean(0)
    return x_KD - center_D, y_LD - center_D


def _overlaps(factors: Sequence[Tensor], products: Tensor) -> Tensor:
    """Return ‖A_c B^T‖_* for each class c, given A B^T stacked over the classes [sum r_c, r]."""
    blocks = pad_sequence(list(torch.split(products, [len(factor) for factor in factors])), batch_first=True)
    return cast(Tensor, _NuclearNorm.apply(blocks))  # type: ignore[no-untyped-call]


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
    small transport problem a pair of classes: tens of times slower than `GaussianLabels`, but it sees the shape of a
    class. The gradient is the plans' (envelope theorem).
    """

    _epsilon = 1.0

    def fit(self, x_ND: Tensor) -> None:
        """Set eps from the source."""
        cost_NN = 2.0 * half_squared_distances(*_centred(x_ND, x_ND))
        self._epsilon = epsilon_for(cost_NN, fallback=2.0 * float((x_ND * x_ND).sum(1).mean()) or 1.0)

    def summarise(self, classes: Sequence[Tensor]) -> Clouds:
        """Solve each class against itself."""
        own = [
            self_entropic_cost(2.0 * half_squared_distances(*_centred(points, points)), self._epsilon)
            for points in classes
        ]
        return Clouds(tuple(classes), torch.stack(own))

    def between(self, x: Clouds, y: Clouds) -> Tensor:
        """Return W [K, L]; the points of ``y``, the target's, are the rows of each problem."""
        rows = [torch.stack([self._across(p, q) for q in y.points]) for p in x.points]
        return torch.stack(rows) - 0.5 * (x.own_K[:, None] + y.own_K)

    def within(self, x: Clouds) -> Tensor:
        """Return W [K, K], each pair of classes computed once."""
        num = len(x.points)
        zero = x.own_K.new_zeros(())
        w = [[zero] * num for _ in range(num)]
        for i in range(num):
            for j in range(i):
                w[i][j] = w[j][i] = self._across(x.points[i], x.points[j]) - 0.5 * (x.own_K[i] + x.own_K[j])
        return torch.stack([torch.stack(row) for row in w])

    def _across(self, p: Tensor, q: Tensor) -> Tensor:
        return entropic_cost(2.0 * half_squared_distances(*_centred(q, p)), self._epsilon)
