"""Archives, and paths and files that are hostile.

Such paths would block, never end, or lead elsewhere; such files declare more than they
hold.
"""

import contextlib
import gzip
import io
import os
import random
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from orca_ray.data import archives, cache, prepared, readers, safe_pickle
from orca_ray.data.archives import open_gzip, read_whole, unpack
from orca_ray.data.download import Patience
from orca_ray.data.fetch import fetch
from orca_ray.data.hdf5 import open_hdf5
from orca_ray.data.matlab import read_mat
from orca_ray.data.npy import Npz, read_npy
from orca_ray.data.raw import PINS, Pin, Pins, RawFile, Workspace, hash_file
from orca_ray.errors import UserError
from tests.data.faulty_server import serving

Files = dict[str, bytes]
Write = Callable[[Path, Iterable[tuple[str, bytes]]], None]

FILES: Files = {
    "cifar/train": random.Random(0).randbytes(5000),
    "cifar/deep/test": b"test",
    "cifar/empty": b"",
}


def write_tar(path: Path, files: Iterable[tuple[str, bytes]], mode: str = "w") -> None:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


write_tar_gz = partial(write_tar, mode="w:gz")


def write_zip(path: Path, files: Iterable[tuple[str, bytes]]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files:
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)


WRITERS = {"tar": write_tar, "tar.gz": write_tar_gz, "zip": write_zip}
every_kind = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)


def contents(directory: Path) -> Files:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


@every_kind
def test_what_was_packed_is_unpacked_beside_what_is_there(
    write: Write, tmp_path: Path
) -> None:
    (tmp_path / "raw" / "cifar").mkdir(parents=True)
    old_files = {"cifar/train": b"old", "cifar/mine": b"mine"}
    for name, content in old_files.items():
        (tmp_path / "raw" / name).write_bytes(content)
    write(tmp_path / "archive", FILES.items())
    with pytest.raises(
        UserError,
        match=r"raw/cifar/train is there with another content, and is not replaced",
    ):
        unpack(tmp_path / "archive", tmp_path / "raw")
    assert contents(tmp_path / "raw") == old_files
    (tmp_path / "raw" / "cifar" / "train").write_bytes(FILES["cifar/train"])
    unpack(tmp_path / "archive", tmp_path / "raw")
    assert contents(tmp_path / "raw") == {**FILES, "cifar/mine": b"mine"}
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["cifar"]


def test_a_move_that_was_cut_short_lacks_what_is_required_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "raw"
    write_tar(tmp_path / "a.tar", [("a/1", b"1"), ("b", b"2"), ("c", b"3")])
    with monkeypatch.context() as patch:
        cut = [mock.DEFAULT, mock.DEFAULT, KeyboardInterrupt]
        patch.setattr(os, "replace", mock.Mock(wraps=os.replace, side_effect=cut))
        with pytest.raises(KeyboardInterrupt):
            unpack(tmp_path / "a.tar", raw, required="a/1")
    assert contents(raw) == {"b": b"2", "c": b"3"}
    unpack(tmp_path / "a.tar", raw, required="a/1")
    assert contents(raw) == {"a/1": b"1", "b": b"2", "c": b"3"}


def test_directories_a_dot_in_front_and_an_old_type_of_files(tmp_path: Path) -> None:
    (tmp_path / "in" / "empty").mkdir(parents=True)
    (tmp_path / "in" / "file").write_bytes(b"x" * 2**21)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "in", ".")
        odd = tarfile.TarInfo("odd")
        odd.type = tarfile.CONTTYPE
        archive.addfile(odd)
    reports: list[int] = []
    raw = tmp_path / "raw"
    unpack(tmp_path / "a.tar", raw, lambda num_bytes, _: reports.append(num_bytes))
    assert sorted(os.listdir(raw)) == ["empty", "file", "odd"]
    assert reports == [2**20, 2**21]


