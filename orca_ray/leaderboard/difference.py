"""Compare two boards of one benchmark: which scores moved beyond noise."""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import special

from orca_ray.leaderboard.statistics.table import Floats

RULE = (
    "A score moved beyond noise if Student's test at the 5 % level says so: the paired"
    " test of the seeds that both boards have if these are at least two, else the test"
    " of two means. About one in twenty of the scores that did not change moves beyond"
    " noise by chance. With one seed, or seeds that do not differ, noise is unknown."
    " Scores are lower-is-better."
)
"""Text that explains to a user when a score moved."""
_ROUNDING = 1e-9
"""Errors of a difference below this share of it are rounding errors."""
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
    """The score of a method on a task in two boards.

    ``before`` and ``after`` are means over seeds, NaN if absent.
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
    """Number of seeds in both boards that were compared.

    It is 0 if the means over all seeds of each board are compared.
    """
    reason: str = ""
    """Why the scores are not comparable; empty unless `kind` is ``INCOMPARABLE``."""


def compare_boards(before: pd.DataFrame, after: pd.DataFrame) -> list[Change]:
    """Return the change of each (task, method), sorted by task and method.

    A change needs a score in at least one board. The boards are tables of scores with
    the columns of `orca_ray.leaderboard.format.SCHEMA`. `RULE` says which changes are
    beyond noise.
    """
    rows_before = _scored_rows(before)
    rows_after = _scored_rows(after)
    return [
        _change(*cell, rows_before.get(cell), rows_after.get(cell))
        for cell in sorted({*rows_before, *rows_after})
    ]


def _scored_rows(board: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    """Return the rows with a score by task and method."""
    scored = board[board["score"].notna()]
    return {
        (str(task), str(method)): rows
        for (task, method), rows in scored.groupby(["task", "method"])
    }


def _change(
    task: str, method: str, before: pd.DataFrame | None, after: pd.DataFrame | None
) -> Change:
    """Return the change between the rows of one (task, method) in two boards."""
    if before is None or after is None:
        kind = Kind.APPEARED if before is None else Kind.DISAPPEARED
        return Change(task, method, kind, _mean(before), _mean(after))
    reason = _changed_version(before.iloc[0], after.iloc[0])
    if reason:
        return Change(
            task,
            method,
            Kind.INCOMPARABLE,
            _mean(before),
            _mean(after),
            reason=reason,
        )
    test = _test_seeds(before, after)
    difference = test.mean_after - test.mean_before
    return Change(
        task,
        method,
        _kind(difference, test.error, test.freedom),
        test.mean_before,
        test.mean_after,
        difference,
        test.error,
        test.num_shared_seeds,
    )


def _mean(rows: pd.DataFrame | None) -> float:
    return math.nan if rows is None else float(rows["score"].mean())


def _changed_version(before: "pd.Series[Any]", after: "pd.Series[Any]") -> str:
    """Return which columns of `_VERSION` differ between two rows, in words."""
    return "; ".join(
        f"{name.replace('_', ' ')} {before[name]} → {after[name]}"
        for name in _VERSION
        if before[name] != after[name]
    )


class _SeedTest(NamedTuple):
    """Two means over seeds, and the standard error of their difference."""

    mean_before: float
    mean_after: float
    error: float
    """Standard error of the difference; NaN if it cannot be estimated."""
    freedom: int
    """Degrees of freedom of the error."""
    num_shared_seeds: int
    """Number of seeds of a paired test; 0: the test is of two independent means."""


def _test_seeds(before: pd.DataFrame, after: pd.DataFrame) -> _SeedTest:
    """Return the test of whether the mean score over seeds differs between two boards.

    The test is paired by the seeds that both boards have, if there are enough of them.
    Otherwise it compares the means over all seeds of each board.
    """
    scores_before = before["score"].to_numpy("float64")
    scores_after = after["score"].to_numpy("float64")
    shared_seeds, places_before, places_after = np.intersect1d(
        before["seed"], after["seed"], return_indices=True
    )
    num_shared = len(shared_seeds)
    fewest_seeds = min(len(scores_before), len(scores_after))
    # A single shared seed gives no error of a paired test, and is used only if a board
    # has no other seed.
    if num_shared > 1 or (num_shared == 1 and fewest_seeds == 1):
        return _paired_test(scores_before[places_before], scores_after[places_after])
    return _unpaired_test(before, after)


def _paired_test(before: Floats, after: Floats) -> _SeedTest:
    """Return the test of the scores of the same seeds in both boards."""
    num_seeds = len(before)
    mean_before, mean_after = np.stack([before, after]).mean(axis=1).tolist()
    deviations = after - before - (mean_after - mean_before)
    squares = float(np.square(deviations).sum())
    freedom = num_seeds - 1
    error = math.sqrt(squares / freedom * (1 / num_seeds)) if freedom else math.nan
    return _SeedTest(mean_before, mean_after, error, freedom, num_seeds)


def _unpaired_test(before: pd.DataFrame, after: pd.DataFrame) -> _SeedTest:
    """Return the test of the means over all seeds of each board.

    The variance over seeds is taken to be equal in both boards, so it is estimated from
    the scores of both together.
    """
    sides = [rows["score"].to_numpy("float64") for rows in (before, after)]
    freedom = sum(map(len, sides)) - 2
    # The variance of a difference of two means is that of one score times this factor.
    factor = sum(1 / len(scores) for scores in sides)
    squares = sum(float(np.square(scores - scores.mean()).sum()) for scores in sides)
    error = math.sqrt(squares / freedom * factor) if freedom else math.nan
    return _SeedTest(_mean(before), _mean(after), error, freedom, num_shared_seeds=0)


def _kind(difference: float, error: float, freedom: int) -> Kind:
    """Return the kind of a change by Student's two-sided test at the 5 % level.

    ``error`` is the standard error of ``difference`` with ``freedom`` degrees of
    freedom; it is NaN if it cannot be estimated.
    """
    # Seeds that do not differ show no noise: a score that counts few errors may be
    # equal for two seeds by chance. Holds for an error of NaN, too.
    if not error > _ROUNDING * abs(difference):
        return Kind.EQUAL if difference == 0 else Kind.UNKNOWN
    if abs(difference) <= special.stdtrit(freedom, 0.975) * error:
        return Kind.WITHIN_NOISE
    return Kind.BETTER if difference < 0 else Kind.WORSE
