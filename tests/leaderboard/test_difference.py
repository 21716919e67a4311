"""Differences of boards against hand-computed cases."""

import math

import numpy as np
import pandas as pd
import pytest

from orca_ray.leaderboard import build
from orca_ray.leaderboard.difference import Change, Kind, compare_boards
from orca_ray.leaderboard.report import score_frame
from tests.leaderboard.test_leaderboard import frame, run, seeds


def board(**scores: list[float] | dict[int, float]) -> pd.DataFrame:
    """Return the scores of methods on the task digits, by seed."""
    by_seed = {name: each if isinstance(each, dict) else dict(enumerate(each)) for name, each in scores.items()}
    runs = [run("digits", name, score, seed) for name, each in by_seed.items() for seed, score in each.items()]
    return score_frame(build(frame(*runs), benchmark="pocket"))


def only(before: pd.DataFrame, after: pd.DataFrame) -> Change:
    (found,) = compare_boards(before, after)
    return found


def test_equal_seeds_are_paired() -> None:
    """The differences are -0.1, -0.1 and -0.13: noise between seeds cancels; then 0.1, -0.1 and 0.03."""
    found = only(board(orca=[0.9, 0.5, 0.2]), board(orca=[0.8, 0.4, 0.07]))
    assert found.difference == pytest.approx(-0.11)
    assert found.error == pytest.approx(0.0173205 / math.sqrt(3), rel=1e-5)
    assert (found.kind, found.seeds) == (Kind.BETTER, 3)
    assert (found.before, found.after) == pytest.approx((1.6 / 3, 1.27 / 3))
    found = only(board(orca=[0.4, 0.5, 0.2]), board(orca=[0.5, 0.4, 0.23]))
    assert found.kind is Kind.WITHIN_NOISE
    assert found.error == pytest.approx(0.10149 / math.sqrt(3), rel=1e-3)


def test_other_seeds_are_not_paired() -> None:
    """Two variances of 0.02 over two seeds each: the standard error is sqrt(0.01 + 0.01)."""
    found = only(board(orca={0: 0.2, 1: 0.4}), board(orca={5: 0.7, 6: 0.9}))
    assert (found.difference, found.error, found.seeds) == pytest.approx((0.5, math.sqrt(0.02), 0))
    assert found.kind is Kind.WORSE


def test_few_seeds() -> None:
    one, two = board(orca=[0.5]), board(orca=[0.5, 0.25])
    assert only(one, board(orca=[0.25])).kind is Kind.UNKNOWN
    assert only(one, one).kind is only(two, two).kind is Kind.EQUAL
    assert only(two, board(orca=[0.375, 0.125])).kind is Kind.BETTER  # the same difference for both seeds
    assert only(two, board(orca={7: 0.5})).kind is Kind.UNKNOWN


def test_scores_that_appear_and_disappear() -> None:
    one = score_frame(build(frame(*seeds("digits", "orca", 0.1), run("mnist", "nft", None)), benchmark="pocket"))
    two = score_frame(build(frame(*seeds("mnist", "nft", 0.2)), benchmark="pocket"))
    found = {(each.task, each.method): each for each in compare_boards(one, two)}
    gone, new = found["pocket/digits", "orca"], found["pocket/mnist", "nft"]
    assert (gone.kind, gone.before) == (Kind.DISAPPEARED, 0.1)
    assert (new.kind, new.after) == (Kind.APPEARED, 0.2)
    assert np.isnan([gone.after, new.before, gone.difference]).all()


def test_other_versions_are_not_compared() -> None:
    one = board(orca=[0.1, 0.2])
    for column, value, reason in (
        ("metric_version", 2, "metric version 1 → 2"),
        ("metric", "f1", "metric error → f1"),
        ("data_fingerprint", "ff", "data fingerprint 0123456789abcdef → ff"),
        ("protocol", "paper", "protocol held-out → paper"),
    ):
        found = only(one, one.assign(**{column: value}))
        assert (found.kind, found.reason) == (Kind.INCOMPARABLE, reason)