def _member(path: Path, kind: bytes) -> None:
    member = tarfile.TarInfo("odd")
    member.type = kind
    member.linkname = "good"
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("good"))
        archive.addfile(member)


def _zip_member(path: Path, mode: int, flags: int = 0) -> None:
    info = zipfile.ZipInfo("odd")
    info.external_attr = mode << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, "/etc/passwd")
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= flags
    path.write_bytes(content)


def _zeros_behind_the_end(path: Path) -> None:
    write_tar(path, FILES.items())
    path.write_bytes(gzip.compress(path.read_bytes() + bytes(16 * 2**20)))


def _declares_much(path: Path, kind: bytes, num_bytes: int) -> None:
    member = tarfile.TarInfo("huge")
    member.type = kind
    member.size = num_bytes
    path.write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(10_000))


def _sparse(path: Path) -> None:
    member = tarfile.TarInfo("huge")
    member.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.realsize": str(2**50),
    }
    member.size = 512
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(member, io.BytesIO(b"0\n".ljust(512, b"\0")))


def _declares_little(path: Path) -> None:
    write_zip(path, [("a", bytes(100_000))])
    content = path.read_bytes()
    size = struct.pack("<I", 100_000)
    path.write_bytes(content.replace(size, struct.pack("<I", 100)))


OURS = (
    "orca-data.lock.json",
    "./orca-data.lock.json",
    ".locks/a.lock",
    ".tmp-1/a",
    ".unpack-1/a",
    ".LOCKS/b",
)
OUTSIDE = (
    "../out",
    "a/../../out",
    "/tmp/out",
    "..\\out",
    "C:\\out",
    "a/..",
    "a\\..\\b/x",
    "\\\\host/a",
)
BOMB = "unfolds to more than 200 times its size"
Case = tuple[Callable[[Path], object], str]
"""Writer of an archive, and the error that it gives."""


def _name_cases() -> Iterator[Case]:
    for write in (write_tar_gz, write_zip):
        for name in OURS:
            files = [("good", b"1"), (name, b"{}")]
            message = "archive, '.*a name of orca-ray's own files; refused"
            yield partial(write, files=files), message
        for name in OUTSIDE:
            files = [("good", b"1"), (name, b"{}")]
            yield partial(write, files=files), "archive, '.*a path below the dir"


def _kind_cases() -> Iterator[Case]:
    kinds = {
        tarfile.SYMTYPE: "symbolic link",
        tarfile.LNKTYPE: "hard link",
        tarfile.CHRTYPE: "device",
        tarfile.BLKTYPE: "device",
        tarfile.FIFOTYPE: "pipe",
        b"Z": "member of type b'Z'",
    }
    expected = "archive, 'odd': expected files and directories"
    for kind, name in kinds.items():
        yield partial(_member, kind=kind), f"{expected}, found a {name}; refused"


def _same_name_cases() -> Iterator[Case]:
    for write in (write_tar, write_zip):
        for files in (
            [("a", b"1"), ("a/b", b"2")],
            [("a/b", b"1"), ("a", b"2")],
        ):
            message = "a file and a directory have the same name"
            yield partial(write, files=files), message


def _content_cases() -> Iterator[Case]:
    for content in (b"", b"hello", b"\x1f\x8b", b"PK\x03\x04"):
        message = r"archive: expected a whole (archive|gzip file)"
        yield partial(Path.write_bytes, data=content), message


