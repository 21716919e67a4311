"""PSICOV: squares of proteins against ones that are put together here, plainly."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca_ray.data.prepared import PreparedData
from orca_ray.data.rows import Array
from orca_ray.tasks.nasbench360 import psicov
from orca_ray.tasks.registry import get_task
from tests.raw_files.nasbench360_large import PROTEINS

TASK = get_task("nasbench360/psicov")
LONG = len(PROTEINS["deepcov"]) - 1


def expected(
    raw: Path, folder: str, number: int, top: int, left: int
) -> tuple[Array, Array]:
    """Return x [57, 512, 512] and y [512, 512] of a protein.

    They are cut from an image of all its positions.
    """
    name = f"{number + 1}{folder[:3].upper()}A"
    features = pickle.loads(
        (raw / f"protein/{folder}/features/{name}.pkl").read_bytes()
    )
    length, _, distances = np.load(
        raw / f"protein/{folder}/distance/{name}-cb.npy", allow_pickle=True
    )
    single = [*features["ss"], *features["pssm"].T, features["sa"], features["entropy"]]
    ones = np.ones(length)
    channels = [np.outer(each, ones) for each in single] + [
        np.outer(ones, each) for each in single
    ]
    channels += [features[field] for field in ("ccmpred", "freecon", "potential")]
    x = np.zeros((57, max(512, length + 10), max(512, length + 10)), np.float32)
    x[:, 5 : length + 5, 5 : length + 5] = channels
    y = np.full(x.shape[1:], 100, np.float32)
    y[5 : length + 5, 5 : length + 5] = levelled(distances)
    return (
        x[:, top : top + 512, left : left + 512],
        y[top : top + 512, left : left + 512],
    )


def levelled(distances: Array) -> Array:
    """Return distances of at least 1 Å, computed one by one.

    The diagonal is the mean of the neighbours before and after.
    """
    result = np.where(distances < 1, np.float32(1), distances)
    last = len(result) - 1
    result[0, 0] = result[0, 1]
    result[last, last] = result[last, last - 1]
    for i in range(1, last):
        result[i, i] = (result[i, i - 1] + result[i, i + 1]) / 2
    return result


def test_training_squares_are_those_of_the_files(raw: Path, data: PreparedData) -> None:
    lengths = PROTEINS["deepcov"]
    for number, share in enumerate(
        np.random.RandomState(0).random_sample((len(lengths), 2))
    ):
        # Where the windows of rows and columns begin, counted from five positions
        # before the first residue.
        top, left = (
            int(each * (max(lengths[number] + 10 - 512, 0) + 1)) for each in share
        )
        # A window of the long protein is off the diagonal.
        assert (top == left) == (number != LONG)
        x, y = expected(raw, "deepcov", number, top, left)
        np.testing.assert_array_equal(data.train.x[slice(number, number + 1)][0], x)
        np.testing.assert_array_equal(data.train.y[number], np.minimum(y, 16))


@pytest.mark.slow
def test_psicov_is_halved_and_its_targets_are_whole(
    raw: Path, data: PreparedData
) -> None:
    for split, numbers in ((data.test, (0, 1)), (data.validation, (2, 3))):
        assert len(split) == 2
        for row, number in enumerate(numbers):
            x, y = expected(raw, "psicov", number, 0, 0)
            np.testing.assert_array_equal(split.x[np.array([row])][0], x)
            np.testing.assert_array_equal(split.y[row], y)
    assert data.test.y.max() == 100
    assert np.sort(np.unique(data.test.y))[-2] > 16


def test_paper_trains_on_all_of_deepcov_and_tests_on_all_of_psicov(
    raw: Path, data: PreparedData, tmp_path: Path
) -> None:
    paper = TASK.prepare("paper", raw=raw, out=tmp_path / "paper")
    assert (len(paper.train), len(paper.validation), len(paper.test)) == (4, 2, 4)
    whole = {row.tobytes() for row in np.delete(data.train.y, LONG, axis=0)}
    trained_on = {
        row.tobytes() for split in (paper.train, paper.validation) for row in split.y
    }
    assert whole < trained_on  # the long one has another window
    assert len(trained_on) == 6
    np.testing.assert_array_equal(
        paper.test.y, np.concatenate([data.test.y, data.validation.y])
    )


@given(st.integers(2, 2000), st.floats(0, 1, exclude_max=True))
def test_a_window_holds_residues_where_it_says(length: int, share: float) -> None:
    inside, residues = psicov._window(length, share)
    assert 0 <= inside.start < inside.stop <= 512
    assert 0 <= residues.start < residues.stop <= length
    assert inside.stop - inside.start == residues.stop - residues.start
    if length <= 502:
        assert (inside, residues) == (slice(5, length + 5), slice(0, length))
    else:
        assert inside.stop - inside.start >= 502


def test_a_long_test_protein_keeps_the_separation_of_its_residues(
    raw: Path, tmp_path: Path
) -> None:
    for names, folder in (("6DEEA*", "psicov"), ("[12]DEEA*", "deepcov")):
        for path in (raw / "protein").rglob(names):
            target = tmp_path / path.relative_to(raw).as_posix().replace(
                "deepcov", folder
            )
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(path)
    (tmp_path / "protein/deepcov.lst").write_text("1DEEA\n2DEEA\n")
    (tmp_path / "protein/psicov.lst").write_text("6DEEA\n6DEEA\n")
    diagonal = np.diagonal(
        TASK.prepare(raw=tmp_path, out=tmp_path / "out" / "1").test.y[0]
    )
    assert (diagonal[5:-5] < 6).all()  # residues next to each other along the chain
