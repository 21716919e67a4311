"""Transport costs between two sets of points, computed in blocks of rows.

Blocks limit the memory. Suffixes of names give shapes: n rows, m columns, r rows of a
block, D features, L classes of the row points, K classes of the column points.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

from orca_ray.alignment import distance
from orca_ray.errors import UserError

CACHE_BYTES = 2**20
"""Maximum bytes of a block of rows on a CPU, chosen to fit a core's caches."""


def row_blocks(
    num_rows: int, row_bytes: int, device: torch.device, *, what: str
) -> list[slice]:
    """Return slices that divide ``num_rows`` rows into blocks, processed one by one.

    Each row takes ``row_bytes`` bytes. A slice has at least one row and takes at most
    `distance.MEMORY_BYTES` / 8, on a CPU also at most `CACHE_BYTES`. Raises UserError,
    which names the matrix by ``what``, if a row alone takes more than `MEMORY_BYTES`.
    """
    limit = distance.MEMORY_BYTES
    if row_bytes > limit:
        raise UserError(
            f"{what}: one row takes {row_bytes / 1e6:.1f} MB, more than the"
            f" {limit / 1e6:.1f} MB that a call may use; take fewer source samples"
            " (align.source_samples) or fewer target samples (align.samples_per_class)"
        )
    block_bytes = limit // 8
    if device.type == "cpu":
        block_bytes = min(CACHE_BYTES, block_bytes)
    size = max(1, min(num_rows, block_bytes // row_bytes))
    return [
        slice(start, min(start + size, num_rows)) for start in range(0, num_rows, size)
    ]


def call_recomputed(function: Callable[..., Tensor], *args: Any) -> Tensor:
    """Return ``function(*args)`` without storing intermediate results for backward.

    The backward pass calls ``function`` again, so it must be deterministic.
    """
    return cast(
        Tensor,
        checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False),
    )


def half_squared_distances(
    x_nD: Tensor, y_mD: Tensor, squares_m: Tensor | None = None
) -> Tensor:
    """Return ½‖x_i − y_j‖² [n, m], inaccurate far from the origin.

    ``squares_m`` contains ‖y_j‖² [m]; if None, they are computed.
    """
    if squares_m is None:
        squares_m = (y_mD * y_mD).sum(1)
    half_squares_nm = 0.5 * ((x_nD * x_nD).sum(1)[:, None] + squares_m)
    return torch.addmm(half_squares_nm, x_nD, y_mD.T, alpha=-1.0).clamp_min(0)


class CostMatrix:
    """Cost matrix C_ij = ½‖x_i − z_j‖² + ½ W[label_i, label_j], [n, m].

    Rows are points x_i, columns points z_j. Without ``z_mD``, z is x and the diagonal
    is exactly 0. ``w_LK`` contains the distances W between classes, and ``labels`` the
    class ids of rows and columns; without them W is 0. ``what`` names the two sides in
    messages.
    """

    def __init__(
        self,
        x_nD: Tensor,
        z_mD: Tensor | None = None,
        w_LK: Tensor | None = None,
        labels: tuple[Tensor, Tensor] | None = None,
        what: str = "points",
    ) -> None:
        """Store the points; costs are computed when they are asked for.

        The arguments are those that the class describes.
        """
        self._is_square = z_mD is None
        self.x_nD = x_nD
        self.z_mD = x_nD if z_mD is None else z_mD
        self._squares_m = (self.z_mD * self.z_mD).sum(1)
        self._w_LK = w_LK
        self._labels = labels
        self.what = what
        self._stored_nm: Tensor | None = None
        self.shape = (len(x_nD), len(self.z_mD))

    def store(self, limit: int | None = None) -> "CostMatrix":
        """Keep C in memory unless it is too large; return this object.

        It is too large if it exceeds `distance.MEMORY_BYTES` / 4 or ``limit`` bytes.
        """
        most_bytes = distance.MEMORY_BYTES // 4
        if limit is not None:
            most_bytes = min(limit, most_bytes)
        if self.x_nD.element_size() * self.shape[0] * self.shape[1] <= most_bytes:
            self._stored_nm = self.rows(slice(0, None))
        return self

    def columns(self, columns: slice) -> "CostMatrix":
        """Return the cost matrix of a slice of the columns.

        If C is stored, the returned matrix is a view of it. W must be 0.
        """
        part = copy.copy(self)
        part.z_mD = self.z_mD[columns]
        part._squares_m = self._squares_m[columns]
        part.shape = (self.shape[0], len(part.z_mD))
        if self._stored_nm is not None:
            part._stored_nm = self._stored_nm[:, columns]
        return part

    @property
    def blocks(self) -> list[slice]:
        """The slices of rows that are computed one after another."""
        return row_blocks(
            self.shape[0],
            self.x_nD.element_size() * self.shape[1],
            self.x_nD.device,
            what=self.what,
        )

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield each block's slice of rows and costs [r, m].

        Do not modify these costs, as they may be stored.
        """
        for rows in self.blocks:
            if self._stored_nm is None:
                yield rows, self.rows(rows)
            else:
                yield rows, self._stored_nm[rows]

    def rows(self, rows: slice) -> Tensor:
        """Return the costs [r, m] of the slice ``rows``.

        They are differentiable in the points and the class distances W.
        """
        cost_rm = half_squared_distances(self.x_nD[rows], self.z_mD, self._squares_m)
        if self._w_LK is not None:
            assert self._labels is not None
            row_labels, column_labels = self._labels
            half_w_LK = 0.5 * self._w_LK
            cost_rm = cost_rm + half_w_LK[row_labels[rows]][:, column_labels]
        if self._is_square:
            cost_rm.diagonal(rows.start).zero_()
        return cost_rm


_COPIES = 3
"""Memory for a padded product A B^T, as a multiple of its size: the product, its
singular vectors and its polar factor.
"""


@dataclass(frozen=True)
class Gaussians:
    """K Gaussians N(m_c, A_c^T A_c), one for each cloud c of n_c points.

    The factors A_c are [r_c, D].
    """

    means_KD: Tensor
    factors: tuple[Tensor, ...]

    @classmethod
    def of(cls, clouds: Sequence[Tensor]) -> "Gaussians":
        """Fit one Gaussian to each cloud [n_c, D], differentiably.

        Covariances are means over n_c, not n_c − 1.
        """
        means_KD = torch.stack([points.mean(0) for points in clouds])
        factors = tuple(
            (points - mean) / math.sqrt(len(points))
            for points, mean in zip(clouds, means_KD, strict=True)
        )
        return cls(means_KD, factors)

    @classmethod
    def from_terms(cls, terms: Mapping[str, Tensor], like: Tensor) -> "Gaussians":
        """Restore the Gaussians from `terms`.

        They get the precision and the device of ``like``.
        """
        rows = terms["factor_rows"].tolist()
        factors = terms["factors"].to(like).split_with_sizes(rows)
        return cls(terms["means"].to(like), factors)

    def terms(self) -> dict[str, Tensor]:
        """Return the Gaussians as tensors for `from_terms`, to be used as constants.

        Longer factors are compressed to D rows, which has no gradient.
        """
        factors = [_compressed(factor) for factor in self.factors]
        rows = torch.tensor([len(factor) for factor in factors])
        return {
            "means": self.means_KD,
            "factors": torch.cat(factors),
            "factor_rows": rows,
        }

    def distances(self, other: "Gaussians") -> Tensor:
        """Return squared 2-Wasserstein distances [K, L] to the Gaussians of ``other``.

        There are K Gaussians in this object and L in ``other``.
        """
        # Near the origin, squared distances are more accurate.
        center_D = self.means_KD.detach().mean(0)
        gaps_KL = 2.0 * half_squared_distances(
            self.means_KD - center_D, other.means_KD - center_D
        )
        traces_K = self._traces()
        traces_L = other._traces()
        largest_factor = max(map(len, self.factors))
        # Number of values in all products of factors, padded to the largest factor.
        num_padded = len(self.factors) * largest_factor * sum(map(len, other.factors))
        needed_bytes = _COPIES * self.means_KD.element_size() * num_padded
        fits = needed_bytes <= distance.MEMORY_BYTES // 8
        nuclear_norms = _nuclear_norms if fits else _nuclear_norms_in_blocks
        overlap_KL = torch.stack(
            [nuclear_norms(factor, *self.factors) for factor in other.factors], dim=1
        )
        return gaps_KL + (traces_K[:, None] + traces_L - 2.0 * overlap_KL).clamp_min(0)

    def pairwise_distances(self) -> Tensor:
        """Return the `distances` [K, K] of these Gaussians from each other.

        They are exactly symmetric, with diagonal 0.
        """
        w_KK = self.distances(self)
        return (0.5 * (w_KK + w_KK.T)).fill_diagonal_(0.0)

    def _traces(self) -> Tensor:
        """Return the traces [K] of the covariances."""
        return torch.stack([factor.square().sum() for factor in self.factors])


def _compressed(factor: Tensor) -> Tensor:
    """Return R with at most D rows and R^T R = A^T A for A = ``factor``.

    Use it for constants: it has no gradient.
    """
    num_rows, num_features = factor.shape
    if num_rows <= num_features:
        return factor
    r_rD = factor[:0]
    # R is updated with a block of rows at a time, which limits the memory.
    block_rows = 4 * num_features
    for start in range(0, num_rows, block_rows):
        stacked = torch.cat([r_rD, factor[start : start + block_rows]])
        r_rD = torch.linalg.qr(stacked, mode="r").R
    return r_rD


def _nuclear_norms_in_blocks(other_rD: Tensor, *factors: Tensor) -> Tensor:
    """Return `_nuclear_norms`, computed in blocks to save memory.

    The backward pass computes the blocks again.
    """
    largest = max(len(factor) for factor in factors)
    row_bytes = _COPIES * other_rD.element_size() * largest * len(other_rD)
    what = f"classes of {largest} and {len(other_rD)} points or features"
    # With the device "meta", blocks are not limited to the size of a CPU's cache.
    blocks = row_blocks(len(factors), row_bytes, torch.device("meta"), what=what)
    return torch.cat(
        [call_recomputed(_nuclear_norms, other_rD, *factors[block]) for block in blocks]
    )


def _nuclear_norms(other_rD: Tensor, *factors: Tensor) -> Tensor:
    """Return the nuclear norm ‖A_c B^T‖_* for each A_c of ``factors``.

    B is ``other_rD``.
    """
    rows = [len(factor) for factor in factors]
    products = (torch.cat(factors) @ other_rD.T).split_with_sizes(rows)
    padded = pad_sequence(list(products), batch_first=True)
    return cast(Tensor, _NuclearNorm.apply(padded))  # type: ignore[no-untyped-call]


class _NuclearNorm(torch.autograd.Function):
    """Nuclear norm (sum of the singular values) of each matrix of [K, p, q].

    The gradient is U V^T over the nonzero singular values, the subgradient of minimum
    norm.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, m_Kpq: Tensor) -> Tensor:
        is_wide = m_Kpq.shape[1] < m_Kpq.shape[2]
        tall = m_Kpq.mT if is_wide else m_Kpq
        squares, v = torch.linalg.eigh(tall.mT @ tall)
        sigma = squares.clamp_min(0).sqrt()
        # Eigenvalues of M^T M are accurate to 1e-16 of the largest one, so their square
        # roots to 1e-8.
        # The largest value is the last one.
        nonzero = sigma > 1e-7 * sigma[:, -1:]
        inverse = torch.where(nonzero, 1.0 / sigma, 0.0)
        polar = (tall @ v) * inverse[:, None, :] @ v.mT
        ctx.save_for_backward(polar.mT if is_wide else polar)
        return cast(Tensor, (sigma * nonzero).sum(1))

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_K: Tensor) -> Tensor:
        (polar_Kpq,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return cast(Tensor, grad_K[:, None, None] * polar_Kpq)
