"""The class `Statistic`; modules of this package declare a ``STATISTIC`` or several ``STATISTICS``."""

import inspect
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import pandas as pd

from orca_ray.discovery import declared, modules, with_plug_ins
from orca_ray.errors import lookup
from orca_ray.leaderboard.statistics.table import ScoreTable

Shape = Literal["cell", "method", "pair", "curve", "hyperparameter"]
Input = Literal["scores", "costs", "searches"]

COLUMNS: Mapping[Input, tuple[str, ...]] = {
    "scores": ("task", "method", "seed", "score"),
    "costs": ("task", "method", "cost"),
    "searches": ("task", "method", "number", "score", "hyperparameters"),
}
"""Columns of each table.

``scores`` holds test scores (lower is better). ``costs`` holds one positive cost in one unit per task and method.
``searches`` holds the validation score of each search trial (lower is better; NaN if it has none): ``number`` is its
place in the search, and ``hyperparameters`` a mapping from names to values.
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

    ``function`` takes the tables named in ``inputs``, a score table as `ScoreTable`, and options with defaults. It
    returns a frame with the index `INDEX` of its shape and at least the column ``value``. Statistics of the shapes
    ``method`` and ``pair`` also have ``num_tasks``, the number of tasks that they were computed on. Those of the shape
    ``method``, and others that have an interval, also have its ends, ``low`` and ``high``. An undefined value is NaN.
    A function does not change its arguments, and does not depend on the order of their rows.
    """

    name: str
    title: str
    function: Callable[..., pd.DataFrame]
    shape: Shape
    better: Literal["lower", "higher"] | None = None
    """Which values are better; None if neither."""
    inputs: tuple[Input, ...] = ("scores",)
    on_boards: bool = False
    """Whether it is a row below the scores of a leaderboard; only for statistics of the shape ``method`` of scores."""

    def __post_init__(self) -> None:
        if self.on_boards and (self.shape, self.inputs) != ("method", ("scores",)):
            raise ValueError(f"{self.name} has the shape {self.shape} of {self.inputs}: it is no row of a leaderboard")

    @property
    def definition(self) -> str:
        """The docstring of the function without its sections on arguments, columns and errors: text for readers."""
        return re.split(r"\n\n(?:Args|Returns|Raises):\n", inspect.getdoc(self.function) or "")[0]

    def compute(self, *tables: pd.DataFrame | ScoreTable, **options: Any) -> pd.DataFrame:
        """Return the statistic of ``tables``, in the order of ``inputs`` and with the columns `COLUMNS`."""
        pairs = zip(self.inputs, tables, strict=True)
        given = [ScoreTable.of(table) if name == "scores" else table for name, table in pairs]
        return self.function(*given, **options)


@cache
def all_statistics() -> Mapping[str, Statistic]:
    """Return all statistics by name, those of plug-ins last; raises ValueError if two modules here declare one name."""
    return with_plug_ins(
        "statistic", Statistic, declared(Statistic, "STATISTIC", modules(sys.modules[__name__.rpartition(".")[0]]))
    )


def get_statistic(name: str) -> Statistic:
    """Return a statistic; raises UserError with the nearest name for an unknown one."""
    return lookup("statistic", name, all_statistics())


def on_boards() -> list[str]:
    """Return the names of the statistics that are rows below the scores of a leaderboard."""
    return [name for name, each in all_statistics().items() if each.on_boards]
