"""Files of arrays that declare more than they hold, are damaged, or no arrays; and the fuzzer of all readers."""

import gzip
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from orca_ray.data import archives
from orca_ray.errors import UserError
from orca_ray.own_data import read

from .writers import arrow_folder, hdf5, write_zarr

X, Y = np.ones((20, 3, 7), np.float32), np.arange(20) % 3


def zarr(folder: Path, change: Callable[[Path], object] = os.unlink, old: str = "", new: str = "") -> Path:
    library = pytest.importorskip("zarr")
    write_zarr(folder / "a.zarr", X, Y, compressors=library.codecs.GzipCodec())
    described = folder / "a.zarr/x/zarr.json"
    described.write_text(described.read_text().replace(old, new, 1))
    change(folder / "a.zarr/x/c/0/0/0")
    return folder / "a.zarr"


def pipe(chunk: Path) -> None:
    chunk.unlink()
    os.mkfifo(chunk)


def link(chunk: Path) -> None:
    chunk.parent.rename(chunk.parents[3] / "elsewhere")
    chunk.parent.symlink_to(chunk.parents[3] / "elsewhere")


def pt(folder: Path, x: object) -> Path:
    with warnings.catch_warnings(action="ignore"):
        torch.save({"x": x, "y": torch.tensor(Y)}, folder / "a.pt")
    return folder / "a.pt"


def hdf(folder: Path, **content: Any) -> Path:
    hdf5(folder / "a.h5", **{"x": X, "y": Y, **content})
    return folder / "a.h5"


def texts(folder: Path, *, same: bool) -> Path:
    """Write targets that all name one long text, or whose heap has free space of no size."""
    path = hdf(folder, y=np.array(["b" * 10_000, *"a" * 399], dtype=object))
    with h5py.File(path) as file:
        start = file["y"].id.get_offset()
    content = bytearray(path.read_bytes())
    if same:
        content[start : start + 6400] = content[start : start + 16] * 400
    else:
        heap = content.index(b"GCOL")
        content[heap + 16 : heap + 32] = bytes(16)
    path.write_bytes(content)
    return path


def saved(folder: Path, name: str, old: bytes, new: bytes) -> Path:
    """Write a compressed data set on disk, then change one of its files."""
    frame, path = pd.DataFrame({"a": np.zeros(1000), "y": np.arange(1000) % 2}), folder / "saved"
    arrow_folder(path, frame, {"y": {"_type": "ClassLabel", "names": ["n", "p"]}})
    table, options = pa.Table.from_pandas(frame, preserve_index=False), pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(str(path / "data-00000-of-00001.arrow"), table.schema, options=options) as stream:
        stream.write_table(table)
    assert len(read(path)) == 1000
    content = (path / name).read_bytes()
    assert old in content
    (path / name).write_bytes(content.replace(old, new))
    return path


def npz(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "a.npz", **arrays)
    content = (folder / "a.npz").read_bytes()
    (folder / "a.npz").write_bytes(content.replace(b"z.npy", b"x.npy"))
    return folder / "a.npz"


ARROW = "data-00000-of-00001.arrow"


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda at: zarr(at, lambda chunk: chunk.write_bytes(b"no gzip")), "a.zarr, x: expected whole chunks"),
        (lambda at: zarr(at, lambda chunk: chunk.write_bytes(gzip.compress(bytes(2**20)))), "zarr, x: a chunk unfolds"),
        (lambda at: zarr(at, pipe), "not a regular file|pipe"),
        (lambda at: zarr(at, link), "expected a folder, found a link"),
        (lambda at: zarr(at, lambda _: None, "\n        4,", "\n        4000000,"), "unfolds .*, x: 336000000 bytes"),
        (lambda at: zarr(at, old='"attributes": {}', new=f'"attributes": {{"a": {"[" * 400}{"]" * 400}}}'), ""),
        (lambda at: hdf(at, **{"/".join("g" * 80): X}), "expected groups in at most 64 others, found g/g"),
        (lambda at: texts(at, same=True), "unfolds to more than 200 times its size, y"),
        (lambda at: texts(at, same=False), "a.h5: expected a whole HDF5 file, found damaged texts"),
        (lambda at: hdf(at, x=X[:, :0]), r"x: expected samples, found shape \[20, 0, 7\]"),
        (lambda at: pt(at, torch.zeros(1).expand(20, 2**20)), "unfolds to more than 200 times its size, x"),
        (lambda at: pt(at, torch.zeros(20, 3).to(torch.float8_e4m3fn)), "x: expected numbers that NumPy has, found"),
        (lambda at: pt(at, torch.zeros(20, 3, dtype=torch.cfloat).conj()), "x: expected inputs .* of real numbers"),
        (lambda at: pt(at, torch.zeros(20, 3, device="meta")), "x: expected a dense tensor, found meta"),
        (lambda at: pt(at, torch.nested.nested_tensor([torch.zeros(3)])), "x: expected a dense tensor, found a nested"),
        (lambda at: pt(at, pytest.raises), "expected tensors"),
        (lambda at: pt(at, bytearray(9)), "expected tensors, found .*bytearray"),
        (lambda at: saved(at, ARROW, (8000).to_bytes(8, "little"), (2**40).to_bytes(8, "little")), "unfolds to more"),
        (lambda at: saved(at, "state.json", b'[{"filename"', b'{"filename"'), "state.json"),
        (lambda at: saved(at, "state.json", b'"data-00000-of-00001.arrow"', b"1.5"), "expected names of files"),
        (lambda at: saved(at, "dataset_info.json", b'["n", "p"]', b"2.5"), ""),
        (lambda at: npz(at, x=np.array([{"a": 1}], dtype=object), y=Y[:1]), "x: expected an array .*, found object"),
        (lambda at: npz(at, x=X[:, :0], y=Y), r"x: expected samples, found shape \[20, 0, 7\]"),
        (lambda at: npz(at, x=X, y=Y, z=X), "expected arrays of different names, found two named 'x'"),
    ],
)  # fmt: skip
def test_what_is_no_plain_array_is_named(
    write: Callable[[Path], Path], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "_ANY_RATIO_BYTES", 2**16)
    path = write(tmp_path)
    if not message:
        assert read(path).select(slice(None)).y is not None
        return
    with pytest.raises(UserError, match=message):
        read(path).select(slice(None))


def test_only_the_data_set_that_is_read_is_checked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []
    path = hdf(tmp_path, **{f"more/{number}": Y for number in range(50)})
    monkeypatch.setattr("orca_ray.data.hdf5._check_growth", lambda _, name, found: checked.append(name))
    data = read(path)
    assert len(checked) == 53, "all once, then the targets"
    data.select(np.array([3, 5]))
    assert checked[53:] == ["x"]


@pytest.mark.slow
@pytest.mark.parametrize("mutations", [320, pytest.param(20_000, marks=pytest.mark.exhaustive)])
def test_mutated_files_of_every_kind_are_read_or_refused(mutations: int) -> None:
    command = [sys.executable, "-m", "benchmarks.fuzz_readers", "--mutations", str(mutations), "--seed", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
