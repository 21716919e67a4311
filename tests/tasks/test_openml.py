"""The 42 OpenML tasks: from the columns of small tables to inputs, classes and splits.

Tables of real and of drawn rows are compared with digests of the arrays that the
reference's own loader makes.
"""

import logging
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orca_ray.data import prepared
from orca_ray.data.raw import Workspace
from orca_ray.errors import UserError
from orca_ray.models.modality import EmbedderConfig, get_modality
from orca_ray.tasks.openml import tables
from orca_ray.tasks.openml.tables import (
    LEAST_ROWS,
    TASKS,
    build,
    classes,
    encode,
    frequent,
    standardise_again,
)
from orca_ray.tasks.task import SPLIT_SEED, Arrays
from tests.raw_files.openml import (
    WRITERS,
    Kind,
    SmallTable,
    real_mfeat_factors,
    real_wdbc,
    synthetic,
    write_table,
)
from tests.tasks.conftest import digest

BY_ID = {int(task.short_name): task for task in TASKS}
SAMPLE = {
    # Standardised twice.
    12: ((1, 216), 10, (97, 11, 12)),
    # Numbers and categories, and missing values.
    29: ((11, 15), 2, (18, 3, 3)),
    # Three of four columns are kept.
    1464: ((1, 3), 2, (18, 3, 3)),
    # Categories are ignored, and columns with missing values are left out.
    40966: ((1, 56), 3, (28, 4, 4)),
    # Categories alone.
    40975: ((4, 6), 4, (38, 5, 5)),
}
"""Shape of the inputs, number of classes and sizes of the splits of tables of every
kind.
"""


def _build(raw: Path, dataset_id: int, protocol: str = "held-out") -> Arrays:
    return build(
        dataset_id, Workspace(f"openml/{dataset_id}", raw, raw, protocol=protocol)
    )


def _y(arrays: Arrays, split: str) -> np.ndarray:
    return np.asarray(arrays[f"{split}_y"][:])


def _x(arrays: Arrays, *splits: str) -> np.ndarray:
    return np.concatenate([np.asarray(arrays[f"{split}_x"][:]) for split in splits])


def test_the_42_tables_of_the_paper() -> None:
    assert len(TASKS) == 42
    assert BY_ID[1510].title == "wdbc (OpenML 1510)"
    assert BY_ID[1510].modality == "sequence"
    assert BY_ID[1510].under("paper").metric == "one_minus_auroc"
    assert BY_ID[12].metric == BY_ID[12].under("paper").metric == "error"


@pytest.mark.parametrize("dataset_id", SAMPLE)
def test_tables_of_every_kind_are_prepared_and_split_alike_under_paper(
    dataset_id: int, tmp_path: Path
) -> None:
    task = BY_ID[dataset_id]
    raw = tmp_path / "raw"
    WRITERS[task.name](raw)
    data = task.prepare(raw=raw, out=tmp_path / "out")
    resolved = task.resolved(data)
    input_shape, num_classes, num_samples = SAMPLE[dataset_id]
    assert resolved.input_shape == input_shape
    assert resolved.target.size == num_classes
    assert resolved.num_samples == num_samples
    held_out = _build(raw, dataset_id)
    paper = _build(raw, dataset_id, "paper")
    has_equal_inputs = True
    for split in prepared.SPLITS:
        assert set(np.unique(data.splits[split].y)) == set(range(num_classes))
        np.testing.assert_array_equal(_y(held_out, split), _y(paper, split))
        if not np.array_equal(_x(held_out, split), _x(paper, split)):
            has_equal_inputs = False
    assert task.paper_splits != has_equal_inputs


