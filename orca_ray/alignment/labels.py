"""Labels of samples: pseudo-labels by clustering for tasks without classes, and random
samples of each class.
"""

import math
from typing import Any

import numpy as np

from orca_ray.data.rows import Rows
from orca_ray.errors import UserError

NUM_CLASSES = 10
"""Largest number of pseudo-classes."""
_MINI_BATCH_ABOVE = 10_000
MOST_NUMBERS = 2**27
"""Wide targets with more than this many numbers in all samples together are sketched to
save memory (`is_sketched`).
"""
SKETCH_WIDTH = 4096


def pseudo_labels(y: Rows, seed: int = 0) -> np.ndarray[Any, Any]:
    """Return one class id per sample, [N] int64.

    An integer vector ``y`` [N] contains class ids and is copied. Other targets [N, ...]
    are clustered by k-means into at most `NUM_CLASSES` classes. Raises UserError if
    ``y`` is empty or has NaN or infinity.
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans

    if not y.shape or 0 in y.shape:
        raise UserError(
            f"targets of shape {y.shape} contain no sample to make pseudo-labels of"
        )
    if len(y.shape) == 1 and np.issubdtype(y.dtype, np.integer):
        return np.asarray(y).astype(np.int64)
    y_ND = (
        sketched(y, seed)
        if is_sketched(y)
        else np.asarray(y).reshape(len(y), -1).astype(np.float64)
    )
    if not np.isfinite(y_ND).all():
        raise UserError(
            f"targets of shape {y_ND.shape}: NaN or infinite values, no pseudo-labels"
            " can be made of them"
        )
    y_ND = y_ND - y_ND.mean(axis=0)
    y_ND /= y_ND.std() or 1.0  # the tolerances of k-means depend on the scale
    kind = MiniBatchKMeans if len(y_ND) > _MINI_BATCH_ABOVE else KMeans
    num_distinct = len(
        {hash((row + 0.0).tobytes()) for row in y_ND}
    )  # -0.0 is 0.0; np.unique would copy all rows
    num_classes = min(num_distinct, NUM_CLASSES)
    labels: np.ndarray[Any, Any] = kind(
        num_classes, n_init=3, random_state=seed
    ).fit_predict(y_ND)
    return labels.astype(np.int64)


def is_sketched(y: Rows) -> bool:
    """Return whether targets are `sketched`: each has over `SKETCH_WIDTH` numbers, and
    all have over `MOST_NUMBERS`.
    """
    num_columns = math.prod(y.shape[1:])
    return num_columns > SKETCH_WIDTH and len(y) * num_columns > MOST_NUMBERS


def sketched(y: Rows, seed: int) -> np.ndarray[Any, Any]:
    """Return a count sketch [N, 4096] of targets [N, ...]: randomly signed sums of
    random columns (arXiv:0902.2206).
    """
    num_columns = math.prod(y.shape[1:])
    random = np.random.default_rng(seed)
    order = random.permutation(num_columns)
    signs = random.choice(np.array([-1.0, 1.0]), num_columns)
    starts = np.linspace(0, num_columns, SKETCH_WIDTH, endpoint=False).astype(np.int64)
    rows = max(1, 2**23 // num_columns)
    blocks = (
        y[start : start + rows].reshape(-1, num_columns)
        for start in range(0, len(y), rows)
    )
    return np.concatenate(
        [np.add.reduceat(block[:, order] * signs, starts, axis=1) for block in blocks]
    )


class ClassIndex:
    """Index from each class to its samples.

    Computed once, so that drawing samples does not scan all labels.
    """

    def __init__(self, labels: np.ndarray) -> None:
        """Index the class ids ``labels`` [N], any integers; N is at least 1."""
        _, self._class_of, self._counts = np.unique(
            labels, return_inverse=True, return_counts=True
        )
        self.members = np.split(
            np.argsort(labels, kind="stable"), np.cumsum(self._counts)[:-1]
        )
        """Indices of the samples of each class, in order of class id."""

    def shares_of(self, indices: np.ndarray) -> np.ndarray:
        """Return the relative sizes [L], with sum 1, of those L classes that occur in
        ``indices``, by class id.

        The size of a class is the number of all its samples, not only of those in
        ``indices``.
        """
        counts = self._counts[np.unique(self._class_of[indices])]
        shares: np.ndarray = counts / counts.sum()
        return shares

    def sample(self, num_per_class: int, generator: np.random.Generator) -> np.ndarray:
        """Draw ``num_per_class`` distinct samples of each class, or all if it has
        fewer; return sorted indices.
        """
        chosen = [
            (
                members
                if num_per_class >= len(members)
                else generator.choice(members, num_per_class, replace=False)
            )
            for members in self.members
        ]
        return np.sort(np.concatenate(chosen))
