"""Eighteen of the 42 OpenML tasks on all their real rows."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from orca_ray.data import prepared
from orca_ray.data.raw import Workspace
from orca_ray.tasks.openml.tables import build
from orca_ray.tasks.registry import get_task
from tests.twins._openml_format import TwinTable, write_table
from tests.twins._openml_real import KEELS, MFEAT, breast_w, keel, mfeat, spambase
from tests.twins.openml import TWINS


def _prepared(dataset_id: int, table: TwinTable, raw: Path) -> dict[str, np.ndarray]:
    write_table(raw, dataset_id, table)
    arrays = build(dataset_id, Workspace(f"openml/{dataset_id}", raw, raw))
    return {name: np.asarray(array[:]) for name, array in arrays.items()}


def _all(arrays: dict[str, np.ndarray], axis: str) -> np.ndarray:
    return np.concatenate([arrays[f"{split}_{axis}"] for split in prepared.SPLITS])


@pytest.mark.parametrize(("dataset_id", "length"), [(12, 216), (14, 76), (16, 64), (18, 6), (22, 47)])
def test_the_multiple_features(dataset_id: int, length: int, tmp_path: Path) -> None:
    arrays = _prepared(dataset_id, mfeat(dataset_id), tmp_path)
    assert set(MFEAT) >= {dataset_id}
    assert [arrays[f"{split}_x"].shape for split in prepared.SPLITS] == [
        (1620, 1, length),
        (180, 1, length),
        (200, 1, length),
    ]
    assert [np.bincount(arrays[f"{split}_y"]).tolist() for split in prepared.SPLITS] == [
        [162] * 10,
        [18] * 10,
        [20] * 10,
    ]


@pytest.mark.parametrize("dataset_id", KEELS)
def test_tables_of_keel(dataset_id: int, tmp_path: Path) -> None:
    table = keel(dataset_id)
    arrays = _prepared(dataset_id, table, tmp_path)
    x, y = _all(arrays, "x"), _all(arrays, "y")
    assert x.shape == KEELS[dataset_id].shape
    declared = dict(table.columns)["Class"]
    assert np.bincount(y).tolist() == [sum(row[-1] == each for row in table.rows) for each in declared]
    if KEELS[dataset_id].nominal:  # one slot of every column of categories is taken
        np.testing.assert_array_equal(x[:, :, : len(KEELS[dataset_id].nominal)].sum(axis=1), 1)


@pytest.mark.parametrize(
    ("dataset_id", "table", "sizes", "length", "counts"),
    [
        # The column with missing values is left out: eight of nine stay.
        (15, breast_w, (566, 63, 70), 8, [458, 241]),
        (44, spambase, (3726, 414, 461), 57, [2788, 1813]),
    ],
)
def test_tables_of_debian(
    dataset_id: int,
    table: Callable[[], TwinTable],
    sizes: tuple[int, ...],
    length: int,
    counts: list[int],
    tmp_path: Path,
) -> None:
    arrays = _prepared(dataset_id, table(), tmp_path)
    assert [arrays[f"{split}_x"].shape for split in prepared.SPLITS] == [(size, 1, length) for size in sizes]
    assert np.bincount(_all(arrays, "y")).tolist() == counts
    assert arrays["train_x"].mean(axis=0) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    ("dataset_id", "sizes", "shape", "counts"),
    [
        (61, (121, 14, 15), (1, 4), [50, 50, 50]),
        (187, (144, 16, 18), (1, 13), [59, 71, 48]),
        (1510, (460, 52, 57), (1, 30), [357, 212]),
    ],
)
def test_tables_of_scikit_learn(
    dataset_id: int, sizes: tuple[int, ...], shape: tuple[int, ...], counts: list[int], tmp_path: Path
) -> None:
    task = get_task(f"openml/{dataset_id}")
    TWINS[task.name](tmp_path)
    data = task.prepare(raw=tmp_path, out=tmp_path / "out")
    resolved = task.resolved(data)
    assert resolved.num_samples == sizes
    assert resolved.input_shape == shape
    y = np.concatenate([split.y for split in data.splits.values()])
    assert np.bincount(y).tolist() == counts
