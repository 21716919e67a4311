"""Tables: every format gives the same columns, and a wrong table an error with column, row or line."""

import contextlib
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca_ray.errors import UserError
from orca_ray.own_data import Options, UserData, options_of, read, read_options

from .writers import TABLES, arrow_folder, image

TABLE = pd.DataFrame(
    {
        "age": [31.5, 22.25, np.nan, 40.5],
        "city": ["Bern", None, "Oslo, N", "Rom"],
        "when": pd.to_datetime(["2024-01-31", "2024-02-01", "2024-02-02", "2024-02-03"]),
        "kind": ["a", "b", "a", "b"],
    }
)
KIND = Options(target=("kind",))


NO_OPTIONS = Options()


def frame(data: UserData) -> pd.DataFrame:
    assert isinstance(data.x, pd.DataFrame)
    return data.x


@pytest.mark.parametrize("name", TABLES)
def test_every_format_gives_the_same_columns(name: str, tmp_path: Path) -> None:
    TABLES[name](tmp_path / name, TABLE)
    data = read(tmp_path / name, KIND)
    found = frame(data)
    assert list(found.columns) == ["age", "city", "when"]
    np.testing.assert_array_equal(found["age"], TABLE["age"])
    assert found["city"].tolist() == ["Bern", None, "Oslo, N", "Rom"]
    assert found["when"].dt.strftime("%Y-%m-%d").tolist()[0] == "2024-01-31"
    assert cast(np.ndarray, data.y).tolist() == ["a", "b", "a", "b"]
    assert frame(data.select(np.array([2]))).iloc[0]["city"] == "Oslo, N"


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("a,b\n1,2\n3\n", NO_OPTIONS, "Expected 2 columns, got 1"),
        ("a,b\n", NO_OPTIONS, "expected rows, found none"),
        ("1.5,2\n3,4\n", NO_OPTIONS, "expected the columns' names in line 1"),
        ("a,a\n1,2\n", NO_OPTIONS, "column 'a' has no name, or another has the same"),
        ("a,,y\n1,2,3\n", NO_OPTIONS, "column '' has no name"),
        ("a,b\n1,2\n", NO_OPTIONS, r"which column is the target\? Name it with --target; columns: a, b"),
        ("y\n1\n", NO_OPTIONS, "no column is left to predict from"),
        ("straße,y\nMünchen,1\nÄ,2\n", NO_OPTIONS, r"UTF-?8"),
        ("a,kind\n1,2\n", Options(target=("kimd",)), "unknown target column 'kimd'. Did you mean 'kind'"),
        ("age,y\n1,2\n", Options(columns={"ages": "drop"}), "unknown column 'ages'. Did you mean 'age'"),
    ],
)
def test_bad_text(text: str, options: Options, expected: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(text.encode("latin1"))
    with pytest.raises(UserError, match=expected) as error:
        read(tmp_path / "t.csv", options)
    assert "t.csv" in str(error.value)
    if options.target:
        assert read(tmp_path / "t.csv", options, labelled=False).y is None


def test_several_targets(tmp_path: Path) -> None:
    table = pd.DataFrame({"x": [1.0, 2, 3], "one": [0, 1, 1], "two": [True, False, True]})
    table.to_parquet(tmp_path / "t.parquet")
    data = read(tmp_path / "t.parquet", Options(target=("one", "two")))
    assert np.array_equal(cast(np.ndarray, data.y), [[0, 1], [1, 0], [1, 1]])
    assert data.target_names == ("one", "two")


@given(
    rows=st.lists(
        st.tuples(st.floats(allow_nan=False, allow_infinity=False), st.text("ab;,\"' \n", min_size=1)), min_size=2
    )
)
def test_any_table_is_read_back(rows: list[tuple[float, str]], tmp_path_factory: pytest.TempPathFactory) -> None:
    table = pd.DataFrame({"number": [row[0] for row in rows], "text": [f"<{row[1]}>" for row in rows]})
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    table.to_csv(path, index=False)
    data = read(path, Options(target=("text",)))
    np.testing.assert_array_equal(frame(data)["number"], table["number"])
    assert cast(np.ndarray, data.y).tolist() == table["text"].tolist()


@given(content=st.binary(max_size=300), suffix=st.sampled_from(["csv", "tsv", "parquet", "npz", "npy", "h5", "mat"]))
def test_any_bytes_are_samples_or_a_user_error(
    content: bytes, suffix: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("any") / f"t.{suffix}"
    path.write_bytes(content)
    with contextlib.suppress(UserError):  # any other exception fails the test
        read(path, labelled=False)


def test_a_saved_dataset_with_splits_classes_and_images(tmp_path: Path) -> None:
    def cell(value: int) -> dict[str, bytes]:
        image(tmp_path / "i.png", np.full((4, 5, 3), value, np.uint8))
        return {"bytes": (tmp_path / "i.png").read_bytes()}

    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}
    for split, number in (("train", 3), ("test", 2)):
        table = pd.DataFrame({"image": [cell(20 * k) for k in range(number)], "label": [k % 2 for k in range(number)]})
        arrow_folder(tmp_path / "saved" / split, table, features)
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    data = read(tmp_path / "saved")
    assert cast(np.ndarray, data.y).tolist() == ["cat", "dog", "cat", "cat", "dog"]
    assert cast(np.ndarray, data.splits).tolist() == ["train"] * 3 + ["test"] * 2
    pixels = cast(list[np.ndarray], data.select(np.array([2])).x)[0]
    assert pixels.shape == (4, 5, 3)
    assert (pixels == 40).all()
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    assert read(tmp_path / "saved").splits is None, "one part is no division"


def test_lists_in_a_column_are_series(tmp_path: Path) -> None:
    table = pd.DataFrame({"signal": [[1.0, 2, 3], [4.0, 5]], "y": [0, 1], "note": ["a", "b"]})
    table.to_parquet(tmp_path / "t.parquet")
    data = read(tmp_path / "t.parquet")
    assert [each.tolist() for each in cast(list[np.ndarray], data.select(slice(None)).x)] == [[1, 2, 3], [4, 5]]
    assert data.notes == ("columns not used beside signal: note",)


def test_missing_marks_and_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("﻿a,y\n?,1\nNA,2\n3,\n")
    found = read(tmp_path / "t.csv")
    assert np.isnan(frame(found)["a"]).tolist() == [True, True, False]
    assert np.isnan(cast(np.ndarray, found.y)).tolist() == [False, False, True]


def test_a_task_file_names_the_data_and_options(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", signal=np.zeros((5, 3)), kind=np.arange(5))
    (tmp_path / "task.yaml").write_text("data: a.npz\ntarget: kind\ninputs: signal\naxes: NL\n")
    data = read(tmp_path / "task.yaml")
    assert data.target_names == ("kind",)
    _, options = options_of(tmp_path / "task.yaml", Options(axes="NF"))
    assert (options.axes, options.target) == ("NF", ("kind",)), "what is given goes first"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tarjet: x", "unknown option 'tarjet'. Did you mean 'target'"),
        ("axes: XYZ", "axes: .*got 'XYZ'"),
        ("target: !!python/object:os.system x", "tag"),
        ("- a", "expected 'option: value'"),
        ("a: [", "not valid YAML"),
        ("kind: colour", "kind: "),
        ("target: x", "expected the line 'data: PATH'"),
    ],
)
def test_bad_task_files(text: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "task.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=expected) as error:
        read(path)
    assert "task.yaml" in str(error.value)


def test_options_are_plain(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text("columns: {id: drop}\nfractions: [0.2, 0.1]\n")
    assert read_options(tmp_path / "t.yaml") == Options(columns={"id": "drop"}, fractions=(0.2, 0.1))
