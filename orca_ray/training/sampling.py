"""Class-balanced random samples of the training set, one for each align epoch. N training samples have L classes."""

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
        _, self._class_of, self._counts = np.unique(labels, return_inverse=True, return_counts=True)
        self.members = np.split(np.argsort(labels, kind="stable"), np.cumsum(self._counts)[:-1])
        """Indices of the samples of each class, in order of class id."""

    def shares_of(self, indices: np.ndarray) -> np.ndarray:
        """Return the training-set shares of the classes that occur in ``indices`` (sum 1), in order of class id."""
        counts = self._counts[np.unique(self._class_of[indices])]
        shares: np.ndarray = counts / counts.sum()
        return shares

    def sample(self, num_per_class: int, generator: np.random.Generator) -> np.ndarray:
        """Draw ``num_per_class`` distinct samples of every class (all of a smaller class); return sorted indices."""
        chosen = [
            members if num_per_class >= len(members) else generator.choice(members, num_per_class, replace=False)
            for members in self.members
        ]
        return np.sort(np.concatenate(chosen))