def test_a_table_of_numbers_is_a_sequence_of_its_columns_and_under_paper_one_token(
    tmp_path: Path,
) -> None:
    raw = np.array([[i, i * i, 7 - 2 * i] for i in range(40)], dtype=np.float64)
    rows = [[*row, "xy"[i % 2]] for i, row in enumerate(raw.tolist())]
    names: list[tuple[str, Kind]] = [
        ("a", "REAL"),
        ("b", "REAL"),
        ("c", "REAL"),
        ("class", ("x", "y")),
    ]
    write_table(tmp_path, 61, SmallTable("t", names, rows, "class"))
    held_out = _build(tmp_path, 61)
    paper = _build(tmp_path, 61, "paper")
    splits = tables.split(np.arange(40) % 2, SPLIT_SEED)
    train, _, _ = splits
    by_train = (raw - raw[train].mean(axis=0)) / raw[train].std(axis=0)
    by_all = (raw - raw.mean(axis=0)) / raw.std(axis=0)
    for name, chosen in zip(prepared.SPLITS, splits, strict=True):
        np.testing.assert_allclose(
            _x(held_out, name), by_train[chosen, None, :], rtol=1e-5, atol=1e-6
        )
        np.testing.assert_allclose(
            _x(paper, name), by_all[chosen][:, :, None], rtol=1e-5, atol=1e-6
        )
    assert _num_published_tokens(held_out) == 3
    assert _num_published_tokens(paper) == 1


def _num_published_tokens(arrays: Arrays) -> int:
    """Return the number of tokens of a sample in the published configuration."""
    config = EmbedderConfig(sequence_length=512, patching="divide")
    _, *shape = _x(arrays, "train").shape
    return int(get_modality("sequence").num_tokens(tuple(shape), config))


def test_1464_with_too_few_columns_is_refused(tmp_path: Path) -> None:
    columns: list[tuple[str, Kind]] = [("a", "REAL"), ("class", ("x", "y"))]
    rows = [[i, "xy"[i % 2]] for i in range(40)]
    write_table(tmp_path, 1464, SmallTable("t", columns, rows, "class"))
    message = "openml/1464: expected at least 4 columns, found 1"
    with pytest.raises(UserError, match=message):
        _build(tmp_path, 1464)


def test_rows_without_a_class_and_rare_classes_are_left_out(tmp_path: Path) -> None:
    labels = ["x"] * 10 + ["y"] * 2 + [None] * 3 + ["z"] * 10
    rows = [[i, label] for i, label in enumerate(labels)]
    columns: list[tuple[str, Kind]] = [("a", "REAL"), ("class", ("x", "y", "z"))]
    write_table(tmp_path, 11, SmallTable("t", columns, rows, "class"))
    arrays = _build(tmp_path, 11, "paper")
    y = np.concatenate([_y(arrays, split) for split in prepared.SPLITS])
    assert np.bincount(y).tolist() == [10, 10]  # numbered without a gap
    values = np.array([i for i, label in enumerate(labels) if label in ("x", "z")])
    # Rows that are left out do not change the scale.
    expected = (values - values.mean()) / values.std()
    x = np.sort(_x(arrays, *prepared.SPLITS).ravel())
    np.testing.assert_allclose(x, expected, rtol=1e-5)


Digests = tuple[float, float]
"""`digest` of the inputs and of the targets of a split."""


@dataclass(frozen=True)
class Recorded:
    """What the reference's loader makes of a table under the protocol ``paper``."""

    dataset_id: int
    make_table: Callable[[], SmallTable]
    shape: tuple[int, int, int]
    """Number of all rows, and the shape of an input."""
    train: Digests
    validation: Digests
    test: Digests


