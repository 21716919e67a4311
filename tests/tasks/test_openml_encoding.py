"""From the columns of a table to inputs, classes and splits."""

import logging
import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orca_ray.errors import UserError
from orca_ray.tasks.openml._table import Column, Nominal, Numeric
from orca_ray.tasks.openml.tables import LEAST_ROWS, classes, encode, frequent, split, standardise_again


def _numeric(*values: float, name: str = "n") -> Numeric:
    return Numeric(name, np.array(values, dtype=np.float64))


def _nominal(*values: str | None, declared: tuple[str, ...] | None = None) -> Nominal:
    return Nominal("c", declared or tuple(sorted({value for value in values if value})), values)


def _all(count: int) -> npt.NDArray[np.int64]:
    return np.arange(count)


class TestEncode:
    def test_categories_come_first_in_slots_sorted_as_text(self) -> None:
        columns: list[Column] = [
            _numeric(1, 3, 1, 3),
            _nominal("10", "9", None, "a", declared=("a", "9", "unused", "10")),
            _nominal("x", "x", "y", "y"),
        ]
        x_NLW = encode("t", columns, _all(4))
        assert x_NLW.dtype == np.float32
        # Slots of the first: "10" < "9" < "NaN" < "a"; what is declared and does not occur has none.
        np.testing.assert_array_equal(x_NLW[:, 0], [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
        np.testing.assert_array_equal(x_NLW[:, 1], [[1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0]])
        np.testing.assert_array_equal(x_NLW[:, 2], [[-1, 0, 0, 0], [1, 0, 0, 0], [-1, 0, 0, 0], [1, 0, 0, 0]])

    def test_missing_numbers_are_zero_before_they_are_standardised(self) -> None:
        x_NLW = encode("t", [_nominal("a", "b", "a"), _numeric(math.nan, 3, 6)], _all(3))
        np.testing.assert_allclose(x_NLW[:, 1, 0], np.array([-3, 0, 3]) / math.sqrt(6), rtol=1e-6)

    def test_without_categories_columns_with_a_missing_value_go(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO):
            x_NLW = encode("t", [_numeric(math.nan, 1, 2, name="gone"), _numeric(0, 1, 2)], _all(3))
        assert x_NLW.shape == (3, 1, 1)
        assert "t: columns with missing values are left out: gone" in caplog.text

    def test_only_the_rows_asked_for_standardise(self) -> None:
        x_NLW = encode("t", [_numeric(0, 2, 1000)], np.array([0, 1]))
        np.testing.assert_array_equal(x_NLW[:, 0, 0], [-1, 1, 999])

    def test_constant_columns_are_centred_and_large_numbers_keep_their_differences(self) -> None:
        x_NLW = encode("t", [_numeric(0.1, 0.1, 0.1, 0.3)], _all(3))
        assert x_NLW.ravel().tolist() == [0, 0, 0, np.float32(0.3 - 0.1)]
        x_NLW = encode("t", [_numeric(*(1e9 + i for i in range(4)))], _all(4))
        np.testing.assert_allclose(x_NLW.ravel().astype(np.float64), (np.arange(4) - 1.5) / np.sqrt(1.25), rtol=1e-6)

    def test_no_column_left_is_refused(self) -> None:
        with pytest.raises(UserError, match="t: the table has no column left to predict from"):
            encode("t", [_numeric(math.nan, 1)], _all(2))
        with pytest.raises(UserError, match="no column left"):
            encode("t", [], _all(2))


def test_standardising_again_is_by_the_unbiased_deviation_and_a_little_more() -> None:
    x_NLW = np.array([1, 2, 4, 9], dtype=np.float32).reshape(4, 1, 1)
    expected = (x_NLW - 7 / 3) / (np.std([1, 2, 4], ddof=1) + 1e-5)
    np.testing.assert_allclose(standardise_again(x_NLW, np.arange(3)), expected, rtol=1e-6)
    x_NLW = np.array([1, 1, 3], dtype=np.float32).reshape(3, 1, 1)
    assert standardise_again(x_NLW, np.array([0, 1])).ravel().tolist() == [0, 0, 2]


def test_classes_are_in_the_order_of_the_header_or_whole_numbers() -> None:
    labels, named = classes("t", _nominal("z", None, "a", "z", declared=("z", "never", "a")))
    assert (labels.tolist(), named) == ([0, -1, 1, 0], ["z", "a"])
    labels, named = classes("t", _numeric(2, 1, math.nan, 2))
    assert (labels.tolist(), named) == ([1, 0, -1, 1], ["1", "2"])
    with pytest.raises(UserError, match="t: the target 'n' holds numbers that are not whole"):
        classes("t", _numeric(1, 1.5))


def test_rare_classes_are_left_out_and_told(caplog: pytest.LogCaptureFixture) -> None:
    assert frequent("t", np.array([0, 0, 0, 1, 1, 1]), ["a", "b"]).all()
    assert not caplog.records
    kept = frequent("t", np.array([0, 0, 0, 1, 1, 2, 2, 2, -1]), ["a", "b", "c"])
    assert kept.tolist() == [True] * 3 + [False] * 2 + [True] * 3 + [False]
    assert "t: classes with fewer than 3 rows cannot be in every split, and are left out: b (2)" in caplog.text
    with pytest.raises(UserError, match="t: expected two classes or more of 3 rows each, found a: 3, b: 2"):
        frequent("t", np.array([0, 0, 0, 1, 1]), ["a", "b"])
    with pytest.raises(UserError, match="found none"):
        frequent("t", np.array([-1]), [])


@settings(max_examples=40)
@given(counts=st.lists(st.integers(LEAST_ROWS, 60), min_size=2, max_size=30), seed=st.integers(0, 99))
def test_every_class_is_in_every_split_about_in_proportion(counts: list[int], seed: int) -> None:
    labels = np.random.RandomState(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    train, validation, test = split(labels, seed)
    assert sorted(np.concatenate([train, validation, test]).tolist()) == list(range(len(labels)))
    for part, whole in ((test, len(labels)), (validation, len(labels) - len(test))):
        size = max(-(-whole // 10), len(counts))
        found = np.bincount(labels[part], minlength=len(counts))
        assert found.min() >= 1
        assert len(part) >= size
        if min(counts) >= 20:
            assert len(part) == size
        assert (found <= np.maximum(np.ceil(np.array(counts) * size / whole), 1)).all()
    assert np.bincount(labels[train], minlength=len(counts)).min() >= 1


def test_one_seed_gives_one_split_and_another_seed_another() -> None:
    first, again, other = (split(np.repeat([0, 1, 2], 40), seed) for seed in (0, 0, 1))
    assert [len(part) for part in first] == [97, 11, 12]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[2], other[2])
    assert [len(part) for part in split(np.repeat(np.arange(100), 16), 0)] == [1296, 144, 160]


def test_more_categories_than_the_memory_holds_are_refused() -> None:
    """40,000 rows of as many categories, beside 200 columns, would take two terabytes."""
    values = tuple(f"c{i}" for i in range(40_000))
    columns: list[Column] = [Nominal("many", values, values), *[Numeric("n", np.zeros(40_000))] * 200]
    expected = r"openml/1: column 'many' has 40,000 categories.*GiB of memory; leave the column out"
    with pytest.raises(UserError, match=expected):
        encode("openml/1", columns, np.arange(10))
    labels, occurring = classes("openml/1", columns[0])
    assert len(occurring) == len(set(labels.tolist())) == 40_000
