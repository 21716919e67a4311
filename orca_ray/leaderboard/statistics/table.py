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
        values = scores["score"].to_numpy("float64")
        if not np.isfinite(values).all():
            raise ValueError("a score table has finite scores only; leave out the rows without one")
        columns = (scores[name] for name in ("task", "method", "seed"))
        (t, tasks), (m, methods), (s, _) = (pd.factorize(column, sort=True) for column in columns)
        order = np.lexsort((s, m, t))
        t, m, s = t[order], m[order], s[order]
        first = np.ones(len(order), dtype=bool)  # the first score of its task and method
        first[1:] = (t[1:] != t[:-1]) | (m[1:] != m[:-1])
        if (~first[1:] & (s[1:] == s[:-1])).any():
            raise ValueError("a score table has one score for each task, method and seed")
        places = np.arange(len(order)) - np.flatnonzero(first)[np.cumsum(first) - 1]
        scores_TMS = np.full((len(tasks), len(methods), places.max(initial=-1) + 1), np.nan)
        scores_TMS[t, m, places] = values[order]
        return cls(tuple(map(str, tasks)), tuple(map(str, methods)), scores_TMS)

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