RECORDED = [
    Recorded(
        12,
        real_mfeat_factors,
        (2000, 1, 216),
        train=(0.000264242, 4.53787),
        validation=(-0.00835601, 4.4231),
        test=(0.0068199, 4.53864),
    ),
    Recorded(
        1510,
        real_wdbc,
        (569, 1, 30),
        train=(-0.00629512, 0.402023),
        validation=(0.0860249, 0.33106),
        test=(-0.0581354, 0.427271),
    ),
    Recorded(
        29,
        partial(synthetic, 29),
        (24, 11, 15),
        train=(0.0545808, 0.424651),
        validation=(0.0523103, 0.861284),
        test=(0.0648745, 0.194618),
    ),
    Recorded(
        188,
        partial(synthetic, 188),
        (60, 24, 19),
        train=(0.0100117, 1.86182),
        validation=(0.0106709, 0.964518),
        test=(0.0122518, 1.24101),
    ),
    Recorded(
        1464,
        partial(synthetic, 1464),
        (24, 1, 3),
        train=(-0.0624141, 0.428733),
        validation=(-0.0463992, 1.1801),
        test=(-0.0632233, 0.666667),
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "recorded", RECORDED, ids=lambda recorded: str(recorded.dataset_id)
)
def test_arrays_are_those_of_the_reference_and_hold_every_row(
    recorded: Recorded, tmp_path: Path
) -> None:
    table = recorded.make_table()
    write_table(tmp_path, recorded.dataset_id, table)
    arrays = _build(tmp_path, recorded.dataset_id, "paper")
    num_rows, *input_shape = recorded.shape
    x_shapes = [_x(arrays, split).shape for split in prepared.SPLITS]
    sizes, heights, widths = zip(*x_shapes, strict=True)
    assert sum(sizes) == num_rows
    # `paper` has columns of numbers as tokens of their own.
    assert sorted((max(heights), max(widths))) == sorted(input_shape)
    classes_of_rows = Counter(row[-1] for row in table.rows)
    declared = dict(table.columns)[table.target]
    y = np.concatenate([_y(arrays, split) for split in prepared.SPLITS])
    assert np.bincount(y).tolist() == [classes_of_rows[name] for name in declared]
    for split in prepared.SPLITS:
        digests = (digest(_x(arrays, split)), digest(_y(arrays, split)))
        expected = getattr(recorded, split)
        assert digests == pytest.approx(expected, rel=1e-4, abs=1e-5)


def _numbers(*values: float) -> pd.DataFrame:
    return pd.DataFrame({"n": np.array(values, dtype=np.float64)})


class TestEncode:
    def test_categories_come_first_in_slots_sorted_as_text(self) -> None:
        first = pd.Categorical(["10", "9", None, "a"], ["a", "9", "unused", "10"])
        second = pd.Categorical(["x", "x", "y", "y"])
        table = pd.DataFrame({"n": [1.0, 3, 1, 3], "c": first, "d": second})
        x_NLW = encode("t", table, np.arange(4))
        assert x_NLW.dtype == np.float32
        # Slots of the first: "10" < "9" < "NaN" < "a"; what is declared and does not
        # occur has none.
        np.testing.assert_array_equal(
            x_NLW[:, 0], [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
        )
        np.testing.assert_array_equal(
            x_NLW[:, 1], [[1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0]]
        )
        np.testing.assert_array_equal(
            x_NLW[:, 2], [[-1, 0, 0, 0], [1, 0, 0, 0], [-1, 0, 0, 0], [1, 0, 0, 0]]
        )

    def test_missing_numbers_are_zero_before_they_are_standardised(self) -> None:
        categories = pd.Categorical(["a", "b", "a"])
        table = pd.DataFrame({"c": categories, "n": [math.nan, 3, 6]})
        x_NLW = encode("t", table, np.arange(3))
        expected = np.array([-3, 0, 3]) / math.sqrt(6)
        np.testing.assert_allclose(x_NLW[:, 1, 0], expected, rtol=1e-6)

    def test_without_categories_columns_with_a_missing_value_go(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        table = pd.DataFrame({"gone": [math.nan, 1, 2], "n": [0.0, 1, 2]})
        with caplog.at_level(logging.INFO):
            x_NLW = encode("t", table, np.arange(3))
        assert x_NLW.shape == (3, 1, 1)
        assert "t: columns with missing values are left out: gone" in caplog.text

    def test_constant_columns_are_centred_and_large_numbers_keep_their_differences(
        self,
    ) -> None:
        x_NLW = encode("t", _numbers(0.1, 0.1, 0.1, 0.3), np.arange(3))
        assert x_NLW.ravel().tolist() == [0, 0, 0, np.float32(0.3 - 0.1)]
        x_NLW = encode("t", _numbers(1e9, 1e9 + 1, 1e9 + 2, 1e9 + 3), np.arange(4))
        expected = (np.arange(4) - 1.5) / np.sqrt(1.25)
        x = x_NLW.ravel().astype(np.float64)
        np.testing.assert_allclose(x, expected, rtol=1e-6)

    @pytest.mark.parametrize(
        "table",
        [_numbers(math.nan, 1), pd.DataFrame(index=range(2))],
        ids=["missing values", "no columns"],
    )
    def test_no_column_left_is_refused(self, table: pd.DataFrame) -> None:
        message = "t: the table has no column left to predict from"
        with pytest.raises(UserError, match=message):
            encode("t", table, np.arange(2))


def test_standardising_again_is_by_the_unbiased_deviation_and_a_little_more() -> None:
    x_NLW = np.array([1, 2, 4, 9], dtype=np.float32).reshape(4, 1, 1)
    expected = (x_NLW - 7 / 3) / (np.std([1, 2, 4], ddof=1) + 1e-5)
    np.testing.assert_allclose(
        standardise_again(x_NLW, np.arange(3)), expected, rtol=1e-6
    )
    x_NLW = np.array([1, 1, 3], dtype=np.float32).reshape(3, 1, 1)
    assert standardise_again(x_NLW, np.array([0, 1])).ravel().tolist() == [0, 0, 2]


def test_classes_are_in_the_order_of_the_header_or_whole_numbers() -> None:
    categories = pd.Categorical(["z", None, "a", "z"], ["z", "never", "a"])
    labels, names = classes("t", pd.Series(categories))
    assert labels.tolist() == [0, -1, 1, 0]
    assert names == ["z", "a"]
    labels, names = classes("t", pd.Series([2, 1, math.nan, 2]))
    assert labels.tolist() == [1, 0, -1, 1]
    assert names == ["1", "2"]
    message = "t: the target 'n' holds numbers that are not whole"
    with pytest.raises(UserError, match=message):
        classes("t", pd.Series([1, 1.5], name="n"))


def test_rare_classes_are_left_out_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert frequent("t", np.array([0, 0, 0, 1, 1, 1]), ["a", "b"]).all()
    assert not caplog.records
    labels = np.array([0, 0, 0, 1, 1, 2, 2, 2, -1])
    is_frequent = frequent("t", labels, ["a", "b", "c"])
    assert labels[is_frequent].tolist() == [0, 0, 0, 2, 2, 2]
    assert (
        "t: classes with fewer than 3 rows cannot be in every split, and are left out:"
        " b (2)" in caplog.text
    )
    message = "t: expected two classes or more of 3 rows each, found a: 3, b: 2"
    with pytest.raises(UserError, match=message):
        frequent("t", np.array([0, 0, 0, 1, 1]), ["a", "b"])
    with pytest.raises(UserError, match="found none"):
        frequent("t", np.array([-1]), [])


@settings(max_examples=40)
@given(
    counts=st.lists(st.integers(LEAST_ROWS, 60), min_size=2, max_size=30),
    seed=st.integers(0, 99),
)
def test_every_class_is_in_every_split_about_in_proportion(
    counts: list[int], seed: int
) -> None:
    num_classes = len(counts)
    in_order = np.repeat(np.arange(num_classes), counts)
    labels = np.random.RandomState(seed).permutation(in_order)
    train, validation, test = tables.split(labels, seed)
    rows = np.sort(np.concatenate([train, validation, test]))
    np.testing.assert_array_equal(rows, np.arange(len(labels)))
    assert np.bincount(labels[train], minlength=num_classes).min() >= 1

    def check_share(chosen: np.ndarray, num_rows: int) -> None:
        """Check a split that should be a tenth of ``num_rows`` rows."""
        size = max(-(-num_rows // 10), num_classes)
        chosen_counts = np.bincount(labels[chosen], minlength=num_classes)
        assert chosen_counts.min() >= 1
        assert len(chosen) >= size
        if min(counts) >= 20:
            assert len(chosen) == size
        in_proportion = np.ceil(np.array(counts) * size / num_rows)
        assert (chosen_counts <= np.maximum(in_proportion, 1)).all()

    check_share(test, len(labels))
    check_share(validation, len(labels) - len(test))


def test_more_categories_than_the_memory_holds_are_refused() -> None:
    # With 40,000 rows of as many categories and 200 columns it takes two terabytes.
    table = pd.DataFrame(np.zeros((40_000, 200))).add_prefix("n")
    table["many"] = pd.Categorical([f"c{i}" for i in range(40_000)])
    expected = (
        r"openml/1: column 'many' has 40,000 categories.*GiB of memory are free; leave"
        r" the column out"
    )
    with pytest.raises(UserError, match=expected):
        encode("openml/1", table, np.arange(10))
    with pytest.raises(UserError, match="column 'many' has 40,000 categories"):
        encode("openml/1", table[["many"]], np.arange(10))
    labels, occurring = classes("openml/1", table["many"])
    assert len(occurring) == len(set(labels.tolist())) == 40_000
