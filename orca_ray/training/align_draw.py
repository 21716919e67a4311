"""The draws of the align stage: which training samples an epoch sees, and how their inputs reach the device.

Shapes: N training samples, n samples of one draw, L classes.
"""

import math
from bisect import bisect_right

import numpy as np
import torch
from torch import Tensor

from orca_ray.data.rows import Rows, num_bytes
from orca_ray.errors import UserError

RESIDENT_BYTES = 256 * 2**20
"""Inputs up to this size are copied to a CUDA device once; of larger ones each draw is copied."""


class ClassIndex:
    """Which of N labelled samples belong to which class; sorted once, so that a draw need not look at all of them."""

    def __init__(self, labels: np.ndarray) -> None:
        """Index integer class ids [N], any integers; raises UserError for none."""
        if labels.ndim != 1 or len(labels) == 0:
            raise UserError(f"aligning draws from labelled training samples; got labels of shape {labels.shape}")
        self.classes, self._class_of, self.counts = np.unique(labels, return_inverse=True, return_counts=True)
        self._members = np.split(np.argsort(labels, kind="stable"), np.cumsum(self.counts)[:-1])

    def __len__(self) -> int:
        return int(self.counts.sum())

    def shares_of(self, indices: np.ndarray) -> np.ndarray:
        """Return the share of the whole set of every class among ``indices``, ascending by class id, of sum 1."""
        drawn = self.counts[np.unique(self._class_of[indices])]
        shares: np.ndarray = drawn / drawn.sum()
        return shares

    def draw(self, sizes: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Return sorted indices of ``sizes`` [L] distinct samples of each class, at most as many as it has."""
        parts = [
            members if size >= len(members) else generator.choice(members, size, replace=False)
            for members, size in zip(self._members, sizes, strict=True)
        ]
        return np.sort(np.concatenate(parts))


def balanced_draw(index: ClassIndex, num_samples: int, generator: np.random.Generator) -> np.ndarray:
    """Return min(num_samples, N) distinct sorted sample indices, an equal share a class where possible.

    Places that a small class cannot fill go to samples of the other classes; what does not divide evenly goes to
    classes by lot.
    """
    num_samples = min(num_samples, len(index))
    most = int(index.counts.max())
    # The largest share that all classes can have, small ones giving all they have, without exceeding the total.
    share = bisect_right(range(most + 1), num_samples, key=lambda size: int(np.minimum(index.counts, size).sum())) - 1
    sizes = np.minimum(index.counts, share)
    with_more = np.flatnonzero(index.counts > share)
    sizes[generator.choice(with_more, num_samples - int(sizes.sum()), replace=False)] += 1
    return index.draw(sizes, generator)


def draw_per_class(index: ClassIndex, num_per_class: int, generator: np.random.Generator) -> np.ndarray:
    """Return distinct sorted sample indices, ``num_per_class`` of every class or all it has."""
    return index.draw(np.minimum(index.counts, num_per_class), generator)


class Inputs:
    """Rows [N, ...], memory-mapped or not, as float32 tensors on a device."""

    def __init__(self, x: Rows, device: torch.device) -> None:
        self._x = x
        self._device = device
        self._resident: Tensor | None = None
        if device.type == "cuda" and num_bytes(x) <= RESIDENT_BYTES:
            self._resident = torch.from_numpy(np.array(x[:], dtype=np.float32)).to(device)
        self._last: tuple[np.ndarray, Tensor] | None = None

    def num_bytes(self, num_rows: int) -> int:
        """Return what so many rows take."""
        return 4 * num_rows * math.prod(self._x.shape[1:])

    def take(self, indices: np.ndarray) -> Tensor:
        """Return the rows ``indices`` [n], to be read only: an equal draw gets the same tensor again."""
        if self._last is None or not np.array_equal(self._last[0], indices):
            self._last = indices, self._read(indices)
        return self._last[1]

    def _read(self, indices: np.ndarray) -> Tensor:
        if self._resident is not None:
            return self._resident[torch.from_numpy(indices).to(self._device)]
        # Indexing by an array copies, so the map itself is never written to.
        return torch.from_numpy(np.asarray(self._x[indices], dtype=np.float32)).to(self._device)
