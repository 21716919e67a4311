"""Searches: what validation chooses among several methods, as a side of a comparison.

The best of seven equal methods has less error than an eighth one, because it was
chosen. Two sides are therefore alike only if each was chosen among as many candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import NDArray

from orca_ray.leaderboard.statistics.table import Floats

REFERENCE = "nft"
"""Name of the method that most methods are compared with: plain fine-tuning."""
BEST_TRANSFORMER = "best transformer"
"""Name of the search among transformers, of as many candidates as `BEST_BASELINE`."""
BEST_BASELINE = "best baseline"
"""Name of the search among baselines, of as many candidates as `BEST_TRANSFORMER`."""
TYPICAL_BASELINE = "typical baseline"
"""Name of the geometric mean of all baselines that can adapt to a task."""


@dataclass(frozen=True)
class Families:
    """Methods that searches choose from.

    The order of a family decides between equal validation scores.
    """

    transformers: tuple[str, ...] = ()
    """Candidates of `BEST_TRANSFORMER`."""
    rivals: tuple[str, ...] = ()
    """Candidates of `BEST_BASELINE`."""
    baselines: tuple[str, ...] = ()
    """Methods without a body: members of `TYPICAL_BASELINE`."""

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of all methods, sorted."""
        return tuple(sorted({*self.transformers, *self.rivals, *self.baselines}))


def label(side: str) -> str:
    """Return the name of a side for a page: that of a method is code."""
    if side in (BEST_TRANSFORMER, BEST_BASELINE, TYPICAL_BASELINE):
        return side
    method, space, part = side.partition(" (")
    return f"`{method}`{space}{part}"


def sides(
    validation_TM: Floats,
    methods: Sequence[str],
    families: Families,
    size: int | None = None,
) -> dict[str, Floats]:
    """Return the weights [T, M] of `search_weights` of each search, by its name.

    ``validation_TM`` are validation scores, NaN for a method that is no candidate on a
    task and infinite for a candidate without a score. The searches of the best ones
    have ``size`` candidates, by default as many as the smaller family has on the task.
    """
    transformers, rivals, baselines = (
        [methods.index(name) for name in family if name in methods]
        for family in (families.transformers, families.rivals, families.baselines)
    )
    is_candidate_TM = ~np.isnan(validation_TM)
    ones_T = np.ones(len(validation_TM), int)
    if size is None:
        sizes_T = np.minimum(
            is_candidate_TM[:, transformers].sum(axis=1),
            is_candidate_TM[:, rivals].sum(axis=1),
        )
    else:
        sizes_T = size * ones_T
    return {
        BEST_TRANSFORMER: search_weights(validation_TM, transformers, sizes_T),
        BEST_BASELINE: search_weights(validation_TM, rivals, sizes_T),
        TYPICAL_BASELINE: search_weights(validation_TM, baselines, ones_T),
    }


def search_weights(
    validation_TM: Floats, family: Sequence[int], sizes_T: NDArray[np.int64]
) -> Floats:
    """Return the probability [T, M] that a search keeps a method.

    A search of size k draws k candidates of a ``family`` (columns of
    ``validation_TM``), and keeps the one with the lowest validation score. The mean of
    log scores with these weights is what a search is expected to find: of size 1 it is
    the mean of all candidates, and a search of all of them keeps the best. Weights are
    NaN on a task with fewer candidates than its size, or with a candidate that has no
    score, and for size 0.
    """
    weights_TM = np.zeros(validation_TM.shape)
    for t, size in enumerate(sizes_T.tolist()):
        candidates = [m for m in family if not np.isnan(validation_TM[t, m])]
        num = len(candidates)
        if not 0 < size <= num or np.isinf(validation_TM[t, candidates]).any():
            weights_TM[t] = np.nan
            continue
        # A search keeps a method if all others that it drew are worse.
        best_first = sorted(candidates, key=validation_TM[t].__getitem__)
        for num_better, m in enumerate(best_first):
            num_worse = num - 1 - num_better
            weights_TM[t, m] = comb(num_worse, size - 1) / comb(num, size)
    return weights_TM
