"""Blocks of rows, which keep the memory of a call below `distance.MEMORY_BYTES`."""

import torch
from torch import Tensor

from orca_ray.alignment import distance
from orca_ray.errors import UserError

_CACHE_BYTES = 2**22
"""Block that fits a CPU core's caches."""


def row_blocks(num_rows: int, row_bytes: int, device: torch.device, *, what: str) -> list[slice]:
    """Split ``num_rows`` into slices whose rows take at most an eighth of the memory of a call, or fit a CPU's caches.

    The rest is for temporary copies. ``what`` names the matrix in the UserError for a single row that does not fit.
    """
    limit = distance.MEMORY_BYTES
    if row_bytes > limit:
        raise UserError(
            f"{what}: one row takes {row_bytes / 1e6:.1f} MB, more than the {limit / 1e6:.1f} MB that a call may use; "
            "take fewer source samples (align.source_samples) or fewer target samples (align.samples)"
        )
    block_bytes = min(_CACHE_BYTES, limit // 8) if device.type == "cpu" else limit // 8
    size = max(1, min(num_rows, block_bytes // row_bytes))
    return [slice(start, min(start + size, num_rows)) for start in range(0, num_rows, size)]


def half_squares(x_nD: Tensor) -> Tensor:
    """Return ½‖x_i‖² [n]."""
    return 0.5 * (x_nD * x_nD).sum(1)


def half_squared_distances(x_nD: Tensor, y_mD: Tensor) -> Tensor:
    """Return ½‖x_i − y_j‖² [n, m]. Centre the points first: the expanded form cancels badly far from the origin."""
    half_squares_nm = half_squares(x_nD)[:, None] + half_squares(y_mD)
    return torch.addmm(half_squares_nm, x_nD, y_mD.T, alpha=-1.0).clamp_min(0)
