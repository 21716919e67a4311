"""The portfolio: the methods that `adapt` compares, in an order for each kind of data.

The order is learned from stored trials: each method in turn lowers the mean of the
least error so far the most (``benchmarks/portfolio.py``).

Source: Salinas and Erickson, 2023, "TabRepo: a large scale repository of tabular model
evaluations and its AutoML applications", section 5.
"""

import tomllib
from functools import cache
from pathlib import Path

from orca_ray.tasks.task import Task

FILE = Path(__file__).with_suffix(".toml")
"""File with the order of the methods for each kind of data."""
OTHER = "other"
"""Kind of data of all domains that have no portfolio of their own."""


def kind_of_data(task: Task) -> str:
    """Return the kind of a task's data, which is a key of the portfolio."""
    is_field = task.target.kind == "dense" and task.domain != "tabular"
    kind = "field" if is_field else task.domain
    return kind if kind in read_portfolio() else OTHER


def methods_in_order(kind: str) -> tuple[str, ...]:
    """Return the names of the methods for a kind of data, in the order to start in."""
    return read_portfolio()[kind]


@cache
def read_portfolio() -> dict[str, tuple[str, ...]]:
    """Return the names of the methods by kind of data."""
    kinds = tomllib.loads(FILE.read_text(encoding="utf-8"))
    return {kind: tuple(methods) for kind, methods in kinds.items()}
