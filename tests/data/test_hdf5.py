import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from orca_ray.data.readers import open_hdf5, read_mat
from orca_ray.errors import UserError

Array = np.ndarray[Any, Any]


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
        ("0001/grid", r"d\.h5: .*expected key '0001/grid', found no 'grid' in 0001 but data"),
        ("0001/data/x", r"d\.h5: .*found no 'x' in 0001/data but an array"),
        ("type", r"d\.h5, type: expected data, found Datatype"),
    ],
)
def test_hdf5_without_the_key(key: str, message: str, path: Path) -> None:
    with pytest.raises(UserError, match=message), open_hdf5(path, [key]):
        pass
    if key == "tensor":
        with pytest.raises(UserError, match=r"d\.h5: expected a whole HDF5"), open_hdf5(path) as file:
            file[key]


def _external_link(file: Any, other: Path) -> None:
    file["tensor"] = h5py.ExternalLink(str(other), "tensor")


def _virtual_over_a_pipe(file: Any, other: Path) -> None:
    os.mkfifo(other.with_name("pipe.h5"))
    layout = h5py.VirtualLayout((3,), "f8", maxshape=(None,))
    source = h5py.VirtualSource(str(other.with_name("pipe.h5")), "tensor", (3,), maxshape=(None,))
    layout[: h5py.h5s.UNLIMITED] = source[: h5py.h5s.UNLIMITED]
    file.create_virtual_dataset("tensor", layout)


@pytest.mark.parametrize("link", [_external_link, _virtual_over_a_pipe])
def test_hdf5_that_reaches_for_another_file(link: Callable[[Any, Path], None], tmp_path: Path) -> None:
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["tensor"] = np.ones(3)
    with h5py.File(tmp_path / "d.h5", "w") as file:
        link(file, tmp_path / "secret.h5")
    message = r"d\.h5, tensor: expected data in the file itself"
    with pytest.raises(UserError, match=message), open_hdf5(tmp_path / "d.h5", ["tensor"]):
        pass


def test_hdf5_cut_anywhere_or_with_a_damaged_chunk(tmp_path: Path) -> None:
    path = tmp_path / "d.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("tensor", data=np.arange(1000.0), chunks=(100,), compression="gzip")
        place = data.id.get_chunk_info(3).byte_offset
    content = path.read_bytes()
    for size in range(0, len(content), len(content) // 20):
        path.write_bytes(content[:size])
        with pytest.raises(UserError, match=r"d\.h5.*fetch the file again"), open_hdf5(path, ["tensor"]) as file:
            file["tensor"][:]
    path.write_bytes(content[:place] + bytes(20) + content[place + 20 :])
    with open_hdf5(path, ["tensor"]) as file:
        assert file["tensor"][99] == 99
    with pytest.raises(UserError, match=r"d\.h5: expected a whole HDF5 file"), open_hdf5(path) as file:
        file["tensor"][:]


def _write_mat(path: Path, version: str, **arrays: Array) -> None:
    if version == "7.3":
        with h5py.File(path, "w", userblock_size=512) as file:
            for name, array in arrays.items():
                file[name] = "text" if array.dtype.kind == "U" else array.T
    else:
        savemat(path, arrays, format="5", do_compression=version == "7")


@pytest.mark.parametrize("version", ["5", "7", "7.3"])
def test_mat_has_the_axes_of_matlab(version: str, tmp_path: Path) -> None:
    array = np.random.RandomState(0).rand(40, 3, 10)
    path = tmp_path / "d.mat"
    _write_mat(path, version, coeff=array, note=np.array(["text"]))
    found = read_mat(path, "coeff")
    assert (found.shape, found.dtype, len(found)) == ((40, 3, 10), np.float64, 40)
    np.testing.assert_array_equal(found[1:3], array[1:3])
    np.testing.assert_array_equal(found[:], array)
    with pytest.raises(UserError, match=r"d\.mat: expected .*'sol'.* coeff"):
        read_mat(path, "sol")
    with pytest.raises(UserError, match=r"d\.mat, note: expected a numeric array, found"):
        read_mat(path, "note")
    _write_mat(path, version, coeff=array)
    content = path.read_bytes()
    for size in (0, 100, 600, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(UserError, match=r"d\.mat.*fetch the file again"):
            read_mat(path, "coeff")[0:2]


def test_a_file_that_may_not_be_read_is_not_taken_for_another_kind(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with pytest.raises(UserError, match="cannot read"):
        read_mat(path.with_name("absent.mat"), "coeff")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"cannot read .*d\.h5: Permission denied"), open_hdf5(path):
        pass
