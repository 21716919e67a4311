"""Searches: what validation chooses among several methods, as a side of a comparison.

The best of seven equal methods has less error than an eighth one, because it was
chosen. Two sides are therefore alike only if each was chosen among as many candidates.
"""

from collections.abc import Sequence
from math import comb

import numpy as np
from numpy.typing import NDArray

from orca_ray.leaderboard.statistics.table import Floats

TRANSFORMERS = ("nft", "orca", "orca_guarded", "fpt", "linear_probe")
"""Methods that adapt a pretrained body.

The order of a family decides between equal validation scores.
"""
BASELINES = (
    "linear",
    "nearest",
    "forest",
    "gradient_boosting",
    "minirocket",
    "hydra",
    "unet",
    "fno",
    "cnn",
)
"""Methods without a body."""
BEST_TRANSFORMER = "best transformer"
"""Name of the search among `TRANSFORMERS`, of as many candidates as `BEST_BASELINE`."""
BEST_BASELINE = "best baseline"
"""Name of the search among `BASELINES`, of as many candidates as `BEST_TRANSFORMER`."""
TYPICAL_BASELINE = "typical baseline"
"""Name of the geometric mean of all `BASELINES` that can adapt to a task."""


def label(side: str) -> str:
    """Return the name of a side for a page: that of a method is code."""
    is_search = side in (BEST_TRANSFORMER, BEST_BASELINE, TYPICAL_BASELINE)
    return side if is_search else f"`{side}`"


def sides(
    validation_TM: Floats, methods: Sequence[str], size: int | None = None
) -> dict[str, Floats]:
    """Return the weights [T, M] of `search_weights` of each search, by its name.

    ``validation_TM`` are validation scores, NaN for a method that is no candidate on a
    task. The searches of the best ones have ``size`` candidates, by default as many as
    the smaller family has on the task.
    """
    transformers = [methods.index(name) for name in TRANSFORMERS if name in methods]
    baselines = [methods.index(name) for name in BASELINES if name in methods]
    is_candidate_TM = np.isfinite(validation_TM)
    ones_T = np.ones(len(validation_TM), int)
    if size is None:
        sizes_T = np.minimum(
            is_candidate_TM[:, transformers].sum(axis=1),
            is_candidate_TM[:, baselines].sum(axis=1),
        )
    else:
        sizes_T = size * ones_T
    return {
        BEST_TRANSFORMER: search_weights(validation_TM, transformers, sizes_T),
        BEST_BASELINE: search_weights(validation_TM, baselines, sizes_T),
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
    NaN on a task with fewer candidates than its size, and for size 0.
    """
    weights_TM = np.zeros(validation_TM.shape)
    for t, size in enumerate(sizes_T.tolist()):
        candidates = [m for m in family if np.isfinite(validation_TM[t, m])]
        num = len(candidates)
        if not 0 < size <= num:
            weights_TM[t] = np.nan
            continue
        # A search keeps a method if all others that it drew are worse.
        best_first = sorted(candidates, key=validation_TM[t].__getitem__)
        for num_better, m in enumerate(best_first):
            num_worse = num - 1 - num_better
            weights_TM[t, m] = comb(num_worse, size - 1) / comb(num, size)
    return weights_TM