REFUSED: list[Case] = [
    *_name_cases(),
    *_kind_cases(),
    (partial(_zip_member, mode=0o120777), "archive, 'odd'.*found a symbolic link"),
    (
        partial(_zip_member, mode=0o060600),
        "archive, 'odd'.*found a device, pipe or socket",
    ),
    (
        partial(_zip_member, mode=0o100600, flags=1),
        "archive, 'odd'.*found an encrypted one",
    ),
    (_sparse, "'huge': expected files and directories, found a sparse file"),
    *_same_name_cases(),
    (partial(write_tar_gz, files=[("good", b"1"), ("zeros", bytes(2**24))]), BOMB),
    (partial(write_zip, files=[("good", b"1"), ("zeros", bytes(2**24))]), BOMB),
    (_zeros_behind_the_end, BOMB),
    (
        partial(_declares_much, kind=tarfile.REGTYPE, num_bytes=2**60),
        f"{BOMB} at 'huge'",
    ),
    (
        partial(_declares_much, kind=tarfile.GNUTYPE_LONGNAME, num_bytes=2**33),
        "a header of 8589934592 bytes",
    ),
    (_declares_little, r"expected a whole archive.*CRC"),
    (lambda path: None, r"cannot read .*no such file"),
    *_content_cases(),
]


@pytest.mark.parametrize(("write", "message"), REFUSED)
def test_what_is_refused_leaves_nothing(
    write: Callable[[Path], object],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The limit of 256 MB is too much to write in a test.
    monkeypatch.setattr(archives, "_ANY_RATIO_BYTES", 2**20)
    write(tmp_path / "archive")
    with pytest.raises(UserError, match=message):
        unpack(tmp_path / "archive", tmp_path / "raw")
    assert not (tmp_path / "raw").exists() or list((tmp_path / "raw").iterdir()) == []


def test_links_and_directories_that_are_there_stay(tmp_path: Path) -> None:
    (tmp_path / "raw" / "a").mkdir(parents=True)
    (tmp_path / "raw" / "b").symlink_to(tmp_path / "on-another-disk")
    for name, message in (
        ("a", "raw/a is in the way"),
        ("b", "raw/b is there with another content"),
    ):
        write_tar(tmp_path / "a.tar", [(name, b"1")])
        with pytest.raises(UserError, match=message):
            unpack(tmp_path / "a.tar", tmp_path / "raw")
    assert (tmp_path / "raw" / "b").is_symlink()


@every_kind
def test_more_than_is_free(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=5001))
    write(tmp_path / "archive", FILES.items())
    with pytest.raises(
        UserError,
        match=(
            r"no space left at 'cifar/deep/test': 5004 bytes are unpacked by then, 5001"
        ),
    ):
        unpack(tmp_path / "archive", tmp_path / "raw")
    assert list((tmp_path / "raw").iterdir()) == []


@every_kind
def test_an_archive_cut_or_changed_anywhere_leaves_nothing(
    write: Write, tmp_path: Path
) -> None:
    path = tmp_path / "archive"
    write(path, FILES.items())
    content = path.read_bytes()
    # A tar is padded to 10,240 bytes after the two blocks of its end mark; what counts
    # ends at the first.
    end = len(content) if write is not write_tar else 5 * 512 + 5120
    for size in [*range(0, end - 1, 97), end - 1]:
        path.write_bytes(content[:size])
        with pytest.raises(UserError, match=r"expected a whole (archive|gzip file)"):
            unpack(path, tmp_path / "raw")
        assert list((tmp_path / "raw").iterdir()) == []
    if write is write_tar:  # without checksums
        return
    for position in range(0, end, 41):
        path.write_bytes(
            content[:position]
            + bytes([content[position] ^ 0x55])
            + content[position + 1 :]
        )
        with contextlib.suppress(UserError):
            unpack(path, tmp_path / f"raw{position}")
        # What no checksum of a zip covers may differ: a time, a mode, a name.
        assert set(FILES.values()) >= set(
            contents(tmp_path / f"raw{position}").values()
        )


