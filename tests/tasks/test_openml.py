"""The 42 OpenML tasks, on small files."""

import logging
from pathlib import Path

import numpy as np
import pytest

from orca_ray.data import prepared
from orca_ray.data.raw import Workspace
from orca_ray.errors import UserError
from orca_ray.models.modality import EmbedderConfig, get_modality
from orca_ray.tasks.openml import tables
from orca_ray.tasks.openml.tables import KEPT_COLUMNS, NAMES, STANDARDISED_AGAIN, TASKS, build
from orca_ray.tasks.task import SPLIT_SEED, Arrays
from tests.raw_files.openml import WRITERS, Kind, SmallTable, write_table

BY_ID = {int(task.short_name): task for task in TASKS}
SAMPLE = {
    12: ((1, 216), 10, (97, 11, 12)),  # standardised twice
    29: ((11, 15), 2, (18, 3, 3)),  # numbers and categories, and missing values
    1464: ((1, 3), 2, (18, 3, 3)),  # three of four columns are kept
    40966: ((1, 56), 3, (28, 4, 4)),  # categories alone are ignored, and columns with missing values left out
    40975: ((4, 6), 4, (38, 5, 5)),  # categories alone
}
"""Shape of the inputs, number of classes and sizes of the splits of tables of every kind."""


def _build(raw: Path, dataset_id: int, protocol: str = "held-out") -> Arrays:
    return build(dataset_id, Workspace(f"openml/{dataset_id}", raw, raw, protocol=protocol))


def _y(arrays: Arrays, split: str) -> np.ndarray:
    return np.asarray(arrays[f"{split}_y"][:])


def _x(arrays: Arrays, *splits: str) -> np.ndarray:
    return np.concatenate([np.asarray(arrays[f"{split}_x"][:]) for split in splits])


def test_the_42_tables_of_the_paper() -> None:
    assert len(TASKS) == 42
    assert {f"openml/{dataset_id}" for dataset_id in NAMES} == {task.name for task in TASKS}
    assert set(KEPT_COLUMNS) | STANDARDISED_AGAIN <= set(NAMES)
    assert BY_ID[1510].title == "wdbc (OpenML 1510)"
    assert BY_ID[1510].modality == "sequence"
    assert [BY_ID[number].under("paper").metric for number in (12, 1510)] == ["error", "one_minus_auroc"]


@pytest.mark.parametrize("dataset_id", SAMPLE)
class TestSampledTables:
    def test_it_is_prepared_from_its_files(self, dataset_id: int, tmp_path: Path) -> None:
        task = BY_ID[dataset_id]
        WRITERS[task.name](tmp_path / "raw")
        data = task.prepare(raw=tmp_path / "raw", out=tmp_path / "out")
        resolved = task.resolved(data)
        assert (resolved.input_shape, resolved.target.size, resolved.num_samples) == SAMPLE[dataset_id]
        for split in data.splits.values():
            assert set(np.unique(split.y)) == set(range(resolved.target.size))

    def test_the_paper_protocol_scales_by_all_rows_and_tests_on_the_same(self, dataset_id: int, tmp_path: Path) -> None:
        task = BY_ID[dataset_id]
        WRITERS[task.name](tmp_path)
        ours, paper = _build(tmp_path, dataset_id), _build(tmp_path, dataset_id, "paper")
        for split in prepared.SPLITS:
            np.testing.assert_array_equal(_y(ours, split), _y(paper, split))
        assert task.paper_splits != all(np.array_equal(_x(ours, split), _x(paper, split)) for split in prepared.SPLITS)
        again = dataset_id in STANDARDISED_AGAIN
        for x in (_x(ours, "train"), _x(paper, *(("train", "validation") if again else prepared.SPLITS))):
            scaled = x[:, 0] if x.shape[2] > 1 else x[:, :, 0]
            is_number = ~np.isin(scaled, (0, 1)).all(axis=0)
            np.testing.assert_allclose(scaled.mean(axis=0)[is_number], 0, atol=1e-5)
            np.testing.assert_allclose(scaled.std(axis=0, ddof=int(again))[is_number], 1, rtol=1e-4)


def test_a_table_of_numbers_is_a_sequence_of_its_columns_and_under_paper_one_token(tmp_path: Path) -> None:
    raw = np.array([[i, i * i, 7 - 2 * i] for i in range(40)], dtype=np.float64)
    rows = [[*row, "xy"[i % 2]] for i, row in enumerate(raw.tolist())]
    names: list[tuple[str, Kind]] = [("a", "REAL"), ("b", "REAL"), ("c", "REAL"), ("class", ("x", "y"))]
    write_table(tmp_path, 61, SmallTable("t", names, rows, "class"))
    ours, paper = _build(tmp_path, 61), _build(tmp_path, 61, "paper")
    parts = tables.split(np.arange(40) % 2, SPLIT_SEED)
    for name, part in zip(prepared.SPLITS, parts, strict=True):
        expected = (raw[part] - raw[parts[0]].mean(axis=0)) / raw[parts[0]].std(axis=0)
        np.testing.assert_allclose(_x(ours, name), expected[:, None, :], rtol=1e-5, atol=1e-6)
        expected = (raw[part] - raw.mean(axis=0)) / raw.std(axis=0)
        np.testing.assert_allclose(_x(paper, name), expected[:, :, None], rtol=1e-5, atol=1e-6)
    config = EmbedderConfig(sequence_length=512, patching="divide")  # as published
    shapes = [_x(arrays, "train").shape[1:] for arrays in (ours, paper)]
    assert [get_modality("sequence").num_tokens(shape, config) for shape in shapes] == [3, 1]


def test_1464_with_too_few_columns_is_refused(tmp_path: Path) -> None:
    table = SmallTable("t", [("a", "REAL"), ("class", ("x", "y"))], [[i, "xy"[i % 2]] for i in range(40)], "class")
    write_table(tmp_path, 1464, table)
    with pytest.raises(UserError, match="openml/1464: expected at least 4 columns, found 1"):
        _build(tmp_path, 1464)


def test_rows_without_a_class_and_rare_classes_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = ["x"] * 10 + ["y"] * 2 + [None] * 3 + ["z"] * 10
    rows = [[i, label] for i, label in enumerate(given)]
    write_table(tmp_path, 11, SmallTable("t", [("a", "REAL"), ("class", ("x", "y", "z"))], rows, "class"))
    with caplog.at_level(logging.WARNING):
        arrays = _build(tmp_path, 11, "paper")
    y = np.concatenate([_y(arrays, split) for split in prepared.SPLITS])
    assert np.bincount(y).tolist() == [10, 10]  # numbered without a gap
    assert "openml/11: classes with fewer than 3 rows cannot be in every split, and are left out: y (2)" in caplog.text
    values = np.array([i for i, label in rows if label in ("x", "z")])
    expected = (values - values.mean()) / values.std()  # what is left out does not scale
    np.testing.assert_allclose(np.sort(_x(arrays, *prepared.SPLITS).ravel()), expected, rtol=1e-5)
