import errno
import gzip
import io
import os
import random
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orca_ray.data import archives, gzip_stream
from orca_ray.data.archives import unpack
from orca_ray.errors import UserError

Files = dict[str, bytes]
Write = Callable[[Path, Iterable[tuple[str, bytes]]], None]

FILES: Files = {"cifar/train": random.Random(0).randbytes(5000), "cifar/deep/test": b"test", "cifar/empty": b""}


def write_tar(path: Path, files: Iterable[tuple[str, bytes]], mode: str = "w") -> None:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_tar_gz(path: Path, files: Iterable[tuple[str, bytes]]) -> None:
    write_tar(path, files, "w:gz")


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


def test_what_was_packed_is_unpacked(tmp_path: Path) -> None:
    for kind, write in WRITERS.items():
        write(tmp_path / "archive", FILES.items())
        unpack(tmp_path / "archive", tmp_path / kind)
        assert contents(tmp_path / kind) == FILES
        assert [path.name for path in (tmp_path / kind).iterdir()] == ["cifar"]


@every_kind
def test_files_that_are_there_stay(write: Write, tmp_path: Path) -> None:
    (tmp_path / "raw" / "cifar").mkdir(parents=True)
    there = {"cifar/train": b"old", "cifar/mine": b"mine"}
    for name, content in there.items():
        (tmp_path / "raw" / name).write_bytes(content)
    write(tmp_path / "archive", FILES.items())
    with pytest.raises(UserError, match=r"raw/cifar/train is there with another content, and is not replaced"):
        unpack(tmp_path / "archive", tmp_path / "raw")
    assert contents(tmp_path / "raw") == there
    (tmp_path / "raw" / "cifar" / "train").write_bytes(FILES["cifar/train"])
    unpack(tmp_path / "archive", tmp_path / "raw")
    assert contents(tmp_path / "raw") == {**FILES, "cifar/mine": b"mine"}


OURS = ("orca-data.lock.json", "./orca-data.lock.json", ".locks/a.lock", ".tmp-1/a", ".unpack-1/a", ".LOCKS/b")
OUTSIDE = ("../out", "a/../../out", "/tmp/out", "..\\out", "C:\\out", "a/..")


@every_kind
@pytest.mark.parametrize("name", [*OURS, *OUTSIDE])
def test_names_of_our_own_files_and_names_that_lead_out_are_refused(write: Write, name: str, tmp_path: Path) -> None:
    write(tmp_path / "archive", [("good", b"1"), (name, b"{}")])
    expected = "a name of orca-ray's own files; refused" if name in OURS else "expected a path below the directory"
    with pytest.raises(UserError, match=f"archive, '.*{expected}"):
        unpack(tmp_path / "archive", tmp_path / "raw")
    assert list((tmp_path / "raw").iterdir()) == []


def test_a_link_that_is_there_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a").symlink_to(tmp_path / "on-another-disk")
    write_tar(tmp_path / "a.tar", [("a", b"1")])
    with pytest.raises(UserError, match=r"raw/a is there with another content"):
        unpack(tmp_path / "a.tar", tmp_path / "raw")
    assert (tmp_path / "raw" / "a").is_symlink()


def test_a_move_that_was_cut_short_leaves_its_stamp_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, stamp = tmp_path / "raw", tmp_path / "raw" / ".locks" / "a.tar.unpacking"
    write_tar(tmp_path / "a.tar", [("a", b"1"), ("b", b"2"), ("c", b"3")])
    replaced, replace = list[Path](), os.replace

    def cut(source: Path, target: Path) -> None:
        if len(replaced) == 2:
            raise KeyboardInterrupt
        replaced.append(target)
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", cut)
        with pytest.raises(KeyboardInterrupt):
            unpack(tmp_path / "a.tar", raw, stamp=stamp)
    assert contents(raw) == {"a": b"1", "b": b"2", ".locks/a.tar.unpacking": b""}
    unpack(tmp_path / "a.tar", raw, stamp=stamp)
    assert contents(raw) == {"a": b"1", "b": b"2", "c": b"3"}


def test_an_archive_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    write_tar(tmp_path / "a.tar", FILES.items())
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"cannot read .*a\.tar: Permission denied"):
        unpack(tmp_path / "a.tar", tmp_path / "raw")


@every_kind
def test_progress_counts_bytes_of_the_archive(write: Write, tmp_path: Path) -> None:
    path = tmp_path / "archive"
    write(path, [("a", random.Random(0).randbytes(3 * 2**20)), ("b", b"b")])
    told: list[tuple[int, int]] = []
    unpack(path, tmp_path / "raw", lambda done, total: told.append((done, total)))
    done = [each[0] for each in told]
    size = path.stat().st_size
    assert {total for _, total in told} == {size}
    assert done == sorted(done)
    assert done[0] < size
    assert done[-1] == size
    assert len(done) >= 4


