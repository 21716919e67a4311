"""Data to predict: every format is read without targets, groups, times and splits.

The rows of a table keep their ids.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

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
"""Options that name these arrays."""


def _frame(arrays: Arrays) -> pd.DataFrame:
    columns = {name: array for name, array in arrays.items() if name != "x"}
    if "kind" in arrays:
        columns["part"] = np.repeat(["train", "validation", "test"], [20, 10, 10])
    return pd.DataFrame({"a": X[:, 0, 0], "b": X[:, 1, 0], **columns})


def _of_columns(
    write: Callable[[Path, pd.DataFrame], object],
) -> Callable[[Path, Arrays], object]:
    return lambda path, arrays: write(path, _frame(arrays))


def _files(
    suffix: str, write: Callable[[Path, int], object]
) -> Callable[[Path, Arrays], object]:
    """Return a writer of one file a sample, by class if the samples have targets."""

    def write_folder(folder: Path, arrays: Arrays) -> None:
        for row in range(N):
            place = folder
            if "kind" in arrays or row % 3:
                place = folder / "ab"[row % 2]
            place.mkdir(parents=True, exist_ok=True)
            write(place / f"{row:02}{suffix}", row)
        (folder / "labels.csv").write_text("file_name,kind\nanother.png,a\n")

    return write_folder


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


def sort_by_name(data: UserData, x: Array) -> Array:
    """Return the samples in the order of the names of their files, if they have any."""
    if not data.names:
        return x
    return x[np.argsort([Path(name).name for name in data.names], kind="stable")]


def all_samples(data: UserData) -> Array:
    return np.asarray(data.select(slice(None)).x)


def test_every_format_has_a_case() -> None:
    suffixes = {Path(name).suffix for name in CASES}
    for form in all_formats().values():
        assert form.folder or suffixes & set(form.suffixes), form.name


@pytest.mark.parametrize("file", CASES)
def test_every_format_gives_the_same_samples_and_predicts_from_the_inputs_alone(
    file: str, tmp_path: Path
) -> None:
    for folder, arrays in (("train", {"x": X, **BESIDE}), ("new", {"x": X})):
        (tmp_path / folder).mkdir()
        CASES[file](tmp_path / folder / file, arrays)
    options: dict[str, Any] = {}
    if file not in FOLDERS and file != "x.npy":
        options |= KEYS
    if file in TABLES:
        options["split"] = "part"
    data = read(tmp_path / "train" / file, make_options("test", options))
    assert [len(batch) for batch in data.batches(16)] == [16, 16, 8]
    if file not in FOLDERS:
        np.testing.assert_array_equal(np.asarray(data.y), BESIDE["kind"])
    if file in ARRAYS:
        np.testing.assert_array_equal(all_samples(data), X)
        selected = np.asarray(data.select(np.array([5, 1, 5])).x)
        np.testing.assert_array_equal(selected, X[[5, 1, 5]])
    preprocessing = infer(data).preprocessing
    expected = sort_by_name(data, preprocessing.inputs(data))
    for folder in ("train", "new"):
        new = preprocessing.read(tmp_path / folder / file)
        assert new.y is None
        assert new.groups is None
        assert new.times is None
        assert new.splits is None
        inputs = sort_by_name(new, preprocessing.inputs(new))
        np.testing.assert_array_equal(inputs, expected)


def test_arrays_by_split_and_targets_of_other_lengths_are_predicted(
    tmp_path: Path,
) -> None:
    np.savez(tmp_path / "a.npz", x_train=X[:30], x_test=X[30:])
    data = read(tmp_path / "a.npz", labelled=False)
    np.testing.assert_array_equal(all_samples(data), X)
    np.savez(tmp_path / "b.npz", signals=X, kind=BESIDE["kind"][:3])
    data = read(tmp_path / "b.npz", Options(target=("kind",)), labelled=False)
    assert len(data) == N


def test_columns_that_tell_rows_apart_are_keys(tmp_path: Path) -> None:
    keys = {"id": [2**60 + 1, 2**60 + 2, 2**60 + 3], "name": ["x", "y", "z"]}
    other_columns = {
        "note": ["a", "a", "b"],
        "gap": ["a", None, "b"],
        "acid": [0.5, 0.25, 0.75],
        "kind": ["r", "w", "b"],
    }
    path = tmp_path / "t.parquet"
    pd.DataFrame({**keys, **other_columns}).to_parquet(path, index=False)
    data = read(path, Options(target=("kind",)), labelled=False)
    assert {name: values.tolist() for name, values in data.keys.items()} == keys
    assert not read(path, Options(target=("kind",))).keys


def test_labels_keep_their_spaces_and_are_found_without(tmp_path: Path) -> None:
    rows = "".join(f"{k / 7},{' bus ' if k % 2 else 'car'}\n" for k in range(N))
    (tmp_path / "t.csv").write_text("x,kind\n" + rows)
    data = read(tmp_path / "t.csv", Options(target=("kind",)))
    coding = infer(data).preprocessing.target
    assert coding.label_names == (" bus ", "car")
    codes = coding.encode(np.array(["bus", "car", " bus ", "  "]))
    assert codes.tolist() == [0, 1, 0, -1]
    with pytest.raises(UserError, match="unknown class 'tram'"):
        coding.encode(np.array(["tram"]))


@pytest.mark.parametrize("shape", [(N, 4, 4, 3, 2), (N,)])
def test_data_of_no_kind_get_the_kinds_listed(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    x = np.random.default_rng(0).normal(size=shape)
    np.savez(tmp_path / "t.npz", x=x, y=BESIDE["kind"])
    with pytest.raises(UserError) as error:
        infer(read(tmp_path / "t.npz"))
    assert KINDS in str(error.value)


def test_series_of_one_to_100_000_steps_in_a_folder(tmp_path: Path) -> None:
    for row, length in enumerate([1, 100_000, *range(2, N)]):
        folder = tmp_path / "ab"[row % 2]
        folder.mkdir(exist_ok=True)
        np.save(folder / f"{row}.npy", np.linspace(0, 1 + row, length))
    assert infer(read(tmp_path)).task.input_shape == (1, 8192)


@pytest.mark.parametrize("length", [1, 100_000])
def test_series_of_one_length(length: int, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(N, 2, length)).astype(np.float32)
    np.savez(tmp_path / "t.npz", x=x, y=BESIDE["kind"])
    data = read(tmp_path / "t.npz", Options(axes="NCL"))
    assert infer(data).task.input_shape == (2, length)
