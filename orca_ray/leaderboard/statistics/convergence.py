"""Statistics of learning curves: whether the trials of a method had converged."""

from typing import Literal

import numpy as np
import pandas as pd
from scipy import special

from orca_ray.leaderboard.statistics.intervals import LEVEL
from orca_ray.leaderboard.statistics.table import Statistic

MIN_FALL = 0.02
"""Share by which the best score must fall at the end of a trial that still improves."""
MAX_UNFINISHED = 0.1
"""Largest share of trials that still improve, of a method that may have converged."""


def trial_ends(curves: pd.DataFrame) -> pd.DataFrame:
    """Return what each trial's learning curve says about the end of its training.

    ``curves`` has the columns of `COLUMNS`. The frame has a row for each trial, with
    these columns:

    - ``task``, ``method``
    - ``epochs``: number of the last epoch
    - ``best_last``: whether the last epoch is the best one
    - ``still_falling``: whether the best epoch is in the last twentieth of the epochs,
      and its score is lower than all scores before by more than `MIN_FALL`
    - ``chance``: share of the epochs that this twentieth is. It is the probability that
      the best epoch is there by chance, where all epochs are equally good.
    - ``fall``: share by which the score falls in the last tenth of the epochs; NaN
      after a single epoch
    - ``last_rate``: learning rate of the last epoch, relative to the highest one

    A twentieth and a tenth are rounded down, and are at least one epoch. The first of
    several epochs with equal scores is the best one.
    """
    rows = curves.sort_values(["trial", "epoch"], kind="stable")
    ends = rows.groupby("trial").agg(
        task=("task", "last"),
        method=("method", "last"),
        epochs=("epoch", "last"),
        last=("score", "last"),
        best=("score", "min"),
        end_rate=("learning_rate", "last"),
        highest_rate=("learning_rate", "max"),
    )
    epochs = ends["epochs"].astype("int64")
    num_twentieth = (epochs // 20).clip(lower=1)
    num_tenth = (epochs // 10).clip(lower=1)
    earlier = _rows_until(rows, epochs - 1)
    before_twentieth = _rows_until(rows, epochs - num_twentieth)
    before_tenth = _rows_until(rows, epochs - num_tenth)
    best_earlier = earlier.groupby("trial")["score"].min().reindex(ends.index)
    best_before = before_twentieth.groupby("trial")["score"].min().reindex(ends.index)
    score_before = before_tenth.groupby("trial")["score"].last().reindex(ends.index)
    return pd.DataFrame(
        {
            "task": ends["task"],
            "method": ends["method"],
            "epochs": epochs,
            "best_last": ~(best_earlier <= ends["best"]),
            "still_falling": _fall(best_before, ends["best"]) > MIN_FALL,
            "chance": num_twentieth / epochs,
            "fall": _fall(score_before, ends["last"]),
            "last_rate": ends["end_rate"] / ends["highest_rate"],
        }
    )


def _rows_until(rows: pd.DataFrame, last_epochs: "pd.Series[int]") -> pd.DataFrame:
    """Return the rows up to the epoch in ``last_epochs`` of their trial."""
    return rows[rows["epoch"] <= rows["trial"].map(last_epochs)]


def _fall(before: "pd.Series[float]", after: "pd.Series[float]") -> "pd.Series[float]":
    """Return by what share of ``before`` scores are lower ``after``.

    The share is 0 for equal scores, and NaN for a change from a score of 0.
    """
    change = before - after
    share = change / before.abs().where(before != 0)
    return share.where(change != 0, 0.0)


def best_last(curves: pd.DataFrame) -> pd.DataFrame:
    """Share of a method's trials whose best epoch is the last one, by validation.

    Only trials with a learning rate count, as fitted methods have no epochs of
    training. Longer training might have improved such a trial. The share has no
    interval, because it describes these trials.
    """
    return _by_method(trial_ends(curves), "best_last", "mean")


def late_fall(curves: pd.DataFrame) -> pd.DataFrame:
    """Median over a method's trials of the fall of the score at the end of training.

    It is the share by which the validation score of the last epoch is lower than that
    before the last tenth of the epochs, which is at least one epoch. It is below 0
    where the score rises. The median has no interval, because it describes these
    trials.
    """
    return _by_method(trial_ends(curves), "fall", "median")


def still_falling(curves: pd.DataFrame) -> pd.DataFrame:
    """Share of a method's trials that still improve when their training ends.

    The best epoch of such a trial is in the last twentieth of the epochs, which is at
    least one epoch, and its validation score is more than 2 % below all scores before.
    A method may not have converged if these are more than 10 % of its trials, and more
    than chance explains: where all epochs are equally good, the best one is in the last
    twentieth with a probability of one twentieth, or of one sixth with six epochs. The
    level of this binomial test is 5 % for each method.
    """
    ends = trial_ends(curves)
    frame = _by_method(ends, "still_falling", "mean")
    trials = ends.groupby("method")
    num_falling = trials["still_falling"].sum()
    num_trials = trials.size()
    # Probability of at least so many trials. Chances differ between trials of different
    # length, and their mean makes large numbers more probable, not less (Hoeffding).
    p = special.bdtrc(num_falling - 1.0, num_trials, trials["chance"].mean())
    p = np.where(num_falling > 0, p, 1.0)
    is_unfinished = (frame["value"] > MAX_UNFINISHED) & (p <= LEVEL)
    return frame.assign(num_trials=num_trials, p=p, unfinished=is_unfinished)


def _by_method(
    ends: pd.DataFrame, column: str, how: Literal["mean", "median"]
) -> pd.DataFrame:
    """Return the frame of a statistic: a column of `trial_ends`, combined by method."""
    trials = ends.groupby("method")
    return pd.DataFrame(
        {
            "value": trials[column].agg(how).astype("float64"),
            "low": np.nan,
            "high": np.nan,
            "num_tasks": trials["task"].nunique().astype("int64"),
        }
    )


STATISTICS = (
    Statistic(
        "best_last",
        "trials with the best epoch last",
        best_last,
        shape="method",
        inputs=("curves",),
    ),
    Statistic(
        "still_falling",
        "trials still improving at their end",
        still_falling,
        shape="method",
        better="lower",
        inputs=("curves",),
    ),
    Statistic(
        "late_fall",
        "fall of the validation score in the last tenth",
        late_fall,
        shape="method",
        inputs=("curves",),
    ),
)