def test_directories_and_a_dot_in_front(tmp_path: Path) -> None:
    (tmp_path / "in" / "empty").mkdir(parents=True)
    (tmp_path / "in" / "file").write_bytes(b"x")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "in", ".")
    unpack(tmp_path / "a.tar", tmp_path / "raw")
    assert sorted(path.name for path in (tmp_path / "raw").iterdir()) == ["empty", "file"]


_parts = st.sampled_from(["a", "b", "..", ".", "", "...", "C:", "a\\..\\b", "x" * 300, "\\\\host", "ü", " "])
_hostile = st.lists(_parts, min_size=1, max_size=4).map("/".join) | st.text(max_size=8)


@settings(max_examples=60)
@given(name=_hostile, kind=st.sampled_from(sorted(WRITERS)))
def test_no_name_leads_out_of_the_directory(name: str, kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    place = tmp_path_factory.mktemp("names")
    path, inside = place / "archive", place / "deep" / "in"
    try:
        WRITERS[kind](path, [("first", b"1"), (name, b"2")])
    except (ValueError, UnicodeEncodeError):  # a name that cannot be written in the first place
        return
    try:
        unpack(path, inside)
    except UserError:
        assert contents(inside) == {}
    assert sorted(each.name for each in place.iterdir()) == ["archive", "deep"]
    assert [each.name for each in (place / "deep").iterdir()] == ["in"]
    assert not list(inside.rglob(f"{archives.SCRATCH}*"))


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        (tarfile.SYMTYPE, "symbolic link"),
        (tarfile.LNKTYPE, "hard link"),
        (tarfile.CHRTYPE, "device"),
        (tarfile.BLKTYPE, "device"),
        (tarfile.FIFOTYPE, "pipe"),
        (tarfile.CONTTYPE, None),
        (b"Z", "member of type b'Z'"),
    ],
)
def test_members_of_a_tar_that_are_no_files(kind: bytes, found: str | None, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        member = tarfile.TarInfo("odd")
        member.type, member.linkname = kind, "good"
        archive.addfile(tarfile.TarInfo("good"))
        archive.addfile(member)
    if found is None:  # an old word for a file
        unpack(tmp_path / "a.tar", tmp_path / "raw")
        assert contents(tmp_path / "raw") == {"good": b"", "odd": b""}
        return
    with pytest.raises(UserError, match=f"a.tar, 'odd': expected files and directories, found a {found}; refused"):
        unpack(tmp_path / "a.tar", tmp_path / "raw")
    assert list((tmp_path / "raw").iterdir()) == []


def test_a_sparse_member_of_a_tar(tmp_path: Path) -> None:
    member = tarfile.TarInfo("huge")
    member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(2**50)}
    member.size = 512
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(member, io.BytesIO(b"0\n".ljust(512, b"\0")))
    with pytest.raises(UserError, match="'huge': expected files and directories, found a sparse file"):
        unpack(tmp_path / "a.tar", tmp_path / "raw")


class Special(NamedTuple):
    mode: int
    flags: int
    message: str


@pytest.mark.parametrize(
    "special",
    [
        Special(0o120777, 0, "found a symbolic link"),
        Special(0o060600, 0, "found a device, pipe or socket"),
        Special(0o100600, 1, "found an encrypted one"),
    ],
)
def test_members_of_a_zip_that_are_no_files(special: Special, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    info = zipfile.ZipInfo("odd")
    info.external_attr = special.mode << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, "/etc/passwd")
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= special.flags
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"a.zip, 'odd'.*{special.message}"):
        unpack(path, tmp_path / "raw")
    assert list((tmp_path / "raw").iterdir()) == []


@every_kind
def test_a_file_and_a_directory_of_one_name(write: Write, tmp_path: Path) -> None:
    write(tmp_path / "archive", [("a", b"1"), ("a/b", b"2")])
    with pytest.raises(UserError, match="a file and a directory have the same name"):
        unpack(tmp_path / "archive", tmp_path / "raw")
    write(tmp_path / "archive", [("a/b", b"1"), ("a", b"2")])
    with pytest.raises(UserError, match="a file and a directory have the same name"):
        unpack(tmp_path / "archive", tmp_path / "raw")
    (tmp_path / "raw" / "a").mkdir()
    write(tmp_path / "archive", [("a", b"1")])
    with pytest.raises(UserError, match="raw/a is in the way"):
        unpack(tmp_path / "archive", tmp_path / "raw")


