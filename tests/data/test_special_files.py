"""Paths that would block, never end, or lead elsewhere; files that declare far more than they hold."""

import contextlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from orca_ray.data import archives, cache, prepared, readers, safe_pickle
from orca_ray.data.archives import open_gzip, read_whole, unpack
from orca_ray.data.download import Patience
from orca_ray.data.fetch import fetch, hash_file
from orca_ray.data.hdf5 import open_hdf5, read_mat
from orca_ray.data.npy import Npz, read_npy
from orca_ray.data.raw import PINS, Pin, Pins, RawFile, Workspace
from orca_ray.errors import UserError
from tests.data.faulty_server import serving

READERS: dict[str, Callable[[Path], Any]] = {
    "npy": read_npy,
    "npz": lambda path: Npz(path, ["x"]),
    "hdf5": lambda path: open_hdf5(path).__enter__(),
    "mat": lambda path: read_mat(path, "x"),
    "wav": lambda path: readers.read_wav(path, 22050),
    "csv": lambda path: readers.read_csv(path, ["x"]),
    "lines": readers.read_lines,
    "pickle": lambda path: safe_pickle.load(path, "records"),
    "gzip": open_gzip,
    "archive": lambda path: unpack(path, path.parent / "out"),
    "whole": read_whole,
    "hash": hash_file,
    "raw file": lambda path: Workspace("big/toy", path.parent, path.parent).file(path.name),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_what_could_block_or_never_end_is_not_opened(read: Callable[[Path], Any], tmp_path: Path) -> None:
    paths = [tmp_path / kind / "raw" for kind in ("pipe", "device", "system", "directory")]
    for path in paths:
        path.parent.mkdir()
    pipe, device, system, directory = paths
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    system.symlink_to("/proc/self/status")
    directory.mkdir()
    if read is READERS["raw file"]:  # which may be a directory
        assert read(paths.pop()) == directory
    for path in paths:
        with pytest.raises(UserError, match=r"cannot read .*/raw: expected a regular file"):
            read(path)


def test_a_fifo_in_the_place_of_the_output_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "out")
    with pytest.raises(UserError, match=r"/out is not empty and holds no prepared data"):
        prepared.prepare("big/toy", tmp_path / "out", lambda _: {}, users=True)
    assert stat.S_ISFIFO((tmp_path / "out").stat().st_mode)


def _partial_directory(place: Path, target: Path) -> None:
    (place / ".partial-out").symlink_to(target.parent)
    prepared.prepare("big/toy", place / "out", lambda _: {}, users=True)


def _part(place: Path, target: Path) -> None:
    (place / "a.part").symlink_to(target)
    with serving() as server:
        file = RawFile(path="a", urls=(server.add("a", b"content"),), num_bytes=7)
        fetch([file], place, patience=Patience(tries=1))


def _lock_file(place: Path, target: Path) -> None:
    (place / f"{PINS}.tmp").symlink_to(target)
    Pins(place).add("x", Pin("a" * 64, 3))


@pytest.mark.parametrize(
    ("use", "refused"),
    [
        (_partial_directory, "is where an unfinished build is stored, and it is a link.*remove it"),
        (_part, "is a symbolic link, and no file is written through it.*remove it"),
        (_lock_file, ""),
    ],
)
def test_a_planted_link_with_the_name_of_a_scratch_file_keeps_its_target(
    use: Callable[[Path, Path], None], refused: str, tmp_path: Path
) -> None:
    place, target = tmp_path / "place", tmp_path / "elsewhere" / "thesis.npy"
    place.mkdir()
    target.parent.mkdir()
    target.write_bytes(b"years of work")
    with pytest.raises(UserError, match=refused) if refused else contextlib.nullcontext():
        use(place, target)
    assert target.read_bytes() == b"years of work"
    assert os.listdir(target.parent) == ["thesis.npy"]


@pytest.mark.parametrize(("shape", "chunks", "declared"), [((2**33,), (2**20,), 2**35), ((1,), (2**29,), 2**31)])
def test_hdf5_that_declares_more_than_it_stores(
    shape: tuple[int], chunks: tuple[int], declared: int, tmp_path: Path
) -> None:
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file.create_dataset("x", shape, "f4", chunks=chunks, maxshape=(None,))
    message = rf"d\.h5.*unfolds to more than 200 times its size, x: {declared} bytes are declared, 0 are stored"
    for name in ("hdf5", "mat"):
        with pytest.raises(UserError, match=message):
            READERS[name](tmp_path / "d.h5")


def test_compressed_arrays_that_expand_without_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_ANY_RATIO_BYTES", 2**20)
    zeros = np.zeros((2, 2**19))
    np.savez_compressed(tmp_path / "d.npz", x=zeros)
    savemat(tmp_path / "d.mat", {"x": zeros}, do_compression=True)
    message = r"/d\.{}.*unfolds to more than 200 times its size, x: 83\d+ bytes are declared, \d+ are stored"
    with pytest.raises(UserError, match=message.format("npz")):
        Npz(tmp_path / "d.npz", ["x"])["x"]
    with pytest.raises(UserError, match=message.format("mat")):
        read_mat(tmp_path / "d.mat", "x")[:]
    with pytest.raises(UserError, match=r"/d\.npz: unfolds to more than 200 times"):
        read_whole(tmp_path / "d.npz")
    assert not cache.home().exists()
