"""Class-balanced random samples of the training set, one for each align epoch. N training samples have L classes."""

from bisect import bisect_right

import numpy as np

from orca_ray.errors import UserError


class ClassIndex:
    """Indices of the samples of each class. Computed once, so that drawing samples does not scan all labels."""

    def __init__(self, labels: np.ndarray) -> None:
        """Index the class ids ``labels`` [N], any integers; raises UserError if there are none."""
        if labels.ndim != 1 or len(labels) == 0:
            raise UserError(
                f"labels of shape {labels.shape}: the align stage needs one label per training sample and at least one "
                "sample; prepare the task's data again or choose a method that does not align"
            )
        self.classes, self._class_of, self.counts = np.unique(labels, return_inverse=True, return_counts=True)
        self._members = np.split(np.argsort(labels, kind="stable"), np.cumsum(self.counts)[:-1])

    def __len__(self) -> int:
        return int(self.counts.sum())

    def shares_of(self, indices: np.ndarray) -> np.ndarray:
        """Return the training-set shares of the classes that occur in ``indices`` (sum 1), in order of class id."""
        counts = self.counts[np.unique(self._class_of[indices])]
        shares: np.ndarray = counts / counts.sum()
        return shares

    def sample(self, sizes: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Draw ``sizes[c]`` distinct samples of each class c (all of a smaller class); return their sorted indices."""
        chosen = [
            members if size >= len(members) else generator.choice(members, size, replace=False)
            for members, size in zip(self._members, sizes, strict=True)
        ]
        return np.sort(np.concatenate(chosen))


def balanced_sample(index: ClassIndex, num_samples: int, generator: np.random.Generator) -> np.ndarray:
    """Draw min(num_samples, N) distinct samples, as equally many per class as possible; return their sorted indices.

    Classes that are too small are used whole. Randomly chosen classes provide one sample more, to reach the total.
    """
    num_samples = min(num_samples, len(index))
    most = int(index.counts.max())
    # The largest number per class for which the total, with small classes used whole, is at most num_samples.
    equal = bisect_right(range(most + 1), num_samples, key=lambda size: int(np.minimum(index.counts, size).sum())) - 1
    sizes = np.minimum(index.counts, equal)
    larger = np.flatnonzero(index.counts > equal)
    sizes[generator.choice(larger, num_samples - int(sizes.sum()), replace=False)] += 1
    return index.sample(sizes, generator)


def sample_per_class(index: ClassIndex, num_per_class: int, generator: np.random.Generator) -> np.ndarray:
    """Draw ``num_per_class`` distinct samples of every class (all of a smaller class); return their sorted indices."""
    return index.sample(np.minimum(index.counts, num_per_class), generator)
