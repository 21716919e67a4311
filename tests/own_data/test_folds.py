"""Folds and outer test of own data."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from orca_ray.data.rows import Array
from orca_ray.own_data import Options, UserData
from orca_ray.own_data.folds import plan_folds
from orca_ray.own_data.infer_task import Inferred, infer
from tests.own_data.test_infer_task import found

RNG = np.random.default_rng(0)


def inferred(
    num_samples: int = 60, y: Any = None, options: Options | None = None, **given: Any
) -> Inferred:
    x = given.pop("x", None)
    x = RNG.normal(size=(num_samples, 4)) if x is None else x
    y = np.arange(num_samples) % 3 if y is None else y
    return infer(UserData(x=x, y=np.asarray(y), source="my.npz", **given), options)


def folds(result: Inferred) -> tuple[Array, Array]:
    """Return the folds [R, N] and the numbers of their samples [N]."""
    assert result.folds is not None
    return result.folds, np.concatenate(
        [result.splits["train"], result.splits["validation"]]
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
    drawn, rows = folds(inferred(225, y))
    assert drawn.shape == (2, 191)
    assert drawn.dtype == np.int8
    assert not np.array_equal(*drawn)
    tenths = np.argsort(np.argsort(y[rows], axis=0), axis=0) * 10 // len(rows)
    strata = tenths if strata is None else strata[rows]
    for each in drawn:
        assert np.unique(each).tolist() == [1, 2, 3, 4, 5]
        for stratum in np.unique(strata):
            counts = np.bincount(each[strata == stratum], minlength=6)[1:]
            assert np.ptp(counts) <= 2
    np.testing.assert_array_equal(drawn, folds(inferred(225, y))[0])
    assert not np.array_equal(drawn, folds(inferred(225, y, Options(seed=1)))[0])


def test_groups_copies_and_times_are_not_divided() -> None:
    groups = np.array([f"p{k // 5}" for k in range(60)])
    drawn, rows = folds(inferred(groups=groups))
    assert all(
        len({*each[groups[rows] == name]}) <= 1
        for each in drawn
        for name in set(groups)
    )

    copied = np.tile(RNG.normal(size=(20, 4)), (3, 1))
    result = inferred(x=copied, y=np.arange(60) % 20 % 2)
    drawn, rows = folds(result)
    assert all(len({*each[rows % 20 == k]}) <= 1 for each in drawn for k in range(20))
    assert "have the inputs of a sample of another split" in " ".join(result.warnings)

    times = RNG.permutation(np.repeat(np.arange(20), 3))
    (drawn,), rows = folds(inferred(times=times))
    ends = [
        (times[rows][drawn == k].min(), times[rows][drawn == k].max())
        for k in (1, 2, 3, 4, 5)
    ]
    assert all(
        before < after for (_, before), (after, _) in pairwise(reversed(ends))
    ), "the first fold is the latest"


@pytest.mark.parametrize(
    ("given", "number", "expected"),
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
    given: dict[str, Any], number: int, expected: str
) -> None:
    result = inferred(options=Options(holdout=False), **given)
    assert folds(result)[0].max() == number
    assert expected in " ".join(result.warnings)


def test_a_metric_that_needs_every_class_is_not_chosen_where_a_fold_lacks_one() -> None:
    y = np.isin(np.arange(60), [0, 1, 2, 3, 4, 5, 6, 45, 55])
    assert inferred(y=y).task.metric == "one_minus_auroc"
    result = inferred(y=y, times=np.arange(60), options=Options(holdout=False))
    assert result.task.metric == "one_minus_macro_f1"


def test_many_samples_and_a_declared_validation_split_have_no_folds() -> None:
    assert (
        inferred(
            20_100, x=np.arange(20_100.0)[:, None], options=Options(holdout=False)
        ).folds
        is None
    )
    declared = np.array(["train", "validation", "test"] * 20)
    y = np.arange(60) // 3 % 2
    assert found(inferred(y=y, splits=declared), "folds") == "one split"
    drawn, rows = folds(
        inferred(y=y, splits=np.where(declared == "test", "test", "train"))
    )
    assert set(rows) == set(np.flatnonzero(declared != "test"))
    assert len(drawn[0]) == 40


def test_the_outer_test_is_held_out_by_default_where_data_allow() -> None:
    declared = np.array(["train", "test"] * 30)
    for given, options, expected in (
        ({"num_samples": 199}, None, 0),
        ({"num_samples": 200}, None, 30),
        ({"num_samples": 200}, Options(holdout=False), 0),
        ({}, Options(holdout=True), 9),
        ({"times": np.arange(60)}, None, 9),
        ({"times": np.arange(60)}, Options(holdout=False), 0),
        ({"groups": np.arange(60) % 20}, Options(holdout=False), 0),
        ({"splits": declared}, None, 30),
        ({"splits": declared}, Options(holdout=False), 0),
        ({"splits": np.where(declared == "test", "validation", "train")}, None, 0),
    ):
        result = inferred(options=options, **given)
        assert result.task.num_samples is not None
        assert result.task.num_samples[2] == expected
        assert ("test" in result.splits) == (expected > 0)
        assert sum(result.task.num_samples) == given.get("num_samples", 60)
        assert found(result, "holdout").startswith(
            f"{expected} samples" if expected else "none"
        )
