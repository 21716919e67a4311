"""Pseudo-labels for tasks without classes, and an index from classes to samples.

Pseudo-labels come from clustering the targets.
"""

import math
from typing import Any

import numpy as np

from orca_ray.data.rows import Rows
from orca_ray.errors import UserError

NUM_CLASSES = 10
"""Largest number of pseudo-classes."""
_MINI_BATCH_ABOVE = 10_000
"""Above this number of samples, k-means sees them in small batches."""
MOST_NUMBERS = 2**27
"""Wide targets with more than this many numbers in all samples together are sketched to
save memory (`is_sketched`).
"""
SKETCH_WIDTH = 4096
"""Number of columns of a sketch."""
_SKETCHED_NUMBERS = 2**23
"""Number of target values that are sketched at a time."""


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
    if is_sketched(y):
        y_ND = sketch_targets(y, seed)
    else:
        y_ND = np.asarray(y).reshape(len(y), -1).astype(np.float64)
    if not np.isfinite(y_ND).all():
        raise UserError(
            f"targets of shape {y_ND.shape}: NaN or infinite values, no pseudo-labels"
            " can be made of them"
        )
    y_ND = y_ND - y_ND.mean(axis=0)
    deviation = y_ND.std()
    if deviation > 0:  # the tolerances of k-means depend on the scale
        y_ND /= deviation
    # Adding 0.0 turns -0.0 into 0.0; np.unique would copy all rows.
    num_distinct = len({hash((row + 0.0).tobytes()) for row in y_ND})
    num_classes = min(num_distinct, NUM_CLASSES)
    algorithm = MiniBatchKMeans if len(y_ND) > _MINI_BATCH_ABOVE else KMeans
    clustering = algorithm(num_classes, n_init=3, random_state=seed)
    labels: np.ndarray[Any, Any] = clustering.fit_predict(y_ND)
    return labels.astype(np.int64)


def is_sketched(y: Rows) -> bool:
    """Return whether targets are sketched, because they are wide and many.

    Each has over `SKETCH_WIDTH` numbers, and all have over `MOST_NUMBERS`.
    """
    num_columns = math.prod(y.shape[1:])
    return num_columns > SKETCH_WIDTH and len(y) * num_columns > MOST_NUMBERS


def sketch_targets(y: Rows, seed: int) -> np.ndarray[Any, Any]:
    """Return a count sketch [N, 4096] of targets [N, ...].

    It consists of randomly signed sums of random columns (arXiv:0902.2206).
    """
    num_columns = math.prod(y.shape[1:])
    random = np.random.default_rng(seed)
    order = random.permutation(num_columns)
    # Each number of the sketch is a sum of consecutive columns in random order.
    signs = random.choice(np.array([-1.0, 1.0]), num_columns)
    starts = np.linspace(0, num_columns, SKETCH_WIDTH, endpoint=False).astype(np.int64)
    # Rows are sketched in blocks to save memory.
    num_rows = max(1, _SKETCHED_NUMBERS // num_columns)
    sketches = []
    for start in range(0, len(y), num_rows):
        block = y[start : start + num_rows].reshape(-1, num_columns)
        signed = block[:, order] * signs
        sketches.append(np.add.reduceat(signed, starts, axis=1))
    return np.concatenate(sketches)


class ClassIndex:
    """Index from each class to its samples.

    It is computed once, so that drawing samples does not scan all labels.
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
        """Return the relative sizes [L] of the classes of the samples ``indices``.

        They have the sum 1 and are in order of class id. The size of a class is the
        number of all its samples, not only of those in ``indices``.
        """
        counts = self._counts[np.unique(self._class_of[indices])]
        shares: np.ndarray = counts / counts.sum()
        return shares

    def sample(self, num_per_class: int, generator: np.random.Generator) -> np.ndarray:
        """Draw ``num_per_class`` distinct samples of each class.

        Returns sorted indices. All samples of a smaller class are taken.
        """
        drawn_indices = []
        for members in self.members:
            if num_per_class < len(members):
                members = generator.choice(members, num_per_class, replace=False)
            drawn_indices.append(members)
        return np.sort(np.concatenate(drawn_indices))
