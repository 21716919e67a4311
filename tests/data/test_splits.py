import warnings
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca_ray.data import splits
from orca_ray.errors import UserError


def test_the_streams_are_the_same_everywhere() -> None:
    first, second = splits.split(10, [4, 3], seed=0)
    assert (first.tolist(), second.tolist()) == ([2, 8, 4, 9], [1, 6, 7])
    (drawn,) = splits.stratified_split(np.array([0, 1] * 5), [4], seed=0)
    assert drawn.tolist() == [1, 8, 2, 9]


@given(st.integers(2, 5), st.integers(4, 30), st.integers(0, 2**31), st.data())
def test_stratified_sets_are_disjoint_and_share_the_classes_out(
    num_classes: int, per_class: int, seed: int, data: st.DataObject
) -> None:
    labels = np.repeat(np.arange(num_classes), per_class)
    total = len(labels)
    first = data.draw(st.integers(num_classes, total - num_classes))
    second = data.draw(st.integers(num_classes, total - first))
    parts = splits.stratified_split(labels, [first, second], seed)
    assert [len(part) for part in parts] == [first, second]
    assert len(np.unique(np.concatenate(parts))) == first + second
    for part in parts:
        counts = np.bincount(labels[part], minlength=num_classes)
        assert counts.max() - counts.min() <= 1


def test_uneven_classes_keep_their_shares() -> None:
    labels = np.array([0] * 300 + [1] * 100)
    (part,) = splits.stratified_split(labels, [80], seed=3)
    assert abs(np.count_nonzero(labels[part] == 1) - 20) <= 1
    assert len(np.unique(labels[part][:20])) == 2  # not sorted by class


def test_a_share_has_every_class() -> None:
    labels = np.array([7] * 20 + [3] * 12 + [5] * 2)
    drawn = splits.stratified_share(labels, 0.1, seed=0)
    assert np.unique(labels[drawn], return_counts=True)[1].tolist() == [1, 1, 2]
    assert drawn.tolist() == [11, 17, 20, 33]  # the same everywhere
    assert splits.stratified_share(labels, 1.0, seed=0).tolist() == list(range(34))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=80), st.integers(0, 2**32 - 1), st.data())
def test_a_smaller_share_is_part_of_a_larger_one(labels: list[int], seed: int, data: st.DataObject) -> None:
    fractions = st.floats(0.0, 1.0, exclude_min=True)
    small, large = sorted([data.draw(fractions), data.draw(fractions)])
    shares = [splits.stratified_share(np.array(labels), fraction, seed) for fraction in (small, large)]
    assert set(shares[0].tolist()) <= set(shares[1].tolist())
    for fraction, share in zip((small, large), shares, strict=True):
        counts = {label: labels.count(label) for label in labels}
        expected = {label: max(1, round(fraction * count)) for label, count in counts.items()}
        assert {label: np.count_nonzero(np.array(labels)[share] == label) for label in counts} == expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda y: splits.stratified_split(y, [9], seed=0), "a split of 9 samples cannot hold 10 classes"),
        (lambda y: splits.stratified_split(np.repeat(y, 2), [10, 11], seed=0), "need 21, only 20 are there"),
        (lambda y: splits.split(4, [2, 3], seed=0), "need 5, only 4 are there"),
        (lambda y: splits.split(16, [-34, 50], seed=0), r"splits of \[-34, 50\] samples need 50, only 16 are there"),
    ],
)
def test_too_small_or_too_large_splits_are_refused(make: Callable[[np.ndarray], object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(np.arange(10))


def test_statistics_do_not_depend_on_the_order_of_summation_nor_on_padding() -> None:
    x = np.random.RandomState(0).standard_normal((1000, 3)) * [1e-3, 1.0, 1e4]
    reference = splits.statistics(x, (0,))
    for seed in range(20):
        shuffled = x[np.random.RandomState(seed).permutation(1000)]
        for value, expected in zip(splits.statistics(shuffled, (0,)), reference, strict=True):
            np.testing.assert_array_equal(value, expected)
    np.testing.assert_allclose(reference[1][0], x.std(axis=0), rtol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mean, std = splits.statistics(np.array([[1.0, 3.0, np.nan], [1.0, np.nan, np.nan]]))
    assert (mean[0, 0], std[0, 0]) == (pytest.approx(5 / 3, rel=1e-5), pytest.approx(np.std([1, 3, 1]), rel=1e-5))


def test_a_mean_of_rounding_noise_becomes_zero_and_a_constant_is_not_blown_up() -> None:
    mean, std = splits.statistics(np.array([0.1, 0.2, -0.3]))
    assert mean[0] == 0
    assert std[0] == pytest.approx(0.21602469, rel=1e-5)
    mean, std = splits.statistics(np.full((7, 1), 0.1), (0,))
    assert std[0, 0] == 1
    assert abs(splits.standardise(np.full((7, 1), 0.1), mean, std)).max() < 1e-4
