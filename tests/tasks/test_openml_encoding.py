"""From the columns of a table to inputs, classes and splits."""

import logging
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca_ray.errors import UserError
from orca_ray.tasks.openml._encoding import classes, encode, standardise_again
from orca_ray.tasks.openml._table import Column, Nominal, Numeric
from orca_ray.tasks.openml.tables import LEAST_ROWS, frequent, split


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

    def test_a_constant_column_is_centred(self) -> None:
        np.testing.assert_array_equal(encode("t", [_numeric(0.1, 0.1, 0.1, 0.3)], _all(3)).ravel()[:3], 0)
        assert encode("t", [_numeric(0.1, 0.1, 0.1, 0.3)], _all(3))[3, 0, 0] == np.float32(0.3 - 0.1)

    def test_large_numbers_keep_their_differences(self) -> None:
        x_NLW = encode("t", [_numeric(*(1e9 + i for i in range(4)))], _all(4))
        np.testing.assert_allclose(x_NLW.ravel().astype(np.float64), (np.arange(4) - 1.5) / np.sqrt(1.25), rtol=1e-6)

    def test_agrees_with_the_usual_libraries(self) -> None:
        from sklearn.preprocessing import OneHotEncoder, StandardScaler

        rng = np.random.RandomState(0)
        numbers = rng.standard_normal((50, 3)) * [1, 1e-3, 1e6] + [0, 5, -1e7]
        letters = rng.choice(["b", "a", "Z", "10"], size=50)
        columns: list[Column] = [Numeric(f"n{i}", numbers[:, i]) for i in range(3)]
        x_NLW = encode("t", [*columns, _nominal(*map(str, letters))], _all(50))
        np.testing.assert_allclose(x_NLW[:, 1:, 0], StandardScaler().fit_transform(numbers), rtol=2e-5, atol=1e-6)
        np.testing.assert_array_equal(x_NLW[:, 0], OneHotEncoder().fit_transform(letters[:, None]).toarray())

    def test_no_column_left_is_refused(self) -> None:
        with pytest.raises(UserError, match="t: the table has no column left to predict from"):
            encode("t", [_numeric(math.nan, 1)], _all(2))
        with pytest.raises(UserError, match="no column left"):
            encode("t", [], _all(2))


class TestStandardiseAgain:
    def test_by_the_unbiased_deviation_and_a_little_more(self) -> None:
        x_NLW = np.array([1, 2, 4, 9], dtype=np.float32).reshape(4, 1, 1)
        fit = np.array([0, 1, 2])
        expected = (x_NLW - 7 / 3) / (np.std([1, 2, 4], ddof=1) + 1e-5)
        np.testing.assert_allclose(standardise_again(x_NLW, fit), expected, rtol=1e-6)

    def test_what_is_constant_does_not_explode(self) -> None:
        x_NLW = np.array([1, 1, 3], dtype=np.float32).reshape(3, 1, 1)
        np.testing.assert_array_equal(standardise_again(x_NLW, np.array([0, 1])).ravel(), [0, 0, 2])


class TestClasses:
    def test_in_the_order_of_the_header_without_those_that_do_not_occur(self) -> None:
        labels, named = classes("t", _nominal("z", None, "a", "z", declared=("z", "never", "a")))
        assert named == ["z", "a"]
        assert labels.tolist() == [0, -1, 1, 0]

    def test_whole_numbers_are_classes_from_zero(self) -> None:
        labels, named = classes("t", _numeric(2, 1, math.nan, 2))
        assert named == ["1", "2"]
        assert labels.tolist() == [1, 0, -1, 1]

    def test_other_numbers_are_refused(self) -> None:
        with pytest.raises(UserError, match="t: the target 'n' holds numbers that are not whole"):
            classes("t", _numeric(1, 1.5))


class TestFrequent:
    def test_rare_classes_are_left_out_and_told(self, caplog: pytest.LogCaptureFixture) -> None:
        kept = frequent("t", np.array([0, 0, 0, 1, 1, 2, 2, 2, -1]), ["a", "b", "c"])
        assert kept.tolist() == [True] * 3 + [False] * 2 + [True] * 3 + [False]
        assert "t: classes with fewer than 3 rows cannot be in every split, and are left out: b (2)" in caplog.text

    def test_nothing_is_told_where_there_is_nothing_to_tell(self, caplog: pytest.LogCaptureFixture) -> None:
        assert frequent("t", np.array([0, 0, 0, 1, 1, 1]), ["a", "b"]).all()
        assert not caplog.records

    def test_one_class_is_no_task(self) -> None:
        with pytest.raises(UserError, match="t: expected two classes or more of 3 rows each, found a: 3, b: 2"):
            frequent("t", np.array([0, 0, 0, 1, 1]), ["a", "b"])
        with pytest.raises(UserError, match="found none"):
            frequent("t", np.array([-1]), [])


class TestSplit:
    @given(counts=st.lists(st.integers(LEAST_ROWS, 60), min_size=2, max_size=30), seed=st.integers(0, 99))
    def test_every_class_is_in_every_split_about_in_proportion(self, counts: list[int], seed: int) -> None:
        labels = np.random.RandomState(seed).permutation(np.repeat(np.arange(len(counts)), counts))
        parts = split(labels, seed)
        assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
        num = len(labels)
        test = max(-(-num // 10), len(counts))
        for part, size, whole in zip(
            parts[:0:-1],
            (test, max(-(-(num - len(parts[2])) // 10), len(counts))),
            (num, num - len(parts[2])),
            strict=True,
        ):
            found = np.bincount(labels[part], minlength=len(counts))
            assert found.min() >= 1
            assert len(part) >= size
            if min(counts) >= 20:
                assert len(part) == size
            tenth = np.array(counts) * size / whole
            assert (found <= np.maximum(np.ceil(tenth), 1)).all()
        assert np.bincount(labels[parts[0]], minlength=len(counts)).min() >= 1

    def test_one_seed_gives_one_split_and_another_seed_another(self) -> None:
        labels = np.repeat([0, 1, 2], 40)
        again: list[Any] = [split(labels, seed) for seed in (0, 0, 1)]
        assert [len(part) for part in again[0]] == [97, 11, 12]
        assert all(np.array_equal(a, b) for a, b in zip(again[0], again[1], strict=True))
        assert not np.array_equal(again[0][2], again[2][2])

    def test_a_hundred_classes_of_sixteen(self) -> None:
        train, validation, test = split(np.repeat(np.arange(100), 16), 0)
        assert [len(train), len(validation), len(test)] == [1296, 144, 160]
