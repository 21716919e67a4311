"""The score table as arrays. Axes: T tasks, M methods, S seeds."""

import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orca_ray.discovery import declared, modules, with_plug_ins
from orca_ray.errors import lookup

Floats = NDArray[np.float64]
"""An array of floating-point numbers."""


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """Test scores by task, method and seed; lower is better.

    Arrays must not be changed.
    """

    tasks: tuple[str, ...]
    """Names of the tasks, sorted."""
    methods: tuple[str, ...]
    """Names of the methods, sorted."""
    scores_TMS: Floats
    """Scores [T, M, S]; NaN after the last seed.

    The n scores of a (task, method) come first, in the order of their seeds.
    """
    floors: Mapping[str, float] = field(default_factory=dict)
    """Floors of tasks; see `floors_T`."""

    @classmethod
    def of(
        cls,
        scores: "pd.DataFrame | ScoreTable",
        floors: Mapping[str, float] | None = None,
    ) -> "ScoreTable":
        """Return the arrays of a score table, which is a frame.

        Columns are ``task``, ``method``, ``seed`` and ``score``. Missing scores are
        absent rows. ``floors`` are those of the board that the scores are a part of.
        Raises ValueError if a score is not finite or a (task, method, seed) occurs
        twice.
        """
        if isinstance(scores, ScoreTable):
            return scores
        if not np.isfinite(scores["score"].to_numpy("float64")).all():
            raise ValueError(
                "a score table has finite scores only; leave out the rows without one"
            )
        if scores.duplicated(["task", "method", "seed"]).any():
            raise ValueError(
                "a score table has one score for each task, method and seed"
            )
        rows = scores.sort_values("seed", kind="stable")
        t, tasks = pd.factorize(rows["task"], sort=True)
        m, methods = pd.factorize(rows["method"], sort=True)
        places = rows.groupby(["task", "method"]).cumcount().to_numpy()
        num_seeds = places.max(initial=-1) + 1
        scores_TMS = np.full((len(tasks), len(methods), num_seeds), np.nan)
        scores_TMS[t, m, places] = rows["score"].to_numpy("float64")
        return cls(
            tuple(map(str, tasks)), tuple(map(str, methods)), scores_TMS, floors or {}
        )

    @cached_property
    def floors_T(self) -> Floats:
        """Floors [T] to which lower scores are raised before a ratio is computed.

        The floor of a task is `score_floor` of all scores of its board, so that it does
        not depend on which methods are compared. Where ``floors`` has none, the scores
        of this table are all that is known.
        """
        own = map(score_floor, self.scores_TMS)
        return np.array(
            [
                self.floors.get(task, floor)
                for task, floor in zip(self.tasks, own, strict=True)
            ]
        )

    @cached_property
    def num_seeds_TM(self) -> NDArray[np.int64]:
        """Number of seeds with a score, for each task and method [T, M]."""
        num_TM: NDArray[np.int64] = np.isfinite(self.scores_TMS).sum(axis=-1)
        return num_TM

    @cached_property
    def means_TM(self) -> Floats:
        """Mean score over seeds of each task and method [T, M]; NaN without a score."""
        return mean_over_seeds(self.scores_TMS)

    @cached_property
    def common(self) -> "ScoreTable":
        """The part of the table with the tasks on which every method has a score."""
        complete_T = (self.num_seeds_TM > 0).all(axis=1) & bool(self.methods)
        if complete_T.all():
            return self
        tasks = tuple(self.tasks[t] for t in np.flatnonzero(complete_T))
        return replace(self, tasks=tasks, scores_TMS=self.scores_TMS[complete_T])

    def by_method(
        self, **columns: Sequence[object] | Floats | float | str | None
    ) -> pd.DataFrame:
        """Return a frame of ``columns``, arrays [M] or constants: a row per method."""
        return pd.DataFrame(columns, index=pd.Index(self.methods, name="method"))

    def by_pair(
        self, **columns: Floats | NDArray[np.bool_] | NDArray[np.int64] | int
    ) -> pd.DataFrame:
        """Return a frame of ``columns``, arrays [M, M] or constants.

        It has a row for each ordered pair of methods.
        """
        index = pd.MultiIndex.from_product(
            [self.methods, self.methods], names=["method", "other"]
        )
        different = ~np.eye(len(self.methods), dtype=bool).ravel()
        flat = {
            name: values.ravel() if isinstance(values, np.ndarray) else values
            for name, values in columns.items()
        }
        return pd.DataFrame(flat, index=index)[different]


def score_floor(scores: Floats) -> float:
    """Return half of a task's smallest positive score, 1 if no score is positive.

    Lower mean scores are raised to this floor. A mean of zero, such as no error on a
    small test set, has no ratio. Half of the smallest score that was measured stands
    for it, as half of the detection limit does in chemistry.
    """
    positive = scores[scores > 0]
    return float(positive.min()) / 2 if len(positive) else 1.0


