import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from orca_ray.data.readers import open_hdf5, read_mat
from orca_ray.errors import UserError

Array = np.ndarray[Any, Any]


def test_hdf5_is_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["0001/data"] = np.arange(6.0)
    with open_hdf5(tmp_path / "d.h5", ["0001", "0001/data"]) as file:
        assert file["0001/data"][2:4].tolist() == [2, 3]


def test_hdf5_without_the_key(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["0001/data"] = np.arange(6.0)
    for key, message in [
        ("tensor", "expected key 'tensor', found no 'tensor' but 0001"),
        ("0001/grid", "expected key '0001/grid', found no 'grid' in 0001 but data"),
        ("0001/data/x", "found no 'x' in 0001/data but an array"),
    ]:
        with pytest.raises(UserError, match=rf"d\.h5: .*{message}"), open_hdf5(tmp_path / "d.h5", [key]):
            pass
    with pytest.raises(UserError, match=r"d\.h5: expected a whole HDF5"), open_hdf5(tmp_path / "d.h5") as file:
        file["tensor"]


def _external_link(file: Any, other: Path) -> None:
    file["tensor"] = h5py.ExternalLink(str(other), "tensor")


def _soft_link_to_a_pipe(file: Any, other: Path) -> None:
    os.mkfifo(other.with_name("pipe.h5"))
    file["z"] = h5py.ExternalLink(str(other.with_name("pipe.h5")), "tensor")
    file["tensor"] = h5py.SoftLink("/z")


def _virtual_over_a_pipe(file: Any, other: Path) -> None:
    os.mkfifo(other.with_name("pipe.h5"))
    layout = h5py.VirtualLayout((3,), "f8", maxshape=(None,))
    source = h5py.VirtualSource(str(other.with_name("pipe.h5")), "tensor", (3,), maxshape=(None,))
    layout[: h5py.h5s.UNLIMITED] = source[: h5py.h5s.UNLIMITED]
    file.create_virtual_dataset("tensor", layout)


def _external_storage(file: Any, other: Path) -> None:
    file.create_dataset("tensor", (3,), "u1", external=[(str(other), 0, 3)])


def _virtual(file: Any, other: Path) -> None:
    layout = h5py.VirtualLayout((3,), "f8")
    layout[:] = h5py.VirtualSource(str(other), "tensor", (3,))
    file.create_virtual_dataset("tensor", layout)


@pytest.mark.parametrize(
    "link", [_external_link, _soft_link_to_a_pipe, _external_storage, _virtual, _virtual_over_a_pipe]
)
def test_hdf5_that_reaches_for_another_file(link: Callable[[Any, Path], None], tmp_path: Path) -> None:
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["tensor"] = np.ones(3)
    with h5py.File(tmp_path / "d.h5", "w") as file:
        link(file, tmp_path / "secret.h5")
    message = r"d\.h5, tensor: expected data in the file itself"
    with pytest.raises(UserError, match=message), open_hdf5(tmp_path / "d.h5", ["tensor"]):
        pass


def test_hdf5_cut_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "d.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("tensor", data=np.random.RandomState(0).rand(100, 20), chunks=(10, 20), compression="gzip")
    content = path.read_bytes()
    for size in range(0, len(content), len(content) // 20):
        path.write_bytes(content[:size])
        with (
            pytest.raises(UserError, match=r"d\.h5.*fetch the file again"),
            open_hdf5(path, ["tensor"]) as file,
        ):
            file["tensor"][:]


def test_hdf5_with_a_damaged_chunk(tmp_path: Path) -> None:
    path = tmp_path / "d.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("tensor", data=np.arange(1000.0), chunks=(100,), compression="gzip")
        place = data.id.get_chunk_info(3).byte_offset
    content = bytearray(path.read_bytes())
    content[place : place + 20] = bytes(20)
    path.write_bytes(content)
    with open_hdf5(path, ["tensor"]) as file:
        assert file["tensor"][99] == 99
    with pytest.raises(UserError, match=r"d\.h5: expected a whole HDF5 file"), open_hdf5(path) as file:
        file["tensor"][:]


def test_hdf5_that_holds_a_type_for_the_data(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["tensor"] = np.dtype("f8")
    message = r"d\.h5, tensor: expected data, found Datatype"
    with pytest.raises(UserError, match=message), open_hdf5(tmp_path / "d.h5", ["tensor"]):
        pass


def test_hdf5_leaves_other_errors_alone(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["tensor"] = np.ones(3)
    with pytest.raises(ValueError, match="of the caller"), open_hdf5(tmp_path / "d.h5"):
        raise ValueError("of the caller")


def _write_mat(path: Path, name: str, array: Array, version: str) -> None:
    if version == "7.3":
        with h5py.File(path, "w", userblock_size=512) as file:
            file[name] = array.T
    else:
        from scipy.io import savemat

        savemat(path, {name: array}, format="5", do_compression=version == "7")


mat_versions = pytest.mark.parametrize("version", ["5", "7", "7.3"])


@mat_versions
def test_mat_has_the_axes_of_matlab(version: str, tmp_path: Path) -> None:
    array = np.arange(24.0).reshape(4, 3, 2)
    _write_mat(tmp_path / "d.mat", "coeff", array, version)
    found = read_mat(tmp_path / "d.mat", "coeff")
    assert found.shape == (4, 3, 2)
    assert found.dtype == np.float64
    assert len(found) == 4
    np.testing.assert_array_equal(found[1:3], array[1:3])
    np.testing.assert_array_equal(found[:], array)


@mat_versions
def test_mat_that_lacks_the_name_or_is_cut(version: str, tmp_path: Path) -> None:
    path = tmp_path / "d.mat"
    _write_mat(path, "coeff", np.random.RandomState(0).rand(40, 30), version)
    with pytest.raises(UserError, match=r"d\.mat: expected .*'sol'.* coeff"):
        read_mat(path, "sol")
    content = path.read_bytes()
    for size in (0, 100, 600, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(UserError, match=r"d\.mat.*fetch the file again"):
            read_mat(path, "coeff")[0:2]


@mat_versions
def test_mat_that_holds_no_numbers(version: str, tmp_path: Path) -> None:
    path = tmp_path / "d.mat"
    if version == "7.3":
        with h5py.File(path, "w") as file:
            file["coeff"] = "text"
    else:
        _write_mat(path, "coeff", np.array(["text"]), version)
    with pytest.raises(UserError, match=r"d\.mat, coeff: expected a numeric array, found"):
        read_mat(path, "coeff")


def test_a_missing_mat(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read"):
        read_mat(tmp_path / "d.mat", "coeff")


def test_a_file_that_may_not_be_read_is_not_taken_for_another_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["tensor"] = np.arange(6.0)
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"cannot read .*d\.h5: Permission denied"), open_hdf5(tmp_path / "d.h5"):
        pass
