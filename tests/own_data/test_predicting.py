"""Data to predict: every format is read without targets, groups, times and splits, and
its rows keep their ids.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from orca_ray.data.rows import Array
from orca_ray.errors import UserError
from orca_ray.own_data import KINDS, Options, UserData, all_formats, make_options, read
from orca_ray.own_data.infer_task import infer

from .writers import ARRAYS, TABLES, Arrays, image, tone

N = 40
X = np.random.default_rng(0).normal(size=(N, 2, 12)).astype(np.float32)
BESIDE: Arrays = {
    "kind": np.arange(N) % 2,
    "patient": np.arange(N) // 2,
    "day": np.arange(N),
}
"""What training data have beside the inputs."""
KEYS = {"target": ("kind",), "group": "patient", "time": "day"}


def _frame(arrays: Arrays) -> pd.DataFrame:
    part = (
        {"part": np.repeat(["train", "validation", "test"], [20, 10, 10])}
        if "kind" in arrays
        else {}
    )
    columns = {name: array for name, array in arrays.items() if name != "x"}
    return pd.DataFrame({"a": X[:, 0, 0], "b": X[:, 1, 0], **columns, **part})


def _of_columns(
    write: Callable[[Path, pd.DataFrame], object],
) -> Callable[[Path, Arrays], object]:
    return lambda path, arrays: write(path, _frame(arrays))


def _files(
    suffix: str, write: Callable[[Path, int], object]
) -> Callable[[Path, Arrays], object]:
    def written(folder: Path, arrays: Arrays) -> None:
        for row in range(N):
            place = folder / "ab"[row % 2] if "kind" in arrays or row % 3 else folder
            place.mkdir(parents=True, exist_ok=True)
            write(place / f"{row:02}{suffix}", row)
        (folder / "labels.csv").write_text("file_name,kind\nanother.png,a\n")

    return written


FOLDERS: Mapping[str, Callable[[Path, Arrays], object]] = {
    "images": _files(
        ".png", lambda path, row: image(path, np.full((6 + row % 3, 6), row, "u1"))
    ),
    "recordings": _files(".wav", lambda path, row: tone(path, 200 + 9 * row)),
    "arrays": _files(
        ".npy", lambda path, row: np.save(path, X[row, :, : 12 - row % 2])
    ),
}
CASES = {
    **ARRAYS,
    **{name: _of_columns(write) for name, write in TABLES.items()},
    **FOLDERS,
}
"""Writers of arrays and columns, or for folders: of files by class."""


def ordered(data: UserData, x: Array) -> Array:
    return (
        x[np.argsort([Path(name).name for name in data.names], kind="stable")]
        if data.names
        else x
    )


def test_every_format_has_a_case() -> None:
    suffixes = {Path(name).suffix for name in CASES}
    assert all(
        suffixes & {*each.suffixes} or each.folder for each in all_formats().values()
    )


@pytest.mark.parametrize("file", CASES)
def test_every_format_gives_the_same_samples_and_predicts_from_the_inputs_alone(
    file: str, tmp_path: Path
) -> None:
    for folder, beside in (("train", BESIDE), ("new", {})):
        (tmp_path / folder).mkdir()
        CASES[file](tmp_path / folder / file, {"x": X, **beside})
    named = {} if file in FOLDERS or file == "x.npy" else KEYS
    split = {"split": "part"} if file in TABLES else {}
    data = read(tmp_path / "train" / file, make_options("test", {**named, **split}))
    assert [len(part) for part in data.batches(16)] == [16, 16, 8]
    if file not in FOLDERS:
        np.testing.assert_array_equal(np.asarray(data.y), BESIDE["kind"])
    if file in ARRAYS:
        np.testing.assert_array_equal(np.asarray(data.select(slice(None)).x), X)
        np.testing.assert_array_equal(
            np.asarray(data.select(np.array([5, 1, 5])).x), X[[5, 1, 5]]
        )
    preprocessing = infer(data).preprocessing
    expected = ordered(data, preprocessing.inputs(data))
    for folder in ("train", "new"):
        found = preprocessing.read(tmp_path / folder / file)
        assert (found.y, found.groups, found.times, found.splits) == (
            None,
            None,
            None,
            None,
        )
        np.testing.assert_array_equal(
            ordered(found, preprocessing.inputs(found)), expected
        )


def test_arrays_by_split_and_targets_of_other_lengths_are_predicted(
    tmp_path: Path,
) -> None:
    np.savez(tmp_path / "a.npz", x_train=X[:30], x_test=X[30:])
    np.testing.assert_array_equal(
        np.asarray(read(tmp_path / "a.npz", labelled=False).select(slice(None)).x), X
    )
    np.savez(tmp_path / "b.npz", signals=X, kind=BESIDE["kind"][:3])
    assert len(read(tmp_path / "b.npz", Options(target=("kind",)), labelled=False)) == N


def test_columns_that_tell_rows_apart_are_keys(tmp_path: Path) -> None:
    columns = {
        "id": [2**60 + 1, 2**60 + 2, 2**60 + 3],
        "name": ["x", "y", "z"],
        "note": ["a", "a", "b"],
    }
    others = {
        "gap": ["a", None, "b"],
        "acid": [0.5, 0.25, 0.75],
        "kind": ["r", "w", "b"],
    }
    pd.DataFrame({**columns, **others}).to_parquet(tmp_path / "t.parquet", index=False)
    found = read(tmp_path / "t.parquet", Options(target=("kind",)), labelled=False).keys
    assert {name: values.tolist() for name, values in found.items()} == {
        k: columns[k] for k in ("id", "name")
    }
    assert not read(tmp_path / "t.parquet", Options(target=("kind",))).keys


def test_labels_keep_their_spaces_and_are_found_without(tmp_path: Path) -> None:
    rows = "".join(f"{k / 7},{' bus ' if k % 2 else 'car'}\n" for k in range(N))
    (tmp_path / "t.csv").write_text("x,kind\n" + rows)
    coding = infer(
        read(tmp_path / "t.csv", Options(target=("kind",)))
    ).preprocessing.target
    assert coding.label_names == (" bus ", "car")
    assert coding.encode(np.array(["bus", "car", " bus ", "  "])).tolist() == [
        0,
        1,
        0,
        -1,
    ]
    with pytest.raises(UserError, match="unknown class 'tram'"):
        coding.encode(np.array(["tram"]))


@pytest.mark.parametrize("shape", [(N, 4, 4, 3, 2), (N,)])
def test_data_of_no_kind_get_the_kinds_listed(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    np.savez(
        tmp_path / "t.npz",
        x=np.random.default_rng(0).normal(size=shape),
        y=BESIDE["kind"],
    )
    with pytest.raises(UserError) as error:
        infer(read(tmp_path / "t.npz"))
    assert KINDS in str(error.value)


def test_series_of_one_to_100_000_steps(tmp_path: Path) -> None:
    for row, length in enumerate([1, 100_000, *range(2, N)]):
        (tmp_path / "ab"[row % 2]).mkdir(exist_ok=True)
        np.save(
            tmp_path / "ab"[row % 2] / f"{row}.npy", np.linspace(0, 1 + row, length)
        )
    assert infer(read(tmp_path)).task.input_shape == (1, 8192)
    for length in (1, 100_000):
        x = np.random.default_rng(0).normal(size=(N, 2, length)).astype(np.float32)
        np.savez(tmp_path / "t.npz", x=x, y=BESIDE["kind"])
        assert infer(
            read(tmp_path / "t.npz", Options(axes="NCL"))
        ).task.input_shape == (2, length)
