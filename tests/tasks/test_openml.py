"""The 42 OpenML tasks: from the columns of small tables to inputs, classes and splits.

Tables of real and of drawn rows are compared with arrays of the reference's own loader,
whose digests are written down.
"""

import logging
import math
from collections.abc import Callable
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
    12: ((1, 216), 10, (97, 11, 12)),  # standardised twice
    29: ((11, 15), 2, (18, 3, 3)),  # numbers and categories, and missing values
    1464: ((1, 3), 2, (18, 3, 3)),  # three of four columns are kept
    40966: (
        (1, 56),
        3,
        (28, 4, 4),
    ),  # categories alone are ignored, and columns with missing values left out
    40975: ((4, 6), 4, (38, 5, 5)),  # categories alone
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
    assert (BY_ID[1510].title, BY_ID[1510].modality) == (
        "wdbc (OpenML 1510)",
        "sequence",
    )
    assert [BY_ID[number].under("paper").metric for number in (12, 1510)] == [
        "error",
        "one_minus_auroc",
    ]


@pytest.mark.parametrize("dataset_id", SAMPLE)
def test_tables_of_every_kind_are_prepared_and_split_alike_under_paper(
    dataset_id: int, tmp_path: Path
) -> None:
    task = BY_ID[dataset_id]
    raw = tmp_path / "raw"
    WRITERS[task.name](raw)
    data = task.prepare(raw=raw, out=tmp_path / "out")
    resolved = task.resolved(data)
    assert (resolved.input_shape, resolved.target.size, resolved.num_samples) == SAMPLE[
        dataset_id
    ]
    ours = _build(raw, dataset_id)
    paper = _build(raw, dataset_id, "paper")
    for split in prepared.SPLITS:
        assert set(np.unique(data.splits[split].y)) == set(range(resolved.target.size))
        np.testing.assert_array_equal(_y(ours, split), _y(paper, split))
    assert task.paper_splits != all(
        np.array_equal(_x(ours, split), _x(paper, split)) for split in prepared.SPLITS
    )


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
    ours = _build(tmp_path, 61)
    paper = _build(tmp_path, 61, "paper")
    parts = tables.split(np.arange(40) % 2, SPLIT_SEED)
    for name, part in zip(prepared.SPLITS, parts, strict=True):
        expected = (raw[part] - raw[parts[0]].mean(axis=0)) / raw[parts[0]].std(axis=0)
        np.testing.assert_allclose(
            _x(ours, name), expected[:, None, :], rtol=1e-5, atol=1e-6
        )
        expected = (raw[part] - raw.mean(axis=0)) / raw.std(axis=0)
        np.testing.assert_allclose(
            _x(paper, name), expected[:, :, None], rtol=1e-5, atol=1e-6
        )
    config = EmbedderConfig(sequence_length=512, patching="divide")  # as published
    shapes = [_x(arrays, "train").shape[1:] for arrays in (ours, paper)]
    assert [get_modality("sequence").num_tokens(shape, config) for shape in shapes] == [
        3,
        1,
    ]


def test_1464_with_too_few_columns_is_refused(tmp_path: Path) -> None:
    table = SmallTable(
        "t",
        [("a", "REAL"), ("class", ("x", "y"))],
        [[i, "xy"[i % 2]] for i in range(40)],
        "class",
    )
    write_table(tmp_path, 1464, table)
    with pytest.raises(
        UserError, match="openml/1464: expected at least 4 columns, found 1"
    ):
        _build(tmp_path, 1464)


def test_rows_without_a_class_and_rare_classes_are_left_out(tmp_path: Path) -> None:
    given = ["x"] * 10 + ["y"] * 2 + [None] * 3 + ["z"] * 10
    rows = [[i, label] for i, label in enumerate(given)]
    write_table(
        tmp_path,
        11,
        SmallTable("t", [("a", "REAL"), ("class", ("x", "y", "z"))], rows, "class"),
    )
    arrays = _build(tmp_path, 11, "paper")
    y = np.concatenate([_y(arrays, split) for split in prepared.SPLITS])
    assert np.bincount(y).tolist() == [10, 10]  # numbered without a gap
    values = np.array([i for i, label in rows if label in ("x", "z")])
    expected = (
        values - values.mean()
    ) / values.std()  # what is left out does not scale
    np.testing.assert_allclose(
        np.sort(_x(arrays, *prepared.SPLITS).ravel()), expected, rtol=1e-5
    )


RECORDED: list[
    tuple[int, Callable[[], SmallTable], tuple[int, ...], tuple[float, ...]]
] = [
    # id, table, shape of all rows; digests of x and y of train, validation and test
    # under the protocol `paper`
    (
        12,
        real_mfeat_factors,
        (2000, 1, 216),
        (0.000264242, 4.53787, -0.00835601, 4.4231, 0.0068199, 4.53864),
    ),
    (
        1510,
        real_wdbc,
        (569, 1, 30),
        (-0.00629512, 0.402023, 0.0860249, 0.33106, -0.0581354, 0.427271),
    ),
    (
        29,
        partial(synthetic, 29),
        (24, 11, 15),
        (0.0545808, 0.424651, 0.0523103, 0.861284, 0.0648745, 0.194618),
    ),
    (
        188,
        partial(synthetic, 188),
        (60, 24, 19),
        (0.0100117, 1.86182, 0.0106709, 0.964518, 0.0122518, 1.24101),
    ),
    (
        1464,
        partial(synthetic, 1464),
        (24, 1, 3),
        (-0.0624141, 0.428733, -0.0463992, 1.1801, -0.0632233, 0.666667),
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "table", "shape", "digests"),
    RECORDED,
    ids=[str(each[0]) for each in RECORDED],
)
def test_arrays_are_those_of_the_reference_and_hold_every_row(
    number: int,
    table: Callable[[], SmallTable],
    shape: tuple[int, ...],
    digests: tuple[float, ...],
    tmp_path: Path,
) -> None:
    given = table()
    write_table(tmp_path, number, given)
    arrays = build(
        number, Workspace(f"openml/{number}", tmp_path, tmp_path, protocol="paper")
    )
    parts = {
        axis: [np.asarray(arrays[f"{split}_{axis}"][:]) for split in prepared.SPLITS]
        for axis in "xy"
    }
    widest = (
        max(part.shape[1] for part in parts["x"]),
        max(part.shape[2] for part in parts["x"]),
    )
    assert sum(map(len, parts["x"])) == shape[0]
    assert sorted(widest) == sorted(
        shape[1:]
    )  # `paper` has columns of numbers as tokens of their own
    declared = dict(given.columns)[given.target]
    counts = [sum(row[-1] == each for row in given.rows) for each in declared]
    assert np.bincount(np.concatenate(parts["y"])).tolist() == counts
    found = [digest(parts[axis][i]) for i in range(3) for axis in "xy"]
    assert found == pytest.approx(digests, rel=1e-4, abs=1e-5)


