from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca_ray.data import prepared, splits
from orca_ray.data.prepared import Split, under_protocol, with_train_fraction
from orca_ray.data.rows import Rows, Target, TargetKind
from orca_ray.errors import UserError
from orca_ray.tasks.registry import get_task
from orca_ray.testing.trials import make_data, make_task


def test_the_streams_are_the_same_everywhere() -> None:
    first, second = splits.split(10, [4, 3], seed=0)
    assert first.tolist() == [2, 8, 4, 9]
    assert second.tolist() == [1, 6, 7]
    (stratified,) = splits.stratified_split(np.array([0, 1] * 5), [4], seed=0)
    assert stratified.tolist() == [1, 8, 2, 9]
    labels = np.array([7] * 20 + [3] * 12 + [5] * 2)
    share = splits.stratified_share(labels, 0.1, seed=0)
    assert share.tolist() == [11, 17, 20, 33]


@given(st.integers(2, 5), st.integers(4, 30), st.integers(0, 2**31), st.data())
def test_stratified_sets_are_disjoint_and_share_the_classes_out(
    num_classes: int, per_class: int, seed: int, data: st.DataObject
) -> None:
    labels = np.repeat(np.arange(num_classes), per_class)
    total = len(labels)
    first = data.draw(st.integers(num_classes, total - num_classes))
    second = data.draw(st.integers(num_classes, total - first))
    sets = splits.stratified_split(labels, [first, second], seed)
    assert [len(rows) for rows in sets] == [first, second]
    assert len(np.unique(np.concatenate(sets))) == first + second
    for rows in sets:
        counts = np.bincount(labels[rows], minlength=num_classes)
        assert counts.max() - counts.min() <= 1


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=80),
    st.integers(0, 2**32 - 1),
    st.data(),
)
def test_a_smaller_share_is_part_of_a_larger_one(
    labels: list[int], seed: int, data: st.DataObject
) -> None:
    fractions = st.floats(0.0, 1.0, exclude_min=True)
    small, large = sorted([data.draw(fractions), data.draw(fractions)])
    small_share = splits.stratified_share(np.array(labels), small, seed)
    large_share = splits.stratified_share(np.array(labels), large, seed)
    assert set(small_share.tolist()) <= set(large_share.tolist())
    for fraction, share in ((small, small_share), (large, large_share)):
        drawn = [labels[row] for row in share]
        for label in set(labels):
            expected = max(1, round(fraction * labels.count(label)))
            assert drawn.count(label) == expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda y: splits.stratified_split(y, [9], seed=0),
            "a split of 9 samples cannot hold 10 classes",
        ),
        (
            lambda y: splits.stratified_split(np.repeat(y, 2), [10, 11], seed=0),
            "need 21, only 20 are there",
        ),
        (lambda y: splits.split(4, [2, 3], seed=0), "need 5, only 4 are there"),
        (
            lambda y: splits.split(16, [-34, 50], seed=0),
            r"splits of \[-34, 50\] samples need 50, only 16 are there",
        ),
    ],
)
def test_too_small_or_too_large_splits_are_refused(
    make: Callable[[np.ndarray], object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        make(np.arange(10))


def test_statistics_do_not_depend_on_the_order_of_summation() -> None:
    x = np.random.RandomState(0).standard_normal((1000, 3)) * [1e-3, 1.0, 1e4]
    mean, std = splits.statistics(x, (0,))
    for seed in range(20):
        shuffled = x[np.random.RandomState(seed).permutation(1000)]
        shuffled_mean, shuffled_std = splits.statistics(shuffled, (0,))
        np.testing.assert_array_equal(shuffled_mean, mean)
        np.testing.assert_array_equal(shuffled_std, std)
    np.testing.assert_allclose(std, x.std(axis=0, keepdims=True), rtol=1e-5)


@pytest.mark.filterwarnings("error")
def test_statistics_ignore_padding() -> None:
    padded = np.array([[1.0, 3.0, np.nan], [1.0, np.nan, np.nan]])
    mean, std = splits.statistics(padded)
    assert mean[0, 0] == pytest.approx(5 / 3, rel=1e-5)
    assert std[0, 0] == pytest.approx(np.std([1, 3, 1]), rel=1e-5)


def test_a_mean_of_rounding_noise_becomes_zero() -> None:
    mean, std = splits.statistics(np.array([0.1, 0.2, -0.3]))
    assert mean.tolist() == [0]
    assert std.tolist() == pytest.approx([0.21602469], rel=1e-5)


def test_a_constant_is_not_blown_up() -> None:
    constant = np.full((7, 1), 0.1)
    mean, std = splits.statistics(constant, (0,))
    assert std[0, 0] == 1
    assert abs(splits.standardise(constant, mean, std)).max() < 1e-4


def test_paper_trains_on_all_but_test_and_selects_on_test(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = get_task("pocket/burgers16").prepare()
    assert under_protocol(data, "held-out") is data
    paper = under_protocol(data, "paper")
    end = len(data.train)
    assert len(paper.train.y) == end + len(data.validation.y)
    np.testing.assert_array_equal(paper.train.x[end:], data.validation.x)
    np.testing.assert_array_equal(paper.validation.y, data.test.y)
    assert paper.fingerprint == data.fingerprint
    monkeypatch.setattr(prepared, "COPIED_BYTES", 0)
    large = under_protocol(data, "paper").train
    around_end = slice(end - 2, end + 2)
    indices = (slice(None), around_end, np.array([end, 0, end - 1]))
    _check_lazy_rows(large.x, paper.train.x, indices)
    _check_lazy_rows(large.y, paper.train.y, indices)


def _check_lazy_rows(lazy: Rows, copied: Rows, indices: Sequence[Any]) -> None:
    """Check rows that are joined or selected when they are read."""
    assert not isinstance(lazy, np.ndarray)
    assert len(lazy) == len(copied)
    assert lazy.shape == copied.shape
    assert lazy.dtype == copied.dtype
    for index in indices:
        np.testing.assert_array_equal(lazy[index], copied[index])
    np.testing.assert_array_equal(np.asarray(lazy), copied[:])
    assert np.asarray(lazy, dtype=np.float64).dtype == np.float64
    with pytest.raises(ValueError, match="without a copy"):
        np.asarray(lazy, copy=False)


def test_a_share_of_the_training_samples_is_stratified() -> None:
    # The classes have 17, 17 and 16 samples.
    data = make_data(make_task(Target("classes", size=3)))
    fifth = with_train_fraction(data, 0.2, 0, classes=True).train
    assert np.bincount(fifth.y).tolist() == [3, 3, 3]
    rows = []
    for x in fifth.x[:]:
        (row,) = np.flatnonzero((data.train.x == x).all(axis=(1, 2)))
        rows.append(int(row))
    assert rows == sorted(set(rows))
    np.testing.assert_array_equal(fifth.y, data.train.y[rows])


def test_a_share_of_the_training_samples_leaves_other_splits() -> None:
    data = make_data(make_task(Target("classes", size=3)))
    reduced = with_train_fraction(data, 0.2, 0, classes=True)
    assert reduced.validation == data.validation
    assert reduced.test == data.test
    assert reduced.fingerprint == data.fingerprint


def test_a_share_of_samples_without_classes() -> None:
    data = make_data(make_task(Target("scalar")))
    reduced = with_train_fraction(data, 0.2, 0, classes=False)
    assert len(reduced.train) == 10


def test_rows_of_one_sample_are_drawn_together() -> None:
    data = make_data(make_task(Target("labels", size=3)))
    group = np.arange(50) // 5 * 3  # ten samples of five rows
    train = Split(data.train.x, data.train.y, group)
    grouped = replace(data, splits={**data.splits, "train": train})
    drawn = with_train_fraction(grouped, 0.3, 1, classes=False).train
    assert drawn.group is not None
    _, counts = np.unique(drawn.group, return_counts=True)
    assert counts.tolist() == [5, 5, 5]
    is_drawn = np.isin(group, drawn.group)
    np.testing.assert_array_equal(drawn.y, data.train.y[is_drawn])


def test_a_share_of_large_arrays_is_read_like_a_copied_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = make_data(make_task(Target("dense", shape=(2, 16))))
    copied = with_train_fraction(data, 0.3, 0, classes=False).train
    monkeypatch.setattr(prepared, "COPIED_BYTES", 0)
    large = with_train_fraction(data, 0.3, 0, classes=False).train
    assert len(large) == 15
    indices = (slice(2, 5), np.array([7, 0, 14]))
    _check_lazy_rows(large.x, copied.x, indices)
    _check_lazy_rows(large.y, copied.y, indices)


@pytest.mark.parametrize(
    ("kind", "size"), [("dense", 1), ("classes", -1), ("labels", 0)]
)
def test_impossible_targets_are_refused(kind: TargetKind, size: int) -> None:
    with pytest.raises(ValueError, match="target"):
        Target(kind, size=size)
