import contextlib
import io
import struct
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orca_ray.data import npy
from orca_ray.data.npy import Npz, read_npy
from orca_ray.errors import UserError

Array = np.ndarray[Any, Any]


@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_is_mapped(order: Any, tmp_path: Path) -> None:
    array = np.asarray(np.arange(12.0).reshape(3, 4), order=order)
    np.save(tmp_path / "x.npy", array)
    found = read_npy(tmp_path / "x.npy", ndim=2, kind="f")
    assert isinstance(found, np.memmap)
    assert not found.flags.writeable
    np.testing.assert_array_equal(found, array)
    for shape in ((0, 3), ()):
        np.save(tmp_path / "x.npy", np.ones(shape))
        np.testing.assert_array_equal(read_npy(tmp_path / "x.npy"), np.ones(shape))


def test_npy_of_plain_objects(tmp_path: Path) -> None:
    path = tmp_path / "satellite_train.npy"
    content: Any = {"data": np.ones((2, 3)), "label": np.array([1, 2])}
    np.save(path, content, allow_pickle=True)
    found = read_npy(path, pickled=True)
    assert found.shape == ()
    assert found[()]["label"].tolist() == [1, 2]
    with pytest.raises(UserError, match=r"satellite_train\.npy: expected an array of numbers, found pickled objects"):
        read_npy(path)
    np.save(path, np.array([3, "ABC", np.ones((3, 3))], dtype=object), allow_pickle=True)
    assert read_npy(path, pickled=True)[1] == "ABC"
    np.save(path, np.array([Path("x")], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"satellite_train\.npy: it asks for 'pathlib.*refused"):
        read_npy(path, pickled=True)


def _with_header(path: Path, shape: str) -> None:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    path.write_bytes(b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header)


def _object_array_of_another_shape(path: Path) -> None:
    np.save(path, np.array([1, 2, None], dtype=object), allow_pickle=True)
    path.write_bytes(path.read_bytes().replace(b"(3,)", b"(4,)"))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "cannot read"),
        (lambda path: path.write_bytes(b""), "expected the header of a .npy file"),
        (lambda path: path.write_bytes(b"\x80\x04N."), "expected the header of a .npy file"),
        (lambda path: np.save(path, np.ones(3)), "expected an array of 2 axes, found shape"),
        (lambda path: np.save(path, np.ones((3, 1), complex)), "array of integers, floating point, .*found complex128"),
        (lambda path: np.save(path, np.zeros(3, [("a", "i4")])), r"found \[\('a', '<i4'\)\]"),
        (lambda path: np.save(path, np.zeros(3, "M8[s]")), "found datetime64"),
        *[
            (partial(_with_header, shape=shape), "expected the header of a .npy file")
            for shape in ("(" + "-" * 9000 + "1,)", "(" + "1," * 100 + ")", "(-1, 1)", "(" + "9" * 3000 + ",)")
        ],
        (_object_array_of_another_shape, r"of shape \[4\], found \[3\]"),
    ],
)
def test_bad_npy(write: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    write(tmp_path / "x.npy")
    with pytest.raises(UserError, match=rf"x\.npy.*{message}|{message}.*x\.npy"):
        read_npy(tmp_path / "x.npy", ndim=2, kind="if", pickled=True)


def _npy_bytes(array: Array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def test_npy_cut_or_changed_anywhere(tmp_path: Path) -> None:
    content = _npy_bytes(np.arange(6.0))
    for size in range(len(content)):
        (tmp_path / "x.npy").write_bytes(content[:size])
        with pytest.raises(UserError, match=r"x\.npy: expected .*fetch (the file|it) again"):
            read_npy(tmp_path / "x.npy")
        changed = bytearray(content)
        changed[size] ^= 0x15
        with contextlib.suppress(UserError):
            assert len(npy._read_header(io.BytesIO(changed), "x.npy").shape) <= 64


@pytest.mark.parametrize(("save", "in_memory"), [(np.savez, 0), (np.savez_compressed, 0), (np.savez_compressed, 2**20)])
def test_npz_one_by_one(save: Any, in_memory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npy, "IN_MEMORY", in_memory)
    x = np.arange(12.0).reshape(3, 4)
    path = tmp_path / "d.npz"
    save(path, x_train=x, y_train=np.asfortranarray(x), other=np.array([{}], dtype=object))
    found = Npz(path, ["x_train", "y_train"])
    assert list(found) == ["x_train", "y_train"]
    for name in found:
        array = found[name]
        np.testing.assert_array_equal(array, x)
        assert not array.flags.writeable
        assert isinstance(array, np.memmap) == (in_memory == 0)
    with pytest.raises(KeyError):
        found["other"]
    with pytest.raises(UserError, match=r"d\.npz: expected an array 'x', found x_train, y_train, other"):
        Npz(path, ["x_train", "x"])
    with pytest.raises(UserError, match=r"d\.npz, other: expected an array of .*, found object"):
        Npz(path, ["other"])["other"]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_cut_or_changed(save: Any, tmp_path: Path, cache_home: Path) -> None:
    path = tmp_path / "d.npz"
    with pytest.raises(UserError, match="cannot read"):
        Npz(path, ["x"])
    save(path, x=np.random.RandomState(0).rand(50))
    content = path.read_bytes()
    for size in range(0, len(content), 41):
        path.write_bytes(content[:size])
        with pytest.raises(UserError, match=r"d\.npz.*fetch the file again"):
            Npz(path, ["x"])["x"]
    middle = len(content) // 2
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    with pytest.raises(UserError, match=r"d\.npz"):
        Npz(path, ["x"])["x"]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", _npy_bytes(np.ones(3)) + b"more")
    with pytest.raises(UserError, match=r"d\.npz, x: expected 24 bytes for shape \[3\] float64, found 28"):
        Npz(path, ["x"])["x"]
    assert not cache_home.exists() or not list(cache_home.iterdir())
    with pytest.raises(EOFError, match="48 bytes expected, 47 found"):
        npy.from_stream(io.BytesIO(bytes(47)), np.dtype("f8"), (3, 2), "C")
    with pytest.raises(UserError, match="no space"):
        npy.from_stream(io.BytesIO(), np.dtype("f8"), (2**50,), "C")
