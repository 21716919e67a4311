"""Files of the user: found by name, checked, and put where their tasks read them.

The tasks are toys in a registry of their own; one real table shows the declared number
of rows.
"""

import hashlib
import io
import lzma
import os
import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orca_ray.data.npy import read_npy
from orca_ray.data.raw import LOCKS, PINS, RawFile, Workspace
from orca_ray.data.rows import Target
from orca_ray.errors import UserError
from orca_ray.tasks import add_files, registry
from orca_ray.tasks.add_files import Added, add, find
from orca_ray.tasks.nasbench360 import TASKS as SERIES
from orca_ray.tasks.nasbench360.ecg import NUM_RECORDS
from orca_ray.tasks.openml.tables import TABLES, TASKS
from orca_ray.tasks.task import Arrays, Task
from tests.raw_files.nasbench360_series import ecg_content, save_ecg
from tests.raw_files.openml import WRITERS, Kind, SmallTable, write_table

NUM_SAMPLES = 9


def _content(num_samples: int = NUM_SAMPLES, value: float = 0.0) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.full((num_samples, 1, 2), value, dtype=np.float32))
    return buffer.getvalue()


def _build(file: str, workspace: Workspace) -> Arrays:
    path = workspace.file(file)
    x = read_npy(path)
    workspace.check_count(path, len(x), NUM_SAMPLES)
    arrays: dict[str, Any] = {}
    for split in ("train", "validation", "test"):
        arrays[f"{split}_x"] = x[:3]
        arrays[f"{split}_y"] = np.arange(3, dtype=np.int64) % 2
    return arrays


def _make_task(name: str, *files: RawFile, reads: str = "") -> Task:
    path = reads or files[0].path
    return Task(
        name=name,
        title="Numbers",
        domain="tabular",
        input_shape=(1, 2),
        target=Target("classes", size=2),
        loss="cross_entropy",
        metric="error",
        body="minilm-l6",
        num_samples=(3, 3, 3),
        licence="CC0",
        citation="Nobody, 2024",
        reference="https://example.org",
        build=lambda workspace: _build(path, workspace),
        files=files,
    )


def _published(path: str, content: bytes) -> RawFile:
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return RawFile(path=path, urls=("https://example.org/x",), md5=digest)


CORRECTED = _content(value=1.0)
ORIGINAL = _content(value=2.0)
URLS = ("https://example.org/x",)


