"""Matrices of transport costs between two sets of points, computed in blocks of rows to limit the memory.

Suffixes of names give shapes: n rows, m columns, r rows of a block, D features, L and K classes of rows and columns.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from orca_ray.alignment import distance
from orca_ray.errors import UserError

CACHE_BYTES = 2**20
"""Maximum size of a block on a CPU, chosen to fit a core's caches."""


def row_blocks(num_rows: int, row_bytes: int, device: torch.device, *, what: str) -> list[slice]:
    """Split rows of ``row_bytes`` into slices of at most `distance.MEMORY_BYTES` / 8 (on a CPU, also `CACHE_BYTES`).

    A slice has at least one row. Raises UserError, which names the matrix (``what``), if a row exceeds `MEMORY_BYTES`.
    """
    limit = distance.MEMORY_BYTES
    if row_bytes > limit:
        raise UserError(
            f"{what}: one row takes {row_bytes / 1e6:.1f} MB, more than the {limit / 1e6:.1f} MB that a call may use; "
            "take fewer source samples (align.source_samples) or fewer target samples (align.samples_per_class)"
        )
    block_bytes = min(CACHE_BYTES, limit // 8) if device.type == "cpu" else limit // 8
    size = max(1, min(num_rows, block_bytes // row_bytes))
    return [slice(start, min(start + size, num_rows)) for start in range(0, num_rows, size)]


def recomputed(function: Callable[..., Tensor], *args: Any) -> Tensor:
    """Return ``function(*args)``; autograd recomputes it in the backward pass. It must use no random numbers."""
    return cast(Tensor, checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False))


def half_squared_distances(x_nD: Tensor, y_mD: Tensor, squares_m: Tensor | None = None) -> Tensor:
    """Return ½‖x_i − y_j‖² [n, m]; ``squares_m`` is ‖y_j‖² if known. Inaccurate far from the origin."""
    squares_m = (y_mD * y_mD).sum(1) if squares_m is None else squares_m
    half_squares_nm = 0.5 * ((x_nD * x_nD).sum(1)[:, None] + squares_m)
    return torch.addmm(half_squares_nm, x_nD, y_mD.T, alpha=-1.0).clamp_min(0)


class CostMatrix:
    """Cost matrix C_ij = ½‖x_i − z_j‖² + ½ W[label_i, label_j], [n, m], between points x_i (rows) and z_j (columns).

    Without ``z_mD``, z is x and the diagonal is exactly 0. ``w_LK`` contains the distances W between classes, and
    ``labels`` the class ids of rows and columns; without them W is 0. ``what`` names the two sides in messages.
    """

    def __init__(
        self,
        x_nD: Tensor,
        z_mD: Tensor | None = None,
        w_LK: Tensor | None = None,
        labels: tuple[Tensor, Tensor] | None = None,
        what: str = "points",
    ) -> None:
        self._alone = z_mD is None
        self.x_nD, self.z_mD = x_nD, x_nD if z_mD is None else z_mD
        self._squares_m = (self.z_mD * self.z_mD).sum(1)
        self._w_LK, self._labels, self.what = w_LK, labels, what
        self._stored_nm: Tensor | None = None
        self.shape = (len(x_nD), len(self.z_mD))

    def store(self, limit: int | None = None) -> "CostMatrix":
        """Compute and store C if it fits in ``limit`` bytes and a quarter of `distance.MEMORY_BYTES`; return self."""
        limit = min(limit or distance.MEMORY_BYTES, distance.MEMORY_BYTES // 4)
        if self.x_nD.element_size() * self.shape[0] * self.shape[1] <= limit:
            self._stored_nm = self.rows(slice(0, None))
        return self

    def columns(self, columns: slice) -> "CostMatrix":
        """Return the cost matrix of some columns; a stored C is not copied."""
        part = copy.copy(self)
        part.z_mD = self.z_mD[columns]
        part._squares_m = self._squares_m[columns]
        part.shape = (self.shape[0], len(part.z_mD))
        part._stored_nm = None if self._stored_nm is None else self._stored_nm[:, columns]
        return part

    @property
    def blocks(self) -> list[slice]:
        """The slices of rows that are computed one after another."""
        return row_blocks(self.shape[0], self.x_nD.element_size() * self.shape[1], self.x_nD.device, what=self.what)

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield each block's slice of rows and its costs [r, m], which must not be modified: they may be stored."""
        for rows in self.blocks:
            yield rows, self.rows(rows) if self._stored_nm is None else self._stored_nm[rows]

    def rows(self, rows: slice) -> Tensor:
        """Compute the costs [r, m] of some rows, differentiable in the points and in W."""
        cost_rm = half_squared_distances(self.x_nD[rows], self.z_mD, self._squares_m)
        if self._w_LK is not None:
            assert self._labels is not None
            cost_rm = cost_rm + (0.5 * self._w_LK)[self._labels[0][rows]][:, self._labels[1]]
        if self._alone:
            cost_rm.diagonal(rows.start).zero_()
        return cost_rm
