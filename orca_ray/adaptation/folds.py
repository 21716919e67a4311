"""Folds and outer test of own data, as a search knows them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from orca_ray.adaptation.configuration import ALL, ALL_BUT_TEST
from orca_ray.data.prepared import PreparedData, num_folds
from orca_ray.tasks.task import Task

LEAST_TEST_SAMPLES = 20
"""Least number of samples of an outer test whose score is used."""
TARGETS_WITH_SHARES = ("classes", "labels")
"""Kinds of targets whose score is a share of the samples.

Only with these kinds does an outer test judge a continued training. Data sets of fields
are small, so that the training needs all samples.
"""


@dataclass(frozen=True, kw_only=True)
class Folds:
    """The folds of own data, and their sizes."""

    numbers: Sequence[int]
    """Numbers of all folds, in the order in which they run; [0]: the prepared
    validation split.
    """
    division_size: int
    """Number of folds of one division of the data."""
    num_held: float = math.inf
    """Number of validation samples of a fold, if scores are shares of these samples;
    else infinite.
    """
    num_classes: int = 0
    """Number of classes; 0 if the targets are not classes."""
    has_outer_test: bool = False
    """Whether an outer test judges a continued training on all other samples."""
    sizes: Mapping[int, float] = field(
        default_factory=lambda: {ALL: 1.0, ALL_BUT_TEST: 1.0}
    )
    """Numbers of training samples of `ALL` and of `ALL_BUT_TEST`, relative to that of a
    fold.
    """

    @property
    def first(self) -> int:
        """Number of the fold that runs first."""
        return self.numbers[0]

    @property
    def divisions(self) -> list[Sequence[int]]:
        """Numbers of the folds of each division of the data."""
        starts = range(0, len(self.numbers), self.division_size)
        return [self.numbers[start : start + self.division_size] for start in starts]

    @classmethod
    def of_data(cls, task: Task, data: PreparedData) -> "Folds":
        """Return the folds of the prepared ``data`` of ``task``."""
        num_known = len(data.train) + len(data.validation)
        if data.folds is None:
            numbers = [0]
            division_size = 1
            num_held = float(len(data.validation))
        else:
            numbers = list(range(1, num_folds(data) + 1))
            # The folds of the first division are numbered from 1.
            division_size = int(data.folds[0].max())
            num_held = np.count_nonzero(data.folds[0]) / division_size
        num_trained = num_known - num_held
        if data.fold_training is not None:
            num_trained = np.count_nonzero(data.fold_training[1:]) / division_size
        has_shares = task.target.kind in TARGETS_WITH_SHARES
        has_classes = task.target.kind == "classes"
        return cls(
            numbers=numbers,
            division_size=division_size,
            num_held=num_held if has_shares else math.inf,
            num_classes=task.target.num_outputs if has_classes else 0,
            has_outer_test=has_shares and len(data.test) >= LEAST_TEST_SAMPLES,
            sizes={
                ALL: (num_known + len(data.test)) / num_trained,
                ALL_BUT_TEST: num_known / num_trained,
            },
        )