def test_a_whole_gzip_file_is_its_content_and_a_damaged_one_is_refused_by_name(
    tmp_path: Path,
) -> None:
    path = tmp_path / "s2.gz"
    with pytest.raises(UserError, match=r"cannot read .*no such file"):
        open_gzip(path)
    content = gzip.compress(random.Random(0).randbytes(1000), mtime=0)
    path.write_bytes(content)
    with open_gzip(path) as stream:
        assert stream.read() == random.Random(0).randbytes(1000)
    flipped = bytearray(content)
    flipped[500] ^= 1
    for damaged in (
        *(content[:size] for size in range(2, len(content), 50)),
        content[:-1],
        bytes(flipped),
    ):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"s2\.gz: expected a whole gzip file"):
            open_gzip(path)
    path.write_bytes(b"\x80\x04N.")
    with pytest.raises(
        UserError, match=r"s2\.gz: expected a gzip file, found one that begins with"
    ):
        open_gzip(path)


def test_files_behind_the_directories_of_a_zip_are_unpacked(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", [("empty/", b""), ("cifar/", b""), *FILES.items()])
    unpack(tmp_path / "a.zip", tmp_path / "raw")
    assert contents(tmp_path / "raw") == FILES
    assert (tmp_path / "raw" / "empty").is_dir()


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
    "raw file": (
        lambda path: Workspace("big/toy", path.parent, path.parent).file(path.name)
    ),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_what_could_block_or_never_end_is_not_opened(
    read: Callable[[Path], Any], tmp_path: Path
) -> None:
    paths = [
        tmp_path / kind / "raw" for kind in ("pipe", "device", "system", "directory")
    ]
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
        with pytest.raises(
            UserError, match=r"cannot read .*/raw: expected a regular file"
        ):
            read(path)


def _partial_directory(place: Path, target: Path) -> None:
    (place / ".partial-out").symlink_to(target.parent)
    prepared.prepare("big/toy", place / "out", lambda _: {})


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
        (
            _partial_directory,
            "is where an unfinished build is stored, and it is a link.*remove it",
        ),
        (_part, "is a symbolic link, and no file is written through it.*remove it"),
        (_lock_file, ""),
    ],
)
def test_a_planted_link_with_the_name_of_a_scratch_file_keeps_its_target(
    use: Callable[[Path, Path], None], refused: str, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    target = tmp_path / "elsewhere" / "thesis.npy"
    place.mkdir()
    target.parent.mkdir()
    target.write_bytes(b"years of work")
    with (
        pytest.raises(UserError, match=refused) if refused else contextlib.nullcontext()
    ):
        use(place, target)
    assert target.read_bytes() == b"years of work"
    assert os.listdir(target.parent) == ["thesis.npy"]


@pytest.mark.parametrize(
    ("shape", "chunks", "declared"),
    [((2**33,), (2**20,), 2**35), ((1,), (2**29,), 2**31)],
)
def test_hdf5_that_declares_more_than_it_stores(
    shape: tuple[int], chunks: tuple[int], declared: int, tmp_path: Path
) -> None:
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file.create_dataset("x", shape, "f4", chunks=chunks, maxshape=(None,))
    message = (
        rf"d\.h5.*unfolds to more than 200 times its size, x: {declared} bytes are"
        r" declared, 0 are stored"
    )
    for name in ("hdf5", "mat"):
        with pytest.raises(UserError, match=message):
            READERS[name](tmp_path / "d.h5")


def test_compressed_arrays_that_expand_without_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "_ANY_RATIO_BYTES", 2**20)
    zeros = np.zeros((2, 2**19))
    np.savez_compressed(tmp_path / "d.npz", x=zeros)
    savemat(tmp_path / "d.mat", {"x": zeros}, do_compression=True)
    message = (
        r"/d\.{}.*unfolds to more than 200 times its size, x: 83\d+ bytes are declared,"
        r" \d+ are stored"
    )
    with pytest.raises(UserError, match=message.format("npz")):
        Npz(tmp_path / "d.npz", ["x"])["x"]
    with pytest.raises(UserError, match=message.format("mat")):
        read_mat(tmp_path / "d.mat", "x")[:]
    with pytest.raises(UserError, match=r"/d\.npz: unfolds to more than 200 times"):
        read_whole(tmp_path / "d.npz")
    assert not cache.home().exists()