@pytest.fixture
def small_bombs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound below which any ratio passes is 256 MB: too much to write in a test."""
    monkeypatch.setattr(gzip_stream, "_ANY_RATIO_BYTES", 2**20)


@pytest.mark.usefixtures("small_bombs")
@pytest.mark.parametrize("write", [write_tar_gz, write_zip])
def test_a_bomb_is_refused(write: Write, tmp_path: Path) -> None:
    write(tmp_path / "archive", [("good", b"1"), ("zeros", bytes(16 * 2**20))])
    with pytest.raises(UserError, match="unfolds to more than 200 times its size"):
        unpack(tmp_path / "archive", tmp_path / "raw")
    assert list((tmp_path / "raw").iterdir()) == []


@pytest.mark.usefixtures("small_bombs")
def test_zeros_behind_the_end_of_a_tar_are_a_bomb_too(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", FILES.items())
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress((tmp_path / "a.tar").read_bytes() + bytes(16 * 2**20)))
    with pytest.raises(UserError, match="unfolds to more than 200 times its size"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "raw")


def test_a_tar_that_says_it_is_larger_than_the_disk(tmp_path: Path) -> None:
    member = tarfile.TarInfo("huge")
    member.size = 2**60
    (tmp_path / "a.tar").write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(UserError, match=r"unfolds to more than 200 times its size at 'huge'"):
        unpack(tmp_path / "a.tar", tmp_path / "raw")


@every_kind
def test_more_than_is_free(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=5001))
    write(tmp_path / "archive", FILES.items())
    with pytest.raises(UserError, match=r"no space left at 'cifar/deep/test': 5004 bytes are unpacked by then, 5001"):
        unpack(tmp_path / "archive", tmp_path / "raw")
    assert list((tmp_path / "raw").iterdir()) == []


def test_a_name_of_gigabytes(tmp_path: Path) -> None:
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 2**33
    (tmp_path / "a.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(10_000))
    with pytest.raises(UserError, match="a header of 8589934592 bytes"):
        unpack(tmp_path / "a.tar", tmp_path / "raw")


def test_a_zip_that_says_less_than_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    write_zip(path, [("a", bytes(100_000))])
    content = path.read_bytes().replace(struct.pack("<I", 100_000), struct.pack("<I", 100))
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"expected a whole archive.*CRC"):
        unpack(path, tmp_path / "raw")
    assert list((tmp_path / "raw").iterdir()) == []


@every_kind
def test_an_archive_cut_anywhere_leaves_nothing(write: Write, tmp_path: Path) -> None:
    path = tmp_path / "archive"
    write(path, FILES.items())
    content = path.read_bytes()
    # A tar is padded to 10,240 bytes after the two blocks of its end mark; what counts ends at the first.
    end = len(content) if write is not write_tar else 5 * 512 + 5120
    for size in [*range(0, end - 1, 97), end - 1]:
        path.write_bytes(content[:size])
        with pytest.raises(UserError, match=r"expected a whole (archive|gzip file)"):
            unpack(path, tmp_path / "raw")
        assert list((tmp_path / "raw").iterdir()) == []


@settings(max_examples=60)
@given(position=st.integers(0, 2**16), change=st.integers(1, 255), kind=st.sampled_from(["tar.gz", "zip"]))
def test_a_changed_byte_is_noticed(
    position: int, change: int, kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("bytes")
    path = place / "archive"
    WRITERS[kind](path, FILES.items())
    content = bytearray(path.read_bytes())
    content[position % len(content)] ^= change
    path.write_bytes(content)
    try:
        unpack(path, place / "raw")
    except UserError:
        assert contents(place / "raw") == {}
    else:  # a time, a mode, a name: what no checksum of a zip covers
        assert set(FILES.values()) >= set(contents(place / "raw").values())


@pytest.mark.parametrize("content", [b"", b"hello", b"\x1f\x8b", b"PK\x03\x04", bytes(10_240)])
def test_what_is_no_archive(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    if content == bytes(10_240):  # the end mark alone is an empty tar
        unpack(tmp_path / "a.tar", tmp_path / "raw")
        return
    with pytest.raises(UserError, match=r"a\.tar: expected a whole (archive|gzip file)"):
        unpack(tmp_path / "a.tar", tmp_path / "raw")


def test_a_missing_archive(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*no such file"):
        unpack(tmp_path / "a.tar", tmp_path / "raw")


def test_an_interruption_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    write_tar(tmp_path / "a.tar", FILES.items())
    with pytest.raises(KeyboardInterrupt):
        unpack(tmp_path / "a.tar", tmp_path / "raw", interrupt)
    assert list((tmp_path / "raw").iterdir()) == []
