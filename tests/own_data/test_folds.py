"""Folds and outer test of own data."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from orca_ray.data.rows import Array
from orca_ray.errors import UserError
from orca_ray.own_data import Options, UserData
from orca_ray.own_data.folds import plan_folds
from orca_ray.own_data.infer_task import Inferred, infer
from tests.own_data.test_infer_task import found

RNG = np.random.default_rng(0)


def inferred(
    num_samples: int = 60,
    y: Any = None,
    options: Options | None = None,
    x: Any = None,
    **properties: Any,
) -> Inferred:
    if x is None:
        x = RNG.normal(size=(num_samples, 4))
    if y is None:
        y = np.arange(num_samples) % 3
    data = UserData(x=x, y=np.asarray(y), source="my.npz", **properties)
    return infer(data, options)


def folds(result: Inferred) -> tuple[Array, Array]:
    """Return the folds [R, N] and the numbers of their samples [N]."""
    assert result.folds is not None
    rows = [result.splits["train"], result.splits["validation"]]
    return result.folds, np.concatenate(rows)


def why(result: Inferred, what: str) -> str:
    """Return the reason of the finding about a property."""
    return next(finding.why for finding in result.findings if finding.what == what)


def are_undivided(draws: Array, units: Array) -> bool:
    """Return whether each unit [N] is in one fold of each draw [R, N]."""
    return all(
        len(np.unique(draw[units == unit])) == 1
        for draw in draws
        for unit in np.unique(units)
    )


@pytest.mark.parametrize(
    ("num_samples", "smallest", "num_units", "ordered", "expected"),
    [
        (60, 20, 60, False, (2, 5)),
        (301, 100, 301, False, (1, 5)),
        (20_000, 5000, 20_000, False, (1, 5)),
        (20_001, 5000, 20_001, False, (1, 1)),
        (60, 3, 60, False, (2, 3)),
        (60, 1, 60, False, (2, 2)),
        (60, 60, 4, False, (1, 4)),  # one group a fold: every draw is the same
        (60, 60, 12, True, (1, 5)),
        (60, 60, 1, False, (1, 1)),
    ],
)
def test_the_plan(
    num_samples: int,
    smallest: int,
    num_units: int,
    ordered: bool,
    expected: tuple[int, int],
) -> None:
    assert plan_folds(num_samples, smallest, num_units, ordered=ordered) == expected


@pytest.mark.parametrize(
    ("y", "strata"),
    [
        (np.repeat([0, 1, 2], [100, 100, 25]), np.repeat([0, 1, 2], [100, 100, 25])),
        (np.exp(RNG.normal(size=225)), None),
        (
            np.stack([np.arange(225) % 45 == 0, np.arange(225) % 2 == 0], axis=1),
            np.arange(225) % 45 == 0,
        ),
        (RNG.normal(size=(225, 3)), np.zeros(225)),
    ],
)
def test_each_fold_has_its_share_of_each_class_label_and_size(
    y: Array, strata: Array | None
) -> None:
    draws, rows = folds(inferred(225, y))
    assert draws.shape == (2, 191)
    assert draws.dtype == np.int8
    assert not np.array_equal(*draws)
    if strata is None:  # tenths of the sorted targets
        ranks = np.argsort(np.argsort(y[rows], axis=0), axis=0)
        strata_of_rows = ranks * 10 // len(rows)
    else:
        strata_of_rows = strata[rows]
    for draw in draws:
        assert np.unique(draw).tolist() == [1, 2, 3, 4, 5]
        for stratum in np.unique(strata_of_rows):
            counts = np.bincount(draw[strata_of_rows == stratum], minlength=6)[1:]
            assert np.ptp(counts) <= 2
    repeated, _ = folds(inferred(225, y))
    np.testing.assert_array_equal(draws, repeated)
    of_another_seed, _ = folds(inferred(225, y, Options(seed=1)))
    assert not np.array_equal(draws, of_another_seed)


def test_groups_are_not_divided() -> None:
    groups = np.array([f"p{k // 5}" for k in range(60)])
    draws, rows = folds(inferred(groups=groups))
    assert are_undivided(draws, groups[rows])


def test_copies_are_not_divided() -> None:
    copied = np.tile(RNG.normal(size=(20, 4)), (3, 1))
    result = inferred(x=copied, y=np.arange(60) % 20 % 2)
    draws, rows = folds(result)
    assert are_undivided(draws, rows % 20)
    assert "have the inputs of a sample of another split" in " ".join(result.warnings)


def test_folds_are_blocks_in_time_of_which_the_first_is_the_latest() -> None:
    times = RNG.permutation(np.repeat(np.arange(20), 3))
    (draw,), rows = folds(inferred(times=times))
    blocks = [times[rows][draw == fold] for fold in (5, 4, 3, 2, 1)]
    for earlier, later in pairwise(blocks):
        assert earlier.max() < later.min()


@pytest.mark.parametrize(
    ("properties", "number", "expected"),
    [
        (
            {"y": np.repeat([0, 1], [57, 3])},
            3,
            "from 3 folds instead of 5: train and validation have 3 different",
        ),
        (
            {"groups": np.arange(60) % 2},
            2,
            "from 2 folds instead of 5: train and validation have 2 groups",
        ),
        (
            {"groups": np.arange(60) % 4},
            4,
            "from 4 folds instead of 5: train and validation have 4 groups",
        ),
        (
            {"y": np.arange(60) // 30, "groups": np.arange(60) // 10},
            3,
            "have 3 groups of a class",
        ),
        ({"times": np.arange(60) // 20, "y": np.arange(60) // 30}, 3, "have 3 times"),
        (
            {"times": np.arange(60), "y": np.arange(60) // 20},
            5,
            "not every fold has samples of every class",
        ),
    ],
)
def test_few_samples_of_a_class_groups_or_times(
    properties: dict[str, Any], number: int, expected: str
) -> None:
    result = inferred(options=Options(holdout=False), **properties)
    draws, _ = folds(result)
    assert draws.max() == number
    assert expected in " ".join(result.warnings)


def test_a_metric_that_needs_every_class_is_not_chosen_where_a_fold_lacks_one() -> None:
    y = np.isin(np.arange(60), [0, 1, 2, 3, 4, 5, 6, 45, 55])
    assert inferred(y=y).task.metric == "one_minus_auroc"
    result = inferred(y=y, times=np.arange(60), options=Options(holdout=False))
    assert result.task.metric == "one_minus_macro_f1"


def test_many_samples_have_no_folds() -> None:
    x = np.arange(20_100.0)[:, None]
    assert inferred(20_100, x=x, options=Options(holdout=False)).folds is None


def test_a_declared_validation_split_has_no_folds() -> None:
    declared = np.array(["train", "validation", "test"] * 20)
    y = np.arange(60) // 3 % 2
    assert found(inferred(y=y, splits=declared), "folds") == "one split"
    without_validation = np.where(declared == "test", "test", "train")
    draws, rows = folds(inferred(y=y, splits=without_validation))
    assert set(rows) == set(np.flatnonzero(declared != "test"))
    assert draws.shape[1] == 40


DECLARED = np.array(["train", "test"] * 30)
WITHOUT = Options(holdout=False)


@pytest.mark.parametrize(
    ("properties", "options", "num_test"),
    [
        ({"num_samples": 199}, None, 0),
        ({"num_samples": 200}, None, 30),
        ({"num_samples": 200}, WITHOUT, 0),
        ({}, Options(holdout=True), 9),
        ({"times": np.arange(60)}, None, 9),
        ({"times": np.arange(60)}, WITHOUT, 0),
        ({"groups": np.arange(60) % 20}, WITHOUT, 0),
        ({"splits": DECLARED}, None, 30),
        ({"splits": DECLARED}, WITHOUT, 0),
        ({"splits": np.where(DECLARED == "test", "validation", "train")}, None, 0),
    ],
)
def test_the_outer_test_is_held_out_by_default_where_data_allow(
    properties: dict[str, Any], options: Options | None, num_test: int
) -> None:
    result = inferred(options=options, **properties)
    num_samples = result.task.num_samples
    assert num_samples is not None
    assert num_samples[2] == num_test
    assert sum(num_samples) == properties.get("num_samples", 60)
    assert ("test" in result.splits) == (num_test > 0)
    expected = f"{num_test} samples" if num_test else "none"
    assert found(result, "holdout").startswith(expected)


@pytest.mark.parametrize("num_classes", [52, 120])
def test_classes_of_two_samples_have_two_folds_and_no_test(num_classes: int) -> None:
    y = np.char.add("k", np.repeat(np.arange(num_classes), 2).astype(str))
    result = inferred(len(y), y)
    assert result.task.target.size == num_classes
    assert set(result.splits) == {"train", "validation"}
    assert "a class has 2 samples" in why(result, "holdout")
    draws, rows = folds(result)
    assert draws.max() == 2
    for draw in draws:
        for fold in (1, 2):
            assert len(set(y[rows[draw == fold]])) == num_classes
    with pytest.raises(UserError, match="two classes of 3 samples or more"):
        inferred(len(y), y, Options(holdout=True))


def test_single_samples_and_few_of_classes_of_two_are_left_out() -> None:
    y = np.repeat(np.arange(24).astype(str), [1, *[2] * 20, 1, 1, 2])
    result = inferred(len(y), y)
    assert result.task.target.size == 21
    assert "classes with fewer than 2 samples" in " ".join(result.warnings)
    few = inferred(y=np.repeat(["a", "b", "c"], [2, 28, 30]))
    assert few.task.target.size == 2


def test_declared_splits_keep_classes_of_two_training_samples() -> None:
    y = np.tile(np.arange(20).astype(str), 4)
    declared = np.repeat(["train", "test"], 40)
    result = inferred(len(y), y, splits=declared)
    draws, _ = folds(result)
    assert draws.max() == 2
    assert len(result.splits["test"]) == 40
