"""Readers of files of arrays: NumPy, MATLAB and HDF5."""

import io
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from orca_ray.data import npy
from orca_ray.data.hdf5 import check_chunks, open_hdf5
from orca_ray.data.hdf5_process import Hdf5Process
from orca_ray.data.matlab import mat5_variables, read_mat, read_mat5
from orca_ray.data.npy import Npz, read_npy
from orca_ray.errors import UserError

Array = np.ndarray[Any, Any]


@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_is_mapped(order: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    array = np.asarray(np.arange(12.0).reshape(3, 4), order=order)
    np.save(path, array)
    mapped = read_npy(path, ndim=2, kind="f")
    assert isinstance(mapped, np.memmap)
    assert not mapped.flags.writeable
    np.testing.assert_array_equal(mapped, array)


@pytest.mark.parametrize("shape", [(0, 3), ()])
def test_npy_of_an_unusual_shape(shape: tuple[int, ...], tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.ones(shape))
    np.testing.assert_array_equal(read_npy(path), np.ones(shape))


def _save_objects(path: Path, content: Any) -> None:
    np.save(path, content, allow_pickle=True)


def test_npy_of_plain_objects(tmp_path: Path) -> None:
    path = tmp_path / "satellite_train.npy"
    _save_objects(path, {"data": np.ones((2, 3)), "label": np.array([1, 2])})
    array = read_npy(path, pickled=True)
    assert array.shape == ()
    assert array[()]["label"].tolist() == [1, 2]
    with pytest.raises(
        UserError,
        match=(
            r"satellite_train\.npy: expected an array of numbers, found pickled objects"
        ),
    ):
        read_npy(path)
    _save_objects(path, np.array([3, "ABC", np.ones((3, 3))], dtype=object))
    assert read_npy(path, pickled=True)[1] == "ABC"
    _save_objects(path, np.array([Path("x")], dtype=object))
    with pytest.raises(
        UserError, match=r"satellite_train\.npy: it asks for 'pathlib.*refused"
    ):
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
        (
            lambda path: np.save(path, np.ones(3)),
            "expected an array of 2 axes, found shape",
        ),
        (
            lambda path: np.save(path, np.ones((3, 1), complex)),
            "array of integers, floating point, .*found complex128",
        ),
        (
            lambda path: np.save(path, np.zeros(3, [("a", "i4")])),
            r"found \[\('a', '<i4'\)\]",
        ),
        (lambda path: np.save(path, np.zeros(3, "M8[s]")), "found datetime64"),
        *[
            (partial(_with_header, shape=shape), "expected the header of a .npy file")
            for shape in (
                "(" + "-" * 9000 + "1,)",
                "(" + "1," * 100 + ")",
                "(-1, 1)",
                "(" + "9" * 3000 + ",)",
            )
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


def test_npy_cut_anywhere(tmp_path: Path) -> None:
    content = _npy_bytes(np.arange(6.0))
    for size in range(len(content)):
        (tmp_path / "x.npy").write_bytes(content[:size])
        with pytest.raises(
            UserError, match=r"x\.npy: expected .*fetch (the file|it) again"
        ):
            read_npy(tmp_path / "x.npy")


@pytest.mark.parametrize(
    ("save", "in_memory"),
    [(np.savez, 0), (np.savez_compressed, 0), (np.savez_compressed, 2**20)],
)
def test_npz_one_by_one(
    save: Any, in_memory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npy, "IN_MEMORY", in_memory)
    x = np.arange(12.0).reshape(3, 4)
    path = tmp_path / "d.npz"
    save(
        path,
        x_train=x,
        y_train=np.asfortranarray(x),
        other=np.array([{}], dtype=object),
    )
    arrays = Npz(path, ["x_train", "y_train"])
    assert list(arrays) == ["x_train", "y_train"]
    for array in arrays.values():
        np.testing.assert_array_equal(array, x)
        assert not array.flags.writeable
        assert isinstance(array, np.memmap) == (in_memory == 0)
    with pytest.raises(KeyError):
        arrays["other"]
    with pytest.raises(
        UserError, match=r"d\.npz: expected an array 'x', found x_train, y_train, other"
    ):
        Npz(path, ["x_train", "x"])
    with pytest.raises(
        UserError, match=r"d\.npz, other: expected an array of .*, found object"
    ):
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
    changed = bytearray(content)
    changed[len(content) // 2] ^= 1
    path.write_bytes(changed)
    with pytest.raises(UserError, match=r"d\.npz"):
        Npz(path, ["x"])["x"]
    assert not cache_home.exists() or not list(cache_home.iterdir())


def test_npz_with_bytes_after_an_array(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", _npy_bytes(np.ones(3)) + b"more")
    with pytest.raises(
        UserError,
        match=r"d\.npz, x: expected 24 bytes for shape \[3\] float64, found 28",
    ):
        Npz(path, ["x"])["x"]


def test_streams_that_end_early_or_declare_too_much() -> None:
    with pytest.raises(EOFError, match="48 bytes expected, 47 found"):
        npy.from_stream(io.BytesIO(bytes(47)), np.dtype("f8"), (3, 2), "C")
    with pytest.raises(UserError, match="no space"):
        npy.from_stream(io.BytesIO(), np.dtype("f8"), (2**50,), "C")


def element(kind: int, content: bytes, endian: str, *, short: bool = False) -> bytes:
    """Return an element of a MATLAB file; a short one has its content in its tag."""
    if short:
        tag = struct.pack(f"{endian}I", len(content) << 16 | kind)
        return tag + content.ljust(4, b"\0")
    tag = struct.pack(f"{endian}II", kind, len(content))
    padding = bytes(-len(content) % 8)
    return tag + content + padding


def compressed_element(content: bytes, endian: str = "<") -> bytes:
    """Return a compressed element, which has no padding."""
    return struct.pack(f"{endian}II", 15, len(content)) + content


def matrix(
    name: bytes,
    class_: int,
    stored: int,
    content: bytes,
    shape: tuple[int, ...],
    endian: str = "<",
) -> bytes:
    """Return a variable as MATLAB writes it: what fits into four bytes is short."""
    flags = struct.pack(f"{endian}II", class_, 0)
    sizes = struct.pack(f"{endian}{len(shape)}i", *shape)
    elements = [
        element(6, flags, endian),
        element(5, sizes, endian),
        element(1, name, endian, short=len(name) <= 4),
        element(stored, content, endian, short=len(content) <= 4),
    ]
    return element(14, b"".join(elements), endian)


def file(*elements: bytes, endian: str = "<") -> bytes:
    """Return a MATLAB file of level 5."""
    text = b"MATLAB 5.0 MAT-file".ljust(124)
    version = struct.pack(f"{endian}H", 0x0100)
    mark = {"<": b"IM", ">": b"MI"}[endian]
    return b"".join([text, version, mark, *elements])


def read(path: Path, name: str) -> Array:
    return read_mat5(path, mat5_variables(path)[name])


@pytest.mark.parametrize(("endian", "compressed"), [("<", True), (">", False)])
def test_numbers_of_a_class_are_stored_in_the_shortest_type(
    endian: str, compressed: bool, tmp_path: Path
) -> None:
    long = matrix(
        b"coefficient",
        6,
        3,
        struct.pack(f"{endian}6h", 3, 12, 3, 12, 3, -300),
        (3, 2),
        endian,
    )
    short = matrix(b"sol", 6, 2, b"\1\2\3", (1, 3), endian)
    elements = [long, short]
    if compressed:
        elements = [
            compressed_element(zlib.compress(content), endian) for content in elements
        ]
    path = tmp_path / "d.mat"
    path.write_bytes(file(*elements, endian=endian))
    variables = mat5_variables(path)
    assert list(variables) == ["coefficient", "sol"]
    assert [variable.kind for variable in variables.values()] == ["f8", "f8"]
    assert variables["coefficient"].shape == (3, 2)
    assert variables["sol"].shape == (1, 3)
    assert read(path, "coefficient").tolist() == [[3, 12], [12, 3], [3, -300]]
    assert read(path, "sol").tolist() == [[1, 2, 3]]


def test_what_is_no_full_array_is_named(tmp_path: Path) -> None:
    content: dict[str, Any] = {
        "char": "abc",
        "cell": np.array([1, "a"], dtype=object),
        "struct": {"a": 1},
        "complex": np.array([1 + 2j]),
        "u1": np.array([True, False]),
        "f8": np.arange(4.0),
    }
    savemat(tmp_path / "d.mat", content)
    variables = mat5_variables(tmp_path / "d.mat")
    assert list(variables) == list(content)
    for name, variable in variables.items():
        assert variable.kind == name
        assert variable.is_numeric == (name in ("u1", "f8"))


def test_variables_of_unknown_classes_are_passed_over(tmp_path: Path) -> None:
    flags = element(6, struct.pack("<II", 17, 0), "<")
    opaque = element(14, flags + element(1, b"MCOS", "<"), "<")
    number = matrix(b"a", 9, 2, b"\7", (1, 1))
    (tmp_path / "d.mat").write_bytes(file(opaque, number))
    assert list(mat5_variables(tmp_path / "d.mat")) == ["a"]


ONE = matrix(b"coeff", 6, 9, struct.pack("<2d", 1, 2), (1, 2))
PACKED = zlib.compress(ONE)


def packed(content: bytes) -> bytes:
    return file(compressed_element(content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (file()[:-2] + b"XX", "no header of level 5"),
        (file(element(99, b"12345678", "<")), "an element of type 99"),
        (file(ONE)[:-1], "an element of type 14 and 72 bytes at byte 128 of 207"),
        (file(matrix(b"a", 6, 8, b"12345678", (1, 1))), "numbers of type 8"),
        (
            file(matrix(b"a", 6, 9, b"12345678", (1, 2))),
            r"8 bytes of float64 for an array 'a' of shape \[1, 2\]",
        ),
        (file(matrix(b"a", 6, 9, b"", (-1, 0))), r"of shape \[-1, 0\]"),
        (file(matrix(b"a", 6, 9, b"12345678", (1,) * 65)), "for an array 'a'"),
        (
            file(matrix(b"a" * 5000, 6, 9, b"12345678", (1, 1))),
            "an element of type 1 and 5000 bytes where type 1 is",
        ),
        (
            file(element(14, element(5, b"12345678", "<"), "<")),
            "an element of type 5 and 8 bytes where type 6 is due",
        ),
        (
            file(element(14, struct.pack("<I", 5 << 16 | 6) + bytes(4), "<")),
            "a short element of 5 bytes",
        ),
        (file(element(14, element(6, b"", "<"), "<")), "IndexError"),
        (packed(b"not zlib"), "incorrect header check"),
        (packed(PACKED[:30]), "Truncated compressed stream"),
        (packed(PACKED[:-1] + bytes([PACKED[-1] ^ 1])), "incorrect data check"),
    ],
)
def test_bad_files(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "d.mat").write_bytes(content)
    with pytest.raises(
        UserError, match=rf"d\.mat: expected a whole MATLAB file.*{message}"
    ):
        read(tmp_path / "d.mat", "coeff")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["0001/data"] = np.arange(6.0)
        file["type"] = np.dtype("f8")
    return tmp_path / "d.h5"


def test_hdf5_is_read(path: Path) -> None:
    with open_hdf5(path, ["0001", "0001/data"]) as file:
        assert file["0001/data"][2:4].tolist() == [2, 3]
    with pytest.raises(ValueError, match="of the caller"), open_hdf5(path):
        raise ValueError("of the caller")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("tensor", r"d\.h5: .*expected key 'tensor', found no 'tensor' but 0001, type"),
        (
            "0001/grid",
            r"d\.h5: .*expected key '0001/grid', found no 'grid' in 0001 but data",
        ),
        ("0001/data/x", r"d\.h5: .*found no 'x' in 0001/data but an array"),
        ("type", r"d\.h5, type: expected data, found Datatype"),
    ],
)
def test_hdf5_without_the_key(key: str, message: str, path: Path) -> None:
    with pytest.raises(UserError, match=message), open_hdf5(path, [key]):
        pass


def test_a_key_that_the_caller_reads_and_hdf5_lacks(path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"d\.h5: expected a whole HDF5"),
        open_hdf5(path) as file,
    ):
        file["tensor"]


def _external_link(file: Any, other: Path) -> None:
    file["tensor"] = h5py.ExternalLink(str(other), "tensor")


def _virtual_over_a_pipe(file: Any, other: Path) -> None:
    pipe = other.with_name("pipe.h5")
    os.mkfifo(pipe)
    layout = h5py.VirtualLayout((3,), "f8", maxshape=(None,))
    source = h5py.VirtualSource(str(pipe), "tensor", (3,), maxshape=(None,))
    all_rows = slice(h5py.h5s.UNLIMITED)
    layout[all_rows] = source[all_rows]
    file.create_virtual_dataset("tensor", layout)


@pytest.mark.parametrize("link", [_external_link, _virtual_over_a_pipe])
def test_hdf5_that_reaches_for_another_file_is_refused(
    link: Callable[[Any, Path], None], tmp_path: Path
) -> None:
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["tensor"] = np.ones(3)
    with h5py.File(tmp_path / "d.h5", "w") as file:
        link(file, tmp_path / "secret.h5")
    message = r"d\.h5, tensor: expected data in the file itself"
    with (
        pytest.raises(UserError, match=message),
        open_hdf5(tmp_path / "d.h5", ["tensor"]),
    ):
        pass


def test_hdf5_cut_anywhere_or_with_a_damaged_chunk(tmp_path: Path) -> None:
    path = tmp_path / "d.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset(
            "tensor", data=np.arange(1000.0), chunks=(100,), compression="gzip"
        )
        place = data.id.get_chunk_info(3).byte_offset
    content = path.read_bytes()
    for size in range(0, len(content), len(content) // 20):
        path.write_bytes(content[:size])
        with (
            pytest.raises(UserError, match=r"d\.h5.*fetch the file again"),
            open_hdf5(path, ["tensor"]) as file,
        ):
            file["tensor"][:]
    path.write_bytes(content[:place] + bytes(20) + content[place + 20 :])
    with open_hdf5(path, ["tensor"]) as file:
        assert file["tensor"][99] == 99
    with (
        pytest.raises(UserError, match=r"d\.h5: expected a whole HDF5 file"),
        open_hdf5(path) as file,
    ):
        file["tensor"][:]


def _write_mat(path: Path, version: str, **arrays: Array) -> None:
    if version == "7.3":
        with h5py.File(path, "w", userblock_size=512) as file:
            for name, array in arrays.items():
                file[name] = "text" if array.dtype.kind == "U" else array.T
    else:
        savemat(path, arrays, format="5", do_compression=version == "7")


@pytest.mark.parametrize(
    ("options", "chunk", "mask", "message"),
    [
        (
            {"compression": "gzip"},
            zlib.compress(b"abcd"),
            0,
            "chunks of 640 bytes, found 4;",
        ),
        ({"compression": "gzip"}, b"abcd", 1, "chunks of 640 bytes, found 4;"),
        ({"compression": "gzip"}, b"abcd", 0, "chunks of 640 bytes, found 0;"),
        (
            {"compression": "gzip", "shuffle": True, "fletcher32": True},
            b"abcdabcd",
            2,
            "chunks of 640 bytes, found 4;",
        ),
        ({"compression": "lzf"}, b"abcd", 0, "expected no filter or gzip, found 'lzf'"),
    ],
    ids=[
        "unfolds to less",
        "without the filter",
        "not compressed",
        "without one of three",
        "another filter",
    ],
)
def test_a_chunk_of_another_size(
    options: Any, chunk: bytes, mask: int, message: str, tmp_path: Path
) -> None:
    """The library ends the process when it reads a chunk shorter than declared."""
    shape = (40, 4)
    with h5py.File(tmp_path / "d.h5", "w") as file:
        dataset = file.create_dataset("tensor", shape, "f4", chunks=shape, **options)
        dataset.id.write_direct_chunk((0, 0), chunk, mask)
    with (
        open_hdf5(tmp_path / "d.h5") as file,
        pytest.raises(UserError, match=rf"d\.h5, tensor: .*{re.escape(message)}"),
    ):
        check_chunks(tmp_path / "d.h5", "tensor", file["tensor"])


@pytest.mark.parametrize(
    "options", [{}, {"compression": "gzip", "shuffle": True, "fletcher32": True}]
)
def test_whole_chunks_pass(options: Any, tmp_path: Path) -> None:
    # gzip would make noise no smaller
    noise = np.random.default_rng(0).integers(256, size=(90, 40), dtype=np.uint8)
    arrays: dict[str, Array] = {
        "noise": noise,
        "zeros": np.zeros((90, 40)),
        "texts": np.array([b"a", b"bc"]),
    }
    path = tmp_path / "d.h5"
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            dataset = file.create_dataset(name, data=array, chunks=True, **options)
            check_chunks(path, name, dataset)


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_texts_are_read(compression: str | None, tmp_path: Path) -> None:
    """The library neither shuffles texts nor checks their sum."""
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file.create_dataset(
            "words",
            data=["wälk", "run"],
            chunks=True,
            dtype=h5py.string_dtype(),
            compression=compression,
        )
    texts = Hdf5Process(tmp_path / "d.h5").read_texts("words")
    assert texts.tolist() == ["wälk", "run"]


@pytest.mark.parametrize("version", ["5", "7", "7.3"])
def test_mat_has_the_axes_of_matlab(version: str, tmp_path: Path) -> None:
    array = np.random.RandomState(0).rand(40, 3, 10)
    path = tmp_path / "d.mat"
    _write_mat(path, version, coeff=array, note=np.array(["text"]))
    rows = read_mat(path, "coeff")
    assert len(rows) == 40
    assert rows.shape == (40, 3, 10)
    assert rows.dtype == np.dtype("f8")
    np.testing.assert_array_equal(rows[1:3], array[1:3])
    np.testing.assert_array_equal(rows[:], array)
    with pytest.raises(UserError, match=r"d\.mat: expected .*'sol'.* coeff"):
        read_mat(path, "sol")
    with pytest.raises(
        UserError, match=r"d\.mat, note: expected a numeric array, found"
    ):
        read_mat(path, "note")


@pytest.mark.parametrize("version", ["5", "7", "7.3"])
def test_mat_cut_anywhere(version: str, tmp_path: Path) -> None:
    path = tmp_path / "d.mat"
    _write_mat(path, version, coeff=np.random.RandomState(0).rand(40, 3, 10))
    content = path.read_bytes()
    for size in (0, 100, 600, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(UserError, match=r"d\.mat.*fetch the file again"):
            read_mat(path, "coeff")[0:2]


def test_a_file_that_may_not_be_read_is_not_taken_for_another_kind(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="cannot read"):
        read_mat(path.with_name("absent.mat"), "coeff")
    monkeypatch.setattr(
        Path, "open", mock.Mock(side_effect=PermissionError(13, "Permission denied"))
    )
    with (
        pytest.raises(UserError, match=r"cannot read .*d\.h5: Permission denied"),
        open_hdf5(path),
    ):
        pass
