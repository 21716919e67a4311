"""Files of named arrays: every format gives the same samples, and a wrong file an error that names it."""

import json
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from orca_ray.data.rows import Array
from orca_ray.errors import UserError
from orca_ray.own_data import Options, UserData, read

from .writers import ARRAYS, npy, npz

X = np.random.default_rng(0).normal(size=(20, 3, 7)).astype(np.float32)
Y = np.arange(20) % 3


def arrays(data: UserData) -> Array:
    return np.asarray(cast(Array, data.select(slice(None)).x))


@pytest.mark.parametrize("name", ARRAYS)
def test_every_format_gives_the_same_samples(name: str, tmp_path: Path) -> None:
    if name == "zarr":
        pytest.importorskip("zarr")
    data = read(ARRAYS[name](tmp_path, X, Y))
    assert len(data) == 20
    np.testing.assert_array_equal(arrays(data), X)
    assert data.y is not None
    np.testing.assert_array_equal(data.y, Y)
    chosen = data.select(np.array([5, 1, 5]))
    np.testing.assert_array_equal(np.asarray(chosen.x), X[[5, 1, 5]])
    assert [len(part) for part in data.batches(8)] == [8, 8, 4]


@pytest.mark.parametrize("suffix", ["npz", "npy", "h5", "hdf5", "mat", "pt", "parquet", "csv"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nothing", b"\x89HDF\r\n\x1a\n" + bytes(50), b"\0" * 200])
def test_wrong_content_is_named(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"data.{suffix}"
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


@pytest.mark.parametrize(
    ("name", "expected"),
    [("data.foo", "unknown type of file '.foo'.*NumPy archive"), ("missing.csv", "no such file"), (".", "no files")],
)
def test_unknown_types(name: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    if name == "data.foo":
        (tmp_path / name).write_text("x")
    with pytest.raises(UserError, match=expected):
        read(tmp_path / "empty" if name == "." else tmp_path / name)


def test_unequal_lengths(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data.npz: 20 samples but 19 targets"):
        read(npz(tmp_path, X, Y[:19]))


def test_keys_by_option_and_by_elimination(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", recording=X, kind=Y, other=np.zeros(3))
    data = read(tmp_path / "a.npz", Options(target=("kind",)))
    assert data.target_names == ("kind",)
    np.testing.assert_array_equal(arrays(data), X)
    assert data.notes == ("not used: other",) or not data.notes
    with pytest.raises(UserError, match=r"unknown target array 'knd'. Did you mean 'kind'"):
        read(tmp_path / "a.npz", Options(target=("knd",)))
    np.savez(tmp_path / "b.npz", one=X, two=X, y=Y)
    with pytest.raises(UserError, match=r"which array are the inputs\? It has one \[20, 3, 7\], two"):
        read(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", x=X, z=Y)
    with pytest.raises(UserError, match=r"which array is the target\? It has x \[20, 3, 7\], z \[20\]"):
        read(tmp_path / "c.npz")
    assert read(tmp_path / "c.npz", labelled=False).y is None


def test_groups_and_declared_splits(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=X, y=Y, patient=Y * 2)
    data = read(tmp_path / "a.npz", Options(group="patient"))
    assert data.groups is not None
    np.testing.assert_array_equal(data.groups, Y * 2)
    np.savez(tmp_path / "b.npz", x_train=X[:12], y_train=Y[:12], x_test=X[12:], y_test=Y[12:])
    data = read(tmp_path / "b.npz")
    assert data.splits is not None
    assert data.splits.tolist() == ["train"] * 12 + ["test"] * 8
    np.testing.assert_array_equal(arrays(data), X)
    np.savez(tmp_path / "c.npz", x_train=X[:12], y_train=Y[:11], x_test=X[12:], y_test=Y[12:])
    with pytest.raises(UserError, match=r"x_train has 12 samples and y_train 11"):
        read(tmp_path / "c.npz")


def test_a_pair_of_files(tmp_path: Path) -> None:
    path = npy(tmp_path, X, Y)
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