def _numbers(*values: float) -> pd.DataFrame:
    return pd.DataFrame({"n": np.array(values, dtype=np.float64)})


class TestEncode:
    def test_categories_come_first_in_slots_sorted_as_text(self) -> None:
        first = pd.Categorical(["10", "9", None, "a"], ["a", "9", "unused", "10"])
        table = pd.DataFrame(
            {"n": [1.0, 3, 1, 3], "c": first, "d": pd.Categorical(["x", "x", "y", "y"])}
        )
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
        table = pd.DataFrame(
            {"c": pd.Categorical(["a", "b", "a"]), "n": [math.nan, 3, 6]}
        )
        x_NLW = encode("t", table, np.arange(3))
        np.testing.assert_allclose(
            x_NLW[:, 1, 0], np.array([-3, 0, 3]) / math.sqrt(6), rtol=1e-6
        )

    def test_without_categories_columns_with_a_missing_value_go(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.INFO):
            x_NLW = encode(
                "t",
                pd.DataFrame({"gone": [math.nan, 1, 2], "n": [0.0, 1, 2]}),
                np.arange(3),
            )
        assert x_NLW.shape == (3, 1, 1)
        assert "t: columns with missing values are left out: gone" in caplog.text

    def test_constant_columns_are_centred_and_large_numbers_keep_their_differences(
        self,
    ) -> None:
        x_NLW = encode("t", _numbers(0.1, 0.1, 0.1, 0.3), np.arange(3))
        assert x_NLW.ravel().tolist() == [0, 0, 0, np.float32(0.3 - 0.1)]
        x_NLW = encode("t", _numbers(*(1e9 + i for i in range(4))), np.arange(4))
        np.testing.assert_allclose(
            x_NLW.ravel().astype(np.float64),
            (np.arange(4) - 1.5) / np.sqrt(1.25),
            rtol=1e-6,
        )

    def test_no_column_left_is_refused(self) -> None:
        for table in (_numbers(math.nan, 1), pd.DataFrame(index=range(2))):
            with pytest.raises(
                UserError, match="t: the table has no column left to predict from"
            ):
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
    labels, named = classes(
        "t", pd.Series(pd.Categorical(["z", None, "a", "z"], ["z", "never", "a"]))
    )
    assert (labels.tolist(), named) == ([0, -1, 1, 0], ["z", "a"])
    labels, named = classes("t", pd.Series([2, 1, math.nan, 2]))
    assert (labels.tolist(), named) == ([1, 0, -1, 1], ["1", "2"])
    with pytest.raises(
        UserError, match="t: the target 'n' holds numbers that are not whole"
    ):
        classes("t", pd.Series([1, 1.5], name="n"))


def test_rare_classes_are_left_out_and_told(caplog: pytest.LogCaptureFixture) -> None:
    assert frequent("t", np.array([0, 0, 0, 1, 1, 1]), ["a", "b"]).all()
    assert not caplog.records
    kept = frequent("t", np.array([0, 0, 0, 1, 1, 2, 2, 2, -1]), ["a", "b", "c"])
    assert kept.tolist() == [True] * 3 + [False] * 2 + [True] * 3 + [False]
    assert (
        "t: classes with fewer than 3 rows cannot be in every split, and are left out:"
        " b (2)" in caplog.text
    )
    with pytest.raises(
        UserError,
        match="t: expected two classes or more of 3 rows each, found a: 3, b: 2",
    ):
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
    labels = np.random.RandomState(seed).permutation(
        np.repeat(np.arange(len(counts)), counts)
    )
    train, validation, test = tables.split(labels, seed)
    assert sorted(np.concatenate([train, validation, test]).tolist()) == list(
        range(len(labels))
    )
    for part, whole in ((test, len(labels)), (validation, len(labels) - len(test))):
        size = max(-(-whole // 10), len(counts))
        found = np.bincount(labels[part], minlength=len(counts))
        assert found.min() >= 1
        assert len(part) >= size
        if min(counts) >= 20:
            assert len(part) == size
        assert (found <= np.maximum(np.ceil(np.array(counts) * size / whole), 1)).all()
    assert np.bincount(labels[train], minlength=len(counts)).min() >= 1


def test_more_categories_than_the_memory_holds_are_refused() -> None:
    """The table would take two terabytes.

    It has 40,000 rows of as many categories, beside 200 columns.
    """
    many = pd.Categorical([f"c{i}" for i in range(40_000)])
    table = pd.DataFrame(
        {"many": many, **{f"n{number}": np.zeros(40_000) for number in range(200)}}
    )
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
