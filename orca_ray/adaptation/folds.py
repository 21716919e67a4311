"""Folds and outer test of own data, as a search knows them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from orca_ray.data.prepared import PreparedData, num_folds

LEAST_TEST_SAMPLES = 20
"""Least number of samples of an outer test whose score is used."""


@dataclass(frozen=True, kw_only=True)
class Folds:
    """The folds of own data, and their sizes."""

    numbers: Sequence[int]
    """Numbers of all folds, in the order in which they run; [0]: the prepared
    validation split.
    """
    division_size: int
    """Number of folds of one division of the data."""
    growth: float = 1.0
    """Number of all samples, relative to those that a fold trains on."""

    @property
    def first(self) -> int:
        """Number of the fold that runs first."""
        return self.numbers[0]

    @classmethod
    def of_data(cls, data: PreparedData) -> "Folds":
        """Return the folds of prepared data."""
        num_known = len(data.train) + len(data.validation)
        if data.folds is None:
            numbers = [0]
            division_size = 1
            num_trained = float(len(data.train))
        else:
            numbers = list(range(1, num_folds(data) + 1))
            # The folds of the first division are numbered from 1.
            division_size = int(data.folds[0].max())
            num_held = np.count_nonzero(data.folds[0]) / division_size
            num_trained = num_known - num_held
        if data.fold_training is not None:
            num_trained = np.count_nonzero(data.fold_training[1:]) / division_size
        num_samples = num_known + len(data.test)
        return cls(
            numbers=numbers,
            division_size=division_size,
            growth=num_samples / num_trained,
        )
