"""Reading: every format gives the same samples or columns.

What is wrong raises an error that names it.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca_ray.data.rows import Array
from orca_ray.errors import UserError
from orca_ray.own_data import Options, UserData, make_options, read, read_options

from .writers import TABLES, arrow_folder, image, tone

X = np.random.default_rng(0).normal(size=(20, 3, 7)).astype(np.float32)
Y = np.arange(20) % 3


def arrays(data: UserData) -> Array:
    return np.asarray(cast(Array, data.select(slice(None)).x))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04 nothing",
        b"\x89HDF\r\n\x1a\n" + bytes(50),
        b"\0" * 200,
    ],
    ids=["empty", "zip", "hdf5", "zeros"],
)
@pytest.mark.parametrize(
    "suffix", ["npz", "npy", "h5", "hdf5", "mat", "pt", "parquet", "csv"]
)
def test_wrong_content_is_named(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"data.{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"data.{suffix}"):
        read(path, Options(target=("y",)))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("data.foo", "unknown type of file '.foo'.*NumPy archive"),
        ("missing.csv", "no such file"),
        ("empty", "no files"),
    ],
)
def test_unknown_types(name: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "data.foo").write_text("x")
    with pytest.raises(UserError, match=expected):
        read(tmp_path / name)


@pytest.mark.parametrize(
    ("stored", "target", "message"),
    [
        (
            {"recording": X, "kind": Y},
            ("knd",),
            r"unknown target array 'knd'. Did you mean 'kind'",
        ),
        (
            {"one": X, "two": X, "y": Y},
            (),
            r"which array are the inputs\? It has one \[20, 3, 7\], two",
        ),
        (
            {"x": X, "z": Y},
            (),
            r"which array is the target\? It has x \[20, 3, 7\], z \[20\]",
        ),
        ({"x": X, "y": Y[:19]}, (), "data.npz: 20 samples but 19 targets"),
        (
            {"x_train": X[:12], "y_train": Y[:11], "x_test": X, "y_test": Y},
            (),
            "x_train has 12 samples and y_train 11",
        ),
    ],
)
def test_keys_that_leave_a_question(
    stored: dict[str, Array], target: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "data.npz", **stored)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=message):
        read(tmp_path / "data.npz", Options(target=target))


def test_the_targets_of_an_npy_file_are_one_other_file(tmp_path: Path) -> None:
    np.save(tmp_path / "target.npy", X)
    np.save(tmp_path / "kinds.npy", Y)
    data = read(tmp_path / "target.npy", Options(target=("kinds.npy",)))
    np.testing.assert_array_equal(arrays(data), X)
    np.testing.assert_array_equal(data.y, Y)
    with pytest.raises(UserError, match=r"one file, got kinds\.npy, more\.npy"):
        read(tmp_path / "target.npy", Options(target=("kinds.npy", "more.npy")))


def test_an_npy_file_is_not_its_own_target(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(UserError, match="as inputs and as target"):
        read(tmp_path / "x.npy", Options(target=("x.npy",)))


@pytest.mark.parametrize("option", ["group", "time", "split", "inputs"])
def test_an_npy_file_has_no_other_arrays(option: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    options = make_options("here", {option: "patient.npy"})
    with pytest.raises(UserError, match=rf"--{option} cannot .* \.npz"):
        read(tmp_path / "x.npy", options)
    # A model trained before options were refused still predicts.
    assert len(read(tmp_path / "x.npy", options, labelled=False)) == len(X)


@pytest.mark.parametrize(
    ("given", "roles"),
    [
        ({"inputs": "x", "target": "x"}, "inputs and as target"),
        ({"group": "x"}, "inputs and as group"),
        ({"split": "x"}, "inputs and as split"),
        ({"group": "y"}, "target and as group"),
    ],
)
def test_an_array_of_samples_has_one_role(
    given: dict[str, str], roles: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "a.npz", x=Y, y=Y, patient=Y)
    with pytest.raises(UserError, match=f"is given as {roles}"):
        read(tmp_path / "a.npz", make_options("here", given))


def test_keys_by_option_and_by_elimination(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", recording=X, kind=Y, other=np.zeros(3))
    data = read(tmp_path / "a.npz", Options(target=("kind",)))
    assert data.target_names == ("kind",)
    np.testing.assert_array_equal(arrays(data), X)
    assert data.notes == ("not used: other",)


def test_groups(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=X, y=Y, patient=Y * 2)
    data = read(tmp_path / "a.npz", Options(group="patient"))
    np.testing.assert_array_equal(cast(Array, data.groups), Y * 2)


def test_declared_splits(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "b.npz", x_train=X[:12], y_train=Y[:12], x_test=X[12:], y_test=Y[12:]
    )
    data = read(tmp_path / "b.npz")
    assert cast(Array, data.splits).tolist() == ["train"] * 12 + ["test"] * 8
    np.testing.assert_array_equal(arrays(data), X)


def test_groups_of_arrays_by_split_are_not_ignored(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "b.npz",
        x_train=X[:12],
        y_train=Y[:12],
        x_test=X[12:],
        y_test=Y[12:],
        patient=Y,
    )
    with pytest.raises(UserError, match=r"arrays by split .*leave out --group"):
        read(tmp_path / "b.npz", Options(group="patient"))


def test_a_pair_of_files(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, X)
    np.save(tmp_path / "y.npy", Y)
    assert isinstance(read(path).x, np.memmap)
    (tmp_path / "y.npy").rename(tmp_path / "kinds.npy")
    with pytest.raises(UserError, match=r"no targets"):
        read(path)
    data = read(path, Options(target=("kinds.npy",)))
    assert data.y is not None
    with pytest.raises(UserError, match=r"the target's file .*none.npy does not exist"):
        read(path, Options(target=("none.npy",)))


TABLE = pd.DataFrame(
    {
        "age": [31.5, 22.25, np.nan, 40.5],
        "city": ["Bern", None, "Oslo, N", "Rom"],
        "when": pd.to_datetime(
            ["2024-01-31", "2024-02-01", "2024-02-02", "2024-02-03"]
        ),
        "kind": ["a", "b", "a", "b"],
    }
)
KIND = Options(target=("kind",))


def frame(data: UserData) -> pd.DataFrame:
    assert isinstance(data.x, pd.DataFrame)
    return data.x


@pytest.mark.parametrize("name", TABLES)
def test_every_format_gives_the_same_columns(name: str, tmp_path: Path) -> None:
    TABLES[name](tmp_path / name, TABLE)
    data = read(tmp_path / name, KIND)
    columns = frame(data)
    assert list(columns) == ["age", "city", "when"]
    np.testing.assert_array_equal(columns["age"], TABLE["age"])
    assert columns["city"].tolist() == ["Bern", None, "Oslo, N", "Rom"]
    assert columns["when"].dt.strftime("%Y-%m-%d").tolist()[0] == "2024-01-31"
    assert labels(data) == ["a", "b", "a", "b"]
    third = data.select(np.array([2]))
    assert frame(third).iloc[0]["city"] == "Oslo, N"


@pytest.mark.parametrize(
    ("file", "text", "options", "expected"),
    [
        ("t.csv", "a,b\n1,2\n3\n", Options(), "Expected 2 columns, got 1"),
        ("t.csv", "a,b\n", Options(), "expected rows, found none"),
        ("t.csv", "1.5,2\n3,4\n", Options(), "expected the columns' names in line 1"),
        (
            "t.csv",
            "a,a\n1,2\n",
            Options(),
            "column 'a' has no name, or another has the same",
        ),
        ("t.csv", "a,,y\n1,2,3\n", Options(), "column '' has no name"),
        (
            "t.csv",
            "a,b\n1,2\n",
            Options(),
            r"which column is the target\? Name it with --target; columns: a, b",
        ),
        ("t.csv", "y\n1\n", Options(), "no column is left to predict from"),
        (
            "t.csv",
            "a,kind\n1,2\n",
            Options(target=("kimd",)),
            "unknown target column 'kimd'. Did you mean 'kind'",
        ),
        (
            "t.csv",
            "age,y\n1,2\n",
            Options(columns={"ages": "drop"}),
            "unknown column of --columns 'ages'. Did you mean 'age'",
        ),
        (
            "task.yaml",
            "tarjet: x",
            Options(),
            "unknown option 'tarjet'. Did you mean 'target'",
        ),
        ("task.yaml", "axes: XYZ", Options(), "axes: .*got 'XYZ'"),
        ("task.yaml", "target: !!python/object:os.system x", Options(), "tag"),
        ("task.yaml", "- a", Options(), "expected 'option: value'"),
        ("task.yaml", "a: [", Options(), "not valid YAML"),
        ("task.yaml", "kind: colour", Options(), "kind: "),
        ("task.yaml", "target: x", Options(), "expected the line 'data: PATH'"),
    ],
)
def test_bad_text(
    file: str, text: str, options: Options, expected: str, tmp_path: Path
) -> None:
    (tmp_path / file).write_text(text)
    with pytest.raises(UserError, match=expected) as error:
        read(tmp_path / file, options)
    assert file in str(error.value)


def test_several_targets(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"x": [1.0, 2, 3], "one": [0, 1, 1], "two": [True, False, True]}
    )
    table.to_parquet(tmp_path / "t.parquet")
    data = read(tmp_path / "t.parquet", Options(target=("one", "two")))
    assert np.array_equal(cast(np.ndarray, data.y), [[0, 1], [1, 0], [1, 1]])
    assert data.target_names == ("one", "two")


@given(
    rows=st.lists(
        st.tuples(
            st.floats(allow_nan=False, allow_infinity=False),
            st.text("ab;,\"' \n", min_size=1),
        ),
        min_size=2,
    )
)
def test_any_table_is_read_back(
    rows: list[tuple[float, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    table = pd.DataFrame(rows, columns=["number", "text"])
    table["text"] = "<" + table["text"] + ">"
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    table.to_csv(path, index=False)
    data = read(path, Options(target=("text",)))
    np.testing.assert_array_equal(frame(data)["number"], table["number"])
    assert labels(data) == table["text"].tolist()


def test_a_saved_dataset_with_splits_classes_and_images(tmp_path: Path) -> None:
    def cell(value: int) -> dict[str, bytes]:
        image(tmp_path / "i.png", np.full((4, 5, 3), value, np.uint8))
        return {"bytes": (tmp_path / "i.png").read_bytes()}

    features = {
        "image": {"_type": "Image"},
        "label": {"_type": "ClassLabel", "names": ["cat", "dog"]},
    }
    path = tmp_path / "saved"
    for split, number in (("train", 3), ("test", 2)):
        cells = [cell(20 * k) for k in range(number)]
        table = pd.DataFrame({"image": cells, "label": np.arange(number) % 2})
        arrow_folder(path / split, table, features)
    (path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    data = read(path)
    assert labels(data) == ["cat", "dog", "cat", "cat", "dog"]
    assert cast(Array, data.splits).tolist() == ["train"] * 3 + ["test"] * 2
    (pixels,) = samples(data.select(np.array([2])))
    assert pixels.shape == (4, 5, 3)
    assert (pixels == 40).all()
    (path / "dataset_dict.json").write_text('{"splits": ["train"]}')
    assert read(path).splits is None, "one part is no division"


def test_lists_in_a_column_are_series(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"signal": [[1.0, 2, 3], [4.0, 5]], "y": [0, 1], "note": ["a", "b"]}
    )
    table.to_parquet(tmp_path / "t.parquet")
    data = read(tmp_path / "t.parquet")
    first, second = samples(data)
    assert first.tolist() == [1, 2, 3]
    assert second.tolist() == [4, 5]
    assert data.notes == ("columns not used beside signal: note",)


def test_missing_marks_and_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("\ufeffa,y\n?,1\nNA,2\n3,\n")
    data = read(tmp_path / "t.csv")
    assert np.isnan(frame(data)["a"]).tolist() == [True, True, False]
    assert np.isnan(cast(Array, data.y)).tolist() == [False, False, True]


def test_a_task_file_names_the_data_and_options(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", signal=np.zeros((5, 3)), kind=np.arange(5))
    (tmp_path / "task.yaml").write_text(
        "data: a.npz\ntarget: kind\ninputs: signal\naxes: NL\n"
    )
    data = read(tmp_path / "task.yaml")
    assert data.target_names == ("kind",)
    options = read(tmp_path / "task.yaml", Options(axes="NF")).options
    assert options.axes == "NF", "the caller's options go first"
    assert options.target == ("kind",)


def test_options_of_a_task_file(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text("columns: {id: drop}\nfractions: [0.2, 0.1]\n")
    expected = Options(columns={"id": "drop"}, fractions=(0.2, 0.1))
    assert read_options(tmp_path / "t.yaml") == expected


def samples(data: UserData) -> list[Array]:
    return list(cast(Iterable[Array], data.select(slice(None)).x))


def labels(data: UserData) -> list[object]:
    return cast(list[object], cast(Array, data.y).tolist())


def test_images_of_many_modes_become_one(tmp_path: Path) -> None:
    pixels = np.full((6, 5), 100, np.uint8)
    image(tmp_path / "a" / "grey.png", pixels)
    image(tmp_path / "a" / "one.png", pixels, "1")
    image(tmp_path / "b" / "palette.gif", pixels, "P")
    image(tmp_path / "b" / "clear.png", np.zeros((6, 5, 4), np.uint8))
    image(tmp_path / "b" / "deep.png", np.full((6, 5), 100 * 256, np.uint16))
    data = read(tmp_path)
    assert data.kind_hint == "images"
    assert labels(data) == ["a", "a", "b", "b", "b"]
    assert "images of several modes" in data.notes[0]
    pixels_of = dict(zip(data.names, samples(data), strict=True))
    assert {pixels.shape for pixels in pixels_of.values()} == {(6, 5, 3)}
    assert (pixels_of["a/grey.png"] == 100).all()
    assert (pixels_of["b/deep.png"] == 100).all()
    assert (pixels_of["b/clear.png"] == 255).all(), "transparent pixels are white"
    grey = samples(read(tmp_path, Options(colour="grey")))
    assert {pixels.shape for pixels in grey} == {(6, 5)}


def test_one_image_is_a_sample_without_a_label(tmp_path: Path) -> None:
    image(tmp_path / "grey.png", np.full((6, 5), 100, np.uint8))
    data = read(tmp_path / "grey.png", labelled=False)
    assert data.names == ["grey.png"]
    assert data.y is None
    (pixels,) = samples(data)
    assert pixels.shape == (6, 5)


def test_a_damaged_image_is_named_when_it_is_read(tmp_path: Path) -> None:
    image(tmp_path / "a" / "good.png", np.zeros((50, 50), np.uint8))
    content = (tmp_path / "a" / "good.png").read_bytes()
    (tmp_path / "a" / "half.png").write_bytes(content[: len(content) // 2])
    data = read(tmp_path)
    with pytest.raises(UserError, match=r"half.png: the image is damaged"):
        samples(data)
    (tmp_path / "a" / "text.png").write_text("no image")
    with pytest.raises(UserError, match=r"text.png: expected an image"):
        read(tmp_path)


def test_splits_by_folder_and_files_that_are_left_out(tmp_path: Path) -> None:
    for name in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / name).mkdir(parents=True)
        np.save(tmp_path / name / "1.npy", np.zeros((2, 5 if name == "train/b" else 3)))
    (tmp_path / "readme.txt").write_text("about")
    (tmp_path / ".DS_Store").write_text("")
    data = read(tmp_path)
    splits = cast(Array, data.splits).tolist()
    lengths = [sample.shape[1] for sample in samples(data)]
    assert sorted(zip(splits, labels(data), lengths, strict=True)) == [
        ("test", "a", 3),
        ("test", "b", 3),
        ("train", "a", 3),
        ("train", "b", 5),
    ]
    assert data.notes == ("1 files of other types are left out, such as readme.txt",)


def test_a_flat_folder_needs_labels_only_for_training(tmp_path: Path) -> None:
    for k in range(3):
        image(tmp_path / f"{k}.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(
        UserError,
        match=(
            r"no labels: put the files of each class in a sub-folder, or add labels.csv"
        ),
    ):
        read(tmp_path)
    assert read(tmp_path, labelled=False).y is None
    (tmp_path / "labels.csv").write_text("file_name,age\n0.png,1.5\n1.png,2\n2.png,3\n")
    assert labels(read(tmp_path)) == [1.5, 2, 3]
    (tmp_path / "labels.csv").write_text("file_name,age\n0.png,1.5\n1.png,2\n")
    with pytest.raises(
        UserError, match=r"labels.csv, column file_name: no row for the file '2.png'"
    ):
        read(tmp_path)


def test_recordings_get_one_rate_and_one_channel(tmp_path: Path) -> None:
    tone(tmp_path / "low" / "1.wav", 200)
    tone(tmp_path / "low" / "2.wav", 200, channels=2)
    tone(tmp_path / "high" / "3.wav", 800, rate=16000, num_samples=8000)
    data = read(tmp_path)
    assert data.kind_hint == "audio"
    assert data.rate == 8000
    expected = "recordings of several sampling rates, 8000 Hz (2), 16000 Hz (1)"
    assert expected in data.notes[0]
    high, low, low_stereo = samples(data)
    assert high.shape == low.shape == low_stereo.shape == (4000,)
    np.testing.assert_array_equal(low, low_stereo)
    strongest = np.abs(np.fft.rfft(high)).argmax() * 8000 / 4000
    assert strongest == 800
    (tmp_path / "low" / "bad.wav").write_bytes(b"RIFF....WAVE")
    with pytest.raises(UserError, match=r"bad.wav"):
        read(tmp_path)


def test_other_recordings_than_wav(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    (tmp_path / "a").mkdir()
    soundfile.write(tmp_path / "a" / "1.flac", np.zeros(100), 8000)
    assert samples(read(tmp_path))[0].shape == (100,)
    (tmp_path / "a" / "1.flac").write_bytes(b"fLaC" + bytes(30))
    with pytest.raises(UserError, match=r"1.flac: expected a recording"):
        read(tmp_path)