@pytest.fixture(autouse=True)
def tasks(empty_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the registry; ``empty_home`` is the cache directory."""
    toys = (
        _make_task(
            "pair/both",
            RawFile(path="7/x.npy", urls=URLS),
            RawFile(path="7/note.txt", urls=URLS),
        ),
        _make_task("pair/single", RawFile(path="s.npy", urls=URLS)),
        _make_task(
            "packed/zip",
            RawFile(path="a.zip", urls=URLS, unpacked="inner/x.npy"),
            reads="inner/x.npy",
        ),
        _make_task("twice/new", _published("t.npy", CORRECTED)),
        _make_task("twice/old", _published("original/t.npy", ORIGINAL)),
        _make_task("made/new", RawFile(path="t.npy", made_by="make it")),
    )
    monkeypatch.setattr(
        registry, "all_tasks", lambda: {task.name: task for task in toys}
    )


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """The user's folder: the benchmark ``pair`` under its name."""
    folder = tmp_path / "mine"
    (folder / "pair/7").mkdir(parents=True)
    (folder / "pair/7/x.npy").write_bytes(_content())
    (folder / "pair/7/note.txt").write_text("a note")
    (folder / "pair/s.npy").write_bytes(_content())
    return folder


def _add(path: Path, *, link: bool = False, dry_run: bool = False) -> dict[str, Added]:
    added = [add(found, link=link, dry_run=dry_run) for found in find(path)]
    return {item.task.name: item for item in added}


def _refuse(path: Path, *, dry_run: bool = False) -> str:
    """Return the error of adding the one task at ``path``."""
    (found,) = find(path)
    with pytest.raises(UserError) as error:
        add(found, dry_run=dry_run)
    return str(error.value)


def _stored(home: Path) -> dict[str, Path]:
    """Return all files in the raw directories except locks, by relative path."""
    raw = home / "raw"
    return {
        path.relative_to(raw).as_posix(): path
        for path in raw.rglob("*")
        if (path.is_file() or path.is_symlink())
        and path.suffix != ".lock"
        and LOCKS not in path.parts
    }


def _modified(home: Path) -> dict[str, tuple[int, int]]:
    """Return inode and time of the last change of each stored file."""
    stats = {path: file.stat() for path, file in _stored(home).items()}
    return {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in stats.items()}


@pytest.mark.parametrize(
    ("part", "names"),
    [
        ("", {"pair/both", "pair/single"}),
        ("pair", {"pair/both", "pair/single"}),
        ("pair/7", {"pair/both"}),
        ("pair/s.npy", {"pair/single"}),
    ],
)
def test_a_folder_of_any_level_and_a_file_are_recognised(
    part: str, names: set[str], mine: Path, empty_home: Path
) -> None:
    assert set(_add(mine / part)) == names
    task = registry.all_tasks()[min(names)]
    data = task.prepare()
    assert data.test.x.shape == (3, 1, 2)
    pins = empty_home / "raw/pair" / PINS
    assert all(file.path in pins.read_text() for file in task.files)


def test_a_second_time_nothing_is_new(mine: Path, empty_home: Path) -> None:
    first = _add(mine)
    assert first["pair/both"].num_files == 2
    assert first["pair/both"].num_samples == {"train": 3, "validation": 3, "test": 3}
    before = _modified(empty_home)
    assert [item.num_files for item in _add(mine).values()] == [0, 0]
    assert _modified(empty_home) == before


def test_a_dry_run_checks_and_writes_nothing(mine: Path, empty_home: Path) -> None:
    added = _add(mine, dry_run=True)
    assert added["pair/both"].num_files == 2
    assert added["pair/both"].num_samples["train"] == 3
    (mine / "pair/s.npy").write_bytes(_content(8))
    assert "found 8" in _refuse(mine / "pair/s.npy", dry_run=True)
    assert not empty_home.exists() or not _stored(empty_home)


def test_links_point_to_the_users_files(mine: Path, empty_home: Path) -> None:
    _add(mine, link=True)
    link = empty_home / "raw/pair/7/x.npy"
    assert link.is_symlink()
    assert link.readlink() == mine / "pair/7/x.npy"
    assert [item.num_files for item in _add(mine).values()] == [0, 0]
    moved = mine.rename(mine.with_name("moved"))  # the links are broken now
    assert [item.num_files for item in _add(moved, link=True).values()] == [2, 1]
    assert link.readlink() == moved / "pair/7/x.npy"


def _written(content: bytes) -> Callable[[Path], None]:
    """Return a change that replaces the content of a file."""

    def change(file: Path) -> None:
        file.write_bytes(content)

    return change


def _replaced(make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Return a change that removes a file, and makes something else in its place."""

    def change(file: Path) -> None:
        file.unlink()
        make(file)

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_written(_content(8)), "expected 9 samples"),
        (_written(_content(10)), "found 10"),
        (_written(b"no array"), "expected"),
        (_written(_content()[:-1]), "expected"),
        (_written(b""), "expected"),
        (Path.unlink, "1 of 2 raw files are neither in"),
        (_replaced(os.mkfifo), "expected a regular file, found a named pipe"),
        (_replaced(Path.mkdir), "found a directory"),
        (_replaced(lambda file: file.symlink_to("nowhere")), "no such file"),
        (_replaced(lambda file: file.symlink_to("/dev/zero")), "inside /dev"),
    ],
)
def test_a_wrong_file_is_refused_by_name_and_nothing_stays(
    change: Callable[[Path], None], reason: str, mine: Path, empty_home: Path
) -> None:
    change(mine / "pair/7/x.npy")
    message = _refuse(mine / "pair/7")
    assert "7/x.npy" in message
    assert reason in message
    assert str(empty_home / "raw/pair/.tmp") not in message
    assert not _stored(empty_home)
    assert [path.name for path in (empty_home / "raw").glob("pair/*")] in ([], [LOCKS])


def test_a_link_out_of_the_folder_is_read(mine: Path, tmp_path: Path) -> None:
    file = mine / "pair/s.npy"
    file.rename(tmp_path / "elsewhere.npy")
    file.symlink_to(tmp_path / "elsewhere.npy")
    assert _add(file)["pair/single"].num_files == 1


def test_a_file_that_was_pinned_with_another_hash_is_refused(
    mine: Path, empty_home: Path
) -> None:
    _add(mine)
    stored = empty_home / "raw/pair/s.npy"
    (mine / "pair/s.npy").write_bytes(_content(value=3.0))
    assert f"pinned in {PINS}" in _refuse(mine / "pair/s.npy")
    (empty_home / "raw/pair" / PINS).unlink()
    assert f"{stored} is there with another content" in _refuse(mine / "pair/s.npy")
    assert stored.read_bytes() == _content()


@pytest.mark.parametrize("suffix", [".xz", ".gz", ".bz2"])
def test_a_compressed_file_is_decompressed(
    suffix: str, mine: Path, empty_home: Path
) -> None:
    file = mine / f"pair/s.npy{suffix}"
    (mine / "pair/s.npy").unlink()
    with add_files._OPENERS[suffix](file, "wb") as stream:
        stream.write(_content())
    assert _add(file, link=True)["pair/single"].num_bytes == len(_content())
    assert (empty_home / "raw/pair/s.npy").read_bytes() == _content()
    assert _add(file)["pair/single"].num_files == 0
    (empty_home / "raw/pair/s.npy").unlink()
    file.write_bytes(file.read_bytes()[:-9])
    assert str(file) in _refuse(file)


def test_a_bomb_is_refused(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orca_ray.data.archives._ANY_RATIO_BYTES", 1000)
    (mine / "pair/s.npy").unlink()
    file = mine / "pair/s.npy.xz"
    file.write_bytes(lzma.compress(bytes(10**6)))
    assert "unfolds to more than 200 times its size" in _refuse(file)


def test_an_archive_is_unpacked(tmp_path: Path, empty_home: Path) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as content:
        content.writestr("inner/x.npy", _content())
    assert _add(archive)["packed/zip"].num_samples["test"] == 3
    assert (empty_home / "raw/packed/inner/x.npy").read_bytes() == _content()
    archive.write_bytes(archive.read_bytes()[:-30])
    (empty_home / "raw/packed/a.zip").unlink()
    assert str(archive) in _refuse(archive) or "pinned" in _refuse(archive)


@pytest.mark.parametrize(
    ("content", "task"), [(CORRECTED, "twice/new"), (ORIGINAL, "twice/old")]
)
def test_the_hash_tells_uploads_with_one_name_apart(
    content: bytes, task: str, tmp_path: Path, empty_home: Path
) -> None:
    file = tmp_path / "t.npy"
    file.write_bytes(content)
    assert set(_add(file)) == {task}
    path = registry.all_tasks()[task].files[0].path
    assert (empty_home / "raw/twice" / path).read_bytes() == content
    file.write_bytes(_content())
    assert "the published one" in _refuse(file)


def test_only_a_folder_with_the_name_of_the_benchmark_holds_generated_files(
    tmp_path: Path,
) -> None:
    for folder, task in (("made", "made/new"), ("twice", "twice/new")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "t.npy").write_bytes(CORRECTED)
        assert [found.task.name for found in find(tmp_path / folder)] == [task]


def test_both_uploads_in_one_folder_are_two_tasks(tmp_path: Path) -> None:
    (tmp_path / "twice/original").mkdir(parents=True)
    (tmp_path / "twice/t.npy").write_bytes(CORRECTED)
    (tmp_path / "twice/original/t.npy").write_bytes(ORIGINAL)
    for folder in (tmp_path, tmp_path / "twice"):
        assert set(_add(folder, dry_run=True)) == {"twice/new", "twice/old"}
    assert set(_add(tmp_path / "twice/original")) == {"twice/old"}


def test_an_interrupted_copy_leaves_no_file(
    mine: Path, empty_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(source: Path, target: Path) -> str:
        target.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(add_files, "_copy", interrupt)
        with pytest.raises(KeyboardInterrupt):
            _add(mine / "pair/s.npy")
    assert not _stored(empty_home)
    abandoned = empty_home / "raw/pair" / f"{add_files._SCRATCH}killed"
    abandoned.mkdir()
    assert _add(mine / "pair/s.npy")["pair/single"].num_files == 1
    assert not abandoned.exists()


def test_a_file_that_changes_while_it_is_copied_is_refused(
    mine: Path, empty_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(add_files, "_copy", lambda *_: "another hash")
    assert "changed meanwhile" in _refuse(mine / "pair/s.npy")
    assert not _stored(empty_home)


def test_what_is_found_twice_or_nowhere_is_said(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    for path, reason in (
        (tmp_path / "missing", "no such file"),
        (tmp_path / "empty", "under the names that tasks declare, found none"),
    ):
        with pytest.raises(UserError, match=reason):
            find(path)
    (mine / "copy").mkdir()
    (mine / "copy/s.npy").write_bytes(_content())
    with pytest.raises(UserError, match=r"pair/single are in .*copy and in .*pair"):
        find(mine)
    monkeypatch.setattr(add_files, "_MOST_FOLDERS", 1)
    with pytest.raises(UserError, match="at most 1 folders, found 2"):
        find(mine)


def test_odd_names_on_the_way_are_no_problem(mine: Path, tmp_path: Path) -> None:
    odd = tmp_path / "it's \x1b[31m a\nfolder \udcff"
    mine.rename(odd)
    assert set(_add(odd)) == {"pair/both", "pair/single"}


def test_a_full_disk_is_said(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(mine)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1))
    assert "no space" in _refuse(mine / "pair/s.npy")


def test_a_table_of_openml_with_another_number_of_rows_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (task,) = (task for task in TASKS if task.name == "openml/29")
    monkeypatch.setattr(registry, "all_tasks", lambda: {task.name: task})
    WRITERS["openml/29"](tmp_path)
    message = _refuse(tmp_path / "29")
    assert f"{tmp_path / '29/data.arff'}: expected {TABLES[29]['rows']} sam" in message


WEIGHTS = [float(i) for i in range(625)]
SCALES = ["L" if i % 2 else "R" for i in range(625)]
CLASSES = [("B", "L", "R")[i % 3] for i in range(625)]


def _scale(*, kind: Kind, values: Sequence[object]) -> SmallTable:
    """Return a table like OpenML 11, whose last feature is of ``kind``."""
    features: list[tuple[str, Kind]] = [(name, "NUMERIC") for name in "abc"]
    cells = zip(WEIGHTS, WEIGHTS, WEIGHTS, values, CLASSES, strict=True)
    return SmallTable(
        name="balance-scale",
        columns=[*features, ("d", kind), ("class", ("B", "L", "R"))],
        rows=list(cells),
        target="class",
    )


@pytest.mark.parametrize(
    ("kind", "values", "reason"),
    [
        ("NUMERIC", WEIGHTS, ""),
        (("L", "R"), SCALES, "data.arff: expected 4 columns of numbers, as on"),
        ("STRING", SCALES, "data.arff: column 'd' is of type STRING"),
        ("NUMERIC", SCALES, "data.arff is not a table in ARFF"),
    ],
)
def test_a_table_of_openml_with_another_type_of_a_column_is_refused(
    kind: Kind,
    values: Sequence[object],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    empty_home: Path,
) -> None:
    (task,) = (task for task in TASKS if task.name == "openml/11")
    monkeypatch.setattr(registry, "all_tasks", lambda: {task.name: task})
    write_table(tmp_path, 11, _scale(kind=kind, values=values))
    if not reason:
        assert _add(tmp_path / "11")["openml/11"].num_files == 2
        return
    assert reason in _refuse(tmp_path / "11")
    assert not _stored(empty_home)


def _shorten(file: Path) -> None:
    """Remove the last bytes of a file."""
    file.write_bytes(file.read_bytes()[:-10])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_shorten, "11/data.arff has MD5"),
        (Path.unlink, "raw files are neither in"),
    ],
)
def test_a_damaged_or_missing_table_of_openml_is_refused(
    damage: Callable[[Path], object],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    empty_home: Path,
) -> None:
    (task,) = (task for task in TASKS if task.name == "openml/11")
    monkeypatch.setattr(registry, "all_tasks", lambda: {task.name: task})
    write_table(tmp_path, 11, _scale(kind="NUMERIC", values=WEIGHTS))
    damage(tmp_path / "11/data.arff")
    message = _refuse(tmp_path / "11")
    assert "11/data.arff" in message
    assert reason in message
    assert not _stored(empty_home)


@pytest.mark.parametrize(
    ("suffix", "num_lost", "reason"),
    [
        ("", 0, f"expected {NUM_RECORDS} samples, as in the published file, found 80"),
        ("", 1000, "challenge2017.pkl"),
        (".xz", 1000, "challenge2017.pkl.xz"),
    ],
)
def test_records_of_ecg_that_are_fewer_or_truncated_are_refused(
    suffix: str,
    num_lost: int,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    empty_home: Path,
) -> None:
    (task,) = (task for task in SERIES if task.name == "nasbench360/ecg")
    monkeypatch.setattr(registry, "all_tasks", lambda: {task.name: task})
    save_ecg(tmp_path, ecg_content())
    file = tmp_path / "challenge2017.pkl"
    content = file.read_bytes()
    file.unlink()
    if suffix:
        content = lzma.compress(content, preset=0)
    damaged = file.with_name(file.name + suffix)
    damaged.write_bytes(content[: len(content) - num_lost])
    assert reason in _refuse(damaged)
    assert not _stored(empty_home)
