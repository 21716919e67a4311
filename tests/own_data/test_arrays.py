"""Files of named arrays: every format gives the same samples, and a wrong file an error that names it."""

import json
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from orca_ray.data.rows import Array
from orca_ray.errors import UserError
from orca_ray.own_data import Options, UserData, read

from .writers import ARRAYS

X = np.random.default_rng(0).normal(size=(20, 3, 7)).astype(np.float32)
Y = np.arange(20) % 3


def arrays(data: UserData) -> Array:
    return np.asarray(cast(Array, data.select(slice(None)).x))


@pytest.mark.parametrize("name", ARRAYS)
def test_every_format_gives_the_same_samples(name: str, tmp_path: Path) -> None:
    if name == "data.zarr":
        pytest.importorskip("zarr")
    ARRAYS[name](tmp_path / name, X, Y)
    data = read(tmp_path / name)
    assert len(data) == 20
    np.testing.assert_array_equal(arrays(data), X)
    np.testing.assert_array_equal(cast(Array, data.y), Y)
    np.testing.assert_array_equal(np.asarray(data.select(np.array([5, 1, 5])).x), X[[5, 1, 5]])
    assert [len(part) for part in data.batches(8)] == [8, 8, 4]


@pytest.mark.parametrize("suffix", ["npz", "npy", "h5", "hdf5", "mat", "pt", "parquet", "csv"])
def test_wrong_content_is_named(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"data.{suffix}"
    for content in (b"", b"PK\x03\x04 nothing", b"\x89HDF\r\n\x1a\n" + bytes(50), b"\0" * 200):
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"data.{suffix}"):
            read(path, Options(target=("y",)))


def test_no_pickle_is_loaded(tmp_path: Path) -> None:
    import torch

    np.savez(tmp_path / "data.npz", x=np.array([{"a": 1}], dtype=object), y=Y[:1])
    with pytest.raises(UserError, match=r"data.npz, x: expected an array of .*, found object"):
        read(tmp_path / "data.npz")
    torch.save({"x": torch.zeros(3), "y": pytest.raises}, tmp_path / "data.pt")
    with pytest.raises(UserError, match=r"expected tensors"):
        read(tmp_path / "data.pt")


def test_unknown_types(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "data.foo").write_text("x")
    for name, expected in (
        ("data.foo", "unknown type of file '.foo'.*NumPy archive"), ("missing.csv", "no such file"),
        ("empty", "no files"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=expected):
            read(tmp_path / name)


@pytest.mark.parametrize(
    ("given", "target", "message"),
    [
        ({"recording": X, "kind": Y}, ("knd",), r"unknown target array 'knd'. Did you mean 'kind'"),
        ({"one": X, "two": X, "y": Y}, (), r"which array are the inputs\? It has one \[20, 3, 7\], two"),
        ({"x": X, "z": Y}, (), r"which array is the target\? It has x \[20, 3, 7\], z \[20\]"),
        ({"x": X, "y": Y[:19]}, (), "data.npz: 20 samples but 19 targets"),
        ({"x_train": X[:12], "y_train": Y[:11], "x_test": X, "y_test": Y}, (), "x_train has 12 samples and y_train 11"),
    ],
)
def test_keys_that_leave_a_question(
    given: dict[str, Array], target: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "data.npz", **given)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=message):
        read(tmp_path / "data.npz", Options(target=target))


def test_keys_by_option_and_by_elimination(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", recording=X, kind=Y, other=np.zeros(3))
    data = read(tmp_path / "a.npz", Options(target=("kind",)))
    assert data.target_names == ("kind",)
    np.testing.assert_array_equal(arrays(data), X)
    assert data.notes == ("not used: other",) or not data.notes
    np.savez(tmp_path / "c.npz", x=X, z=Y)
    assert read(tmp_path / "c.npz", labelled=False).y is None


def test_groups_and_declared_splits(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=X, y=Y, patient=Y * 2)
    data = read(tmp_path / "a.npz", Options(group="patient"))
    np.testing.assert_array_equal(cast(Array, data.groups), Y * 2)
    np.savez(tmp_path / "b.npz", x_train=X[:12], y_train=Y[:12], x_test=X[12:], y_test=Y[12:])
    data = read(tmp_path / "b.npz")
    assert cast(Array, data.splits).tolist() == ["train"] * 12 + ["test"] * 8
    np.testing.assert_array_equal(arrays(data), X)


def test_a_pair_of_files(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    ARRAYS["x.npy"](path, X, Y)
    assert isinstance(read(path).x, np.memmap)
    (tmp_path / "y.npy").rename(tmp_path / "kinds.npy")
    with pytest.raises(UserError, match=r"no targets"):
        read(path)
    data = read(path, Options(target=("kinds.npy",)))
    assert data.y is not None
    with pytest.raises(UserError, match=r"the target's file .*none.npy does not exist"):
        read(path, Options(target=("none.npy",)))
    assert read(path, Options(target=("none.npy",)), labelled=False).y is None


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("x/.zarray", {"filters": [{"id": "pickle"}], "compressor": None}),
        ("x/.zarray", {"filters": None, "compressor": {"id": "pickle"}}),
        (".zmetadata", {"metadata": {"x/.zarray": {"filters": [{"id": "pickle"}]}}}),
        ("x/zarr.json", {"codecs": [{"name": "sharding_indexed", "configuration": {"codecs": [{"name": "pickle"}]}}]}),
    ],
)
def test_no_codec_of_zarr_that_unpickles(file: str, content: object, tmp_path: Path) -> None:
    folder = tmp_path / "a.zarr"
    (folder / "x").mkdir(parents=True)
    (folder / ".zgroup").write_text('{"zarr_format": 2}')
    (folder / file).write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"expected compression by .*, found 'pickle'"):
        read(folder)