def mean_over_seeds(scores: Floats) -> Floats:
    """Return the mean of the scores along the last axis; NaN where there is no score.

    NaN scores are left out. Scores are added in the order of the axis, so that a
    program in another language can compute the same bits.
    """
    present = np.isfinite(scores)
    total = np.zeros(scores.shape[:-1])
    for s in range(scores.shape[-1]):
        total += np.where(present[..., s], scores[..., s], 0.0)
    num = present.sum(axis=-1)
    means: Floats = np.divide(
        total, num, out=np.full(total.shape, np.nan), where=num > 0
    )
    return means


Shape = Literal["cell", "method", "pair", "curve", "hyperparameter"]
"""What a row of the frame of a statistic stands for; see `INDEX`."""
Input = Literal["scores", "costs", "searches", "curves"]
"""Name of a table that a statistic takes; see `COLUMNS`."""

COLUMNS: Mapping[Input, tuple[str, ...]] = {
    "scores": ("task", "method", "seed", "score"),
    "costs": ("task", "method", "cost"),
    "searches": ("task", "method", "number", "score", "hyperparameters"),
    "curves": ("task", "method", "trial", "epoch", "score", "learning_rate"),
}
"""Columns of each table.

``scores`` holds test scores (lower is better). ``costs`` holds one positive cost in one
unit per task and method. ``searches`` holds the validation score of each search trial
(lower is better; NaN if it has none): ``number`` is its place in the search, and
``hyperparameters`` a mapping from names to values. ``curves`` holds the validation
score (lower is better) and the learning rate of each epoch of training; ``epoch`` is
its number, from 1, and ``trial`` the key of the trial.
"""
INDEX: Mapping[Shape, tuple[str, ...]] = {
    "cell": ("task", "method"),
    "method": ("method",),
    "pair": ("method", "other"),
    "curve": ("method", "x"),
    "hyperparameter": ("method", "hyperparameter"),
}
"""Index names of the frame that a statistic returns, by its shape."""


@dataclass(frozen=True)
class Statistic:
    """A statistic of a leaderboard.

    ``function`` takes the tables named in ``inputs``, a score table as `ScoreTable`,
    and options with defaults. It returns a frame with the index `INDEX` of its shape
    and at least the column ``value``. Statistics of the shapes ``method`` and ``pair``
    also have ``num_tasks``, the number of tasks that they were computed on. Statistics
    of the shape ``method``, and all others with an interval, also have the ends of the
    interval, ``low`` and ``high``. An undefined value is NaN. A function does not
    change its arguments, and does not depend on the order of their rows.
    """

    name: str
    title: str
    function: Callable[..., pd.DataFrame]
    shape: Shape
    better: Literal["lower", "higher"] | None = None
    """Whether lower or higher values are better; None if neither."""
    inputs: tuple[Input, ...] = ("scores",)
    on_boards: bool = False
    """Whether the statistic is a row below the scores of a leaderboard.

    Only statistics of the shape ``method`` of scores may be one.
    """

    def __post_init__(self) -> None:
        if self.on_boards and (self.shape, self.inputs) != ("method", ("scores",)):
            raise ValueError(
                f"{self.name} has the shape {self.shape} of {self.inputs}: it is no row"
                " of a leaderboard"
            )

    @property
    def definition(self) -> str:
        """The docstring of the function without its sections: text for readers."""
        docstring = inspect.getdoc(self.function) or ""
        return re.split(r"\n\n(?:Args|Returns|Raises):\n", docstring)[0]

    def compute(
        self, *tables: pd.DataFrame | ScoreTable, **options: Any
    ) -> pd.DataFrame:
        """Return ``function(*tables, **options)``.

        There is a table for each of ``inputs``, with the columns `COLUMNS`.
        """
        arguments = [
            ScoreTable.of(table) if name == "scores" else table
            for name, table in zip(self.inputs, tables, strict=True)
        ]
        return self.function(*arguments, **options)


@cache
def all_statistics() -> Mapping[str, Statistic]:
    """Return all statistics by name, those of plug-ins last.

    Raises ValueError if two modules of orca-ray share a name.
    """
    package = sys.modules[__name__.rpartition(".")[0]]
    own_statistics = declared(Statistic, "STATISTIC", modules(package))
    return with_plug_ins("statistic", Statistic, own_statistics)


def get_statistic(name: str) -> Statistic:
    """Return a statistic by name.

    Raises UserError with the nearest name for an unknown name.
    """
    return lookup("statistic", name, all_statistics())


def on_boards() -> list[str]:
    """Return the names of the statistics that are rows below a leaderboard."""
    return [name for name, statistic in all_statistics().items() if statistic.on_boards]
