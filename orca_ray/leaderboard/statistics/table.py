"""The score table as arrays. Axes: T tasks, M methods, S seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """Test scores by task, method and seed; lower is better. Arrays must not be changed."""

    tasks: tuple[str, ...]
    """Sorted."""
    methods: tuple[str, ...]
    """Sorted."""
    scores_TMS: Floats
    """The n scores of a (task, method) are the first n of its row, in the order of their seeds; the rest is NaN."""

    @classmethod
    def of(cls, scores: "pd.DataFrame | ScoreTable") -> "ScoreTable":
        """Return the arrays of a score table: a frame with the columns ``task``, ``method``, ``seed`` and ``score``.

        Missing scores are absent rows. Raises ValueError if a score is not finite or a (task, method, seed) occurs
        twice.
        """
        if isinstance(scores, ScoreTable):
            return scores
        rows = scores.astype({"score": "float64"}).sort_values(["task", "method", "seed"])
        if not np.isfinite(rows["score"]).all():
            raise ValueError("a score table has finite scores only; leave out the rows without one")
        if rows.duplicated(["task", "method", "seed"]).any():
            raise ValueError("a score table has one score for each task, method and seed")
        places = rows.groupby(["task", "method"]).cumcount()
        codes, names = zip(*(pd.factorize(rows[column], sort=True) for column in ("task", "method")), strict=True)
        scores_TMS = np.full((*map(len, names), int(places.max()) + 1 if len(rows) else 0), np.nan)
        scores_TMS[(*codes, places.to_numpy())] = rows["score"]
        tasks, methods = (tuple(map(str, each)) for each in names)
        return cls(tasks, methods, scores_TMS)

    @cached_property
    def num_seeds_TM(self) -> NDArray[np.int64]:
        """Number of scores."""
        num_TM: NDArray[np.int64] = np.isfinite(self.scores_TMS).sum(axis=-1)
        return num_TM

    @cached_property
    def means_TM(self) -> Floats:
        """Mean over seeds; NaN without a score."""
        return mean_over_seeds(self.scores_TMS)

    @cached_property
    def common(self) -> "ScoreTable":
        """The part with the tasks on which every method has a score."""
        complete_T = (self.num_seeds_TM > 0).all(axis=1)
        return self if complete_T.all() else self.choose(np.flatnonzero(complete_T))

    def choose(self, tasks: NDArray[np.int64]) -> "ScoreTable":
        """Return the part with the tasks that have these indices."""
        return ScoreTable(tuple(self.tasks[t] for t in tasks), self.methods, self.scores_TMS[tasks])

    def by_method(self, **columns: Sequence[object] | Floats | float | str | None) -> pd.DataFrame:
        """Return a frame with one row per method."""
        return pd.DataFrame(columns, index=pd.Index(self.methods, name="method"))

    def by_pair(self, **columns: Floats | NDArray[np.bool_] | NDArray[np.int64] | int) -> pd.DataFrame:
        """Return a frame with one row per pair of different methods, from arrays of the shape [M, M]."""
        index = pd.MultiIndex.from_product([self.methods, self.methods], names=["method", "other"])
        different = ~np.eye(len(self.methods), dtype=bool).ravel()
        flat = {name: each.ravel() if isinstance(each, np.ndarray) else each for name, each in columns.items()}
        return pd.DataFrame(flat, index=index)[different]


def mean_over_seeds(scores: Floats) -> Floats:
    """Return the mean over the last axis, which may hold NaN behind the scores; NaN where there is no score.

    Scores are added in their order, so that another language gets the same bits.
    """
    present = np.isfinite(scores)
    total = np.zeros(scores.shape[:-1])
    for s in range(scores.shape[-1]):
        total += np.where(present[..., s], scores[..., s], 0.0)
    num = present.sum(axis=-1)
    means: Floats = np.divide(total, num, out=np.full(total.shape, np.nan), where=num > 0)
    return means
