"""Compares two boards of one benchmark: which scores moved, by how much, and whether
beyond noise.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import pandas as pd
from scipy import special

RULE = (
    "A score moved beyond noise if Student's test at the 5 % level says so: the paired"
    " test of the seeds that both boards have if these are at least two, else the test"
    " of two means. About one in twenty of the scores that did not change moves beyond"
    " noise by chance. With one seed, noise is unknown. Scores are lower-is-better."
)
_VERSION = ("protocol", "metric", "metric_version", "data_fingerprint")
"""Columns that must agree before two scores are compared."""


class Kind(StrEnum):
    """Kind of change of the score of a method on a task, from one board to another."""

    BETTER = "better"
    WORSE = "worse"
    WITHIN_NOISE = "within noise"
    UNKNOWN = "noise unknown"
    EQUAL = "equal"
    APPEARED = "appeared"
    DISAPPEARED = "disappeared"
    INCOMPARABLE = "not comparable"


@dataclass(frozen=True)
class Change:
    """The score of a method on a task in two boards: ``before`` and ``after`` are means
    over seeds, NaN if absent.
    """

    task: str
    method: str
    kind: Kind
    before: float
    after: float
    difference: float = math.nan
    """``after`` − ``before``; negative is better. NaN if not compared."""
    error: float = math.nan
    """Standard error of the difference; NaN if it cannot be estimated."""
    seeds: int = 0
    """Number of seeds in both boards that were compared; 0 if means over all seeds of
    each board are compared.
    """
    reason: str = ""
    """Why the scores are not comparable; empty unless `kind` is ``INCOMPARABLE``."""


def compare_boards(before: pd.DataFrame, after: pd.DataFrame) -> list[Change]:
    """Return the change of each (task, method) that has a score in at least one board,
    sorted by task and method.

    The boards are tables of scores with the columns of
    `orca_ray.leaderboard.format.SCHEMA`. `RULE` says which changes are beyond noise.
    """
    sides = [
        {
            (str(t), str(m)): rows
            for (t, m), rows in board[board["score"].notna()].groupby(
                ["task", "method"]
            )
        }
        for board in (before, after)
    ]
    return [
        _change(*cell, *(side.get(cell) for side in sides))
        for cell in sorted({*sides[0], *sides[1]})
    ]


def _change(
    task: str, method: str, before: pd.DataFrame | None, after: pd.DataFrame | None
) -> Change:
    old, new = (
        math.nan if rows is None else float(rows["score"].mean())
        for rows in (before, after)
    )
    if before is None or after is None:
        return Change(
            task,
            method,
            Kind.APPEARED if before is None else Kind.DISAPPEARED,
            old,
            new,
        )
    one = before.iloc[0]
    other = after.iloc[0]
    changed = [name for name in _VERSION if one[name] != other[name]]
    if reason := "; ".join(
        f"{name.replace('_', ' ')} {one[name]} → {other[name]}" for name in changed
    ):
        return Change(task, method, Kind.INCOMPARABLE, old, new, reason=reason)
    shared, ours, theirs = np.intersect1d(
        before["seed"], after["seed"], return_indices=True
    )
    scores = [rows["score"].to_numpy("float64") for rows in (before, after)]
    if len(shared) > 1 or (len(shared) == 1 and min(map(len, scores)) == 1):
        pairs = np.stack([scores[0][ours], scores[1][theirs]])
        (old, new), seeds, freedom = (
            pairs.mean(axis=1).tolist(),
            len(shared),
            len(shared) - 1,
        )
        squares = float(np.square(pairs[1] - pairs[0] - (new - old)).sum())
        share = 1 / seeds
    else:
        # The scores of one method on one task vary as much in both boards, so that both
        # give one variance.
        seeds = 0
        freedom = sum(map(len, scores)) - 2
        share = sum(1 / len(each) for each in scores)
        squares = sum(float(np.square(each - each.mean()).sum()) for each in scores)
    difference = new - old
    error = math.sqrt(squares / freedom * share) if freedom else math.nan
    return Change(
        task,
        method,
        _kind(difference, error, freedom),
        old,
        new,
        difference,
        error,
        seeds,
    )


def _kind(difference: float, error: float, freedom: int) -> Kind:
    if difference == 0 and not error > 0:
        return Kind.EQUAL
    if math.isnan(error):
        return Kind.UNKNOWN
    if abs(difference) <= special.stdtrit(freedom, 0.975) * error:
        return Kind.WITHIN_NOISE
    return Kind.BETTER if difference < 0 else Kind.WORSE
