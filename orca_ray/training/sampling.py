"""Class-balanced random samples of the N training samples of L classes, one for each align epoch."""

from bisect import bisect_right

import numpy as np

from orca_ray.errors import UserError


class ClassIndex:
    """Index of N labelled samples by class; sorted once, so that sampling does not scan all labels."""

    def __init__(self, labels: np.ndarray) -> None:
        """Index integer class ids [N] of any value; raises UserError when there are none."""
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
        """Return the relative sizes, with sum 1, of the classes of ``indices`` in ascending order of class id."""
        counts = self.counts[np.unique(self._class_of[indices])]
        shares: np.ndarray = counts / counts.sum()
        return shares

    def sample(self, sizes: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Return sorted indices of ``sizes`` [L] distinct samples per class, or all of a smaller class."""
        chosen = [
            members if size >= len(members) else generator.choice(members, size, replace=False)
            for members, size in zip(self._members, sizes, strict=True)
        ]
        return np.sort(np.concatenate(chosen))


def balanced_sample(index: ClassIndex, num_samples: int, generator: np.random.Generator) -> np.ndarray:
    """Return min(num_samples, N) distinct sorted indices, in equal numbers per class where possible.

    The other classes make up for classes that are too small; classes chosen at random get one of the remainder each.
    """
    num_samples = min(num_samples, len(index))
    most = int(index.counts.max())
    # The largest number per class, small classes giving all they have, that does not exceed the total.
    equal = bisect_right(range(most + 1), num_samples, key=lambda size: int(np.minimum(index.counts, size).sum())) - 1
    sizes = np.minimum(index.counts, equal)
    larger = np.flatnonzero(index.counts > equal)
    sizes[generator.choice(larger, num_samples - int(sizes.sum()), replace=False)] += 1
    return index.sample(sizes, generator)


def sample_per_class(index: ClassIndex, num_per_class: int, generator: np.random.Generator) -> np.ndarray:
    """Return distinct sorted indices: ``num_per_class`` of every class, or all of a smaller class."""
    return index.sample(np.minimum(index.counts, num_per_class), generator)
