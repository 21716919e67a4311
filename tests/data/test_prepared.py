import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from orca_ray.data import prepared
from orca_ray.data.raw import Workspace
from orca_ray.errors import UserError

Array = npt.NDArray[Any]


class Builder:
    """Counts how often it builds."""

    def __init__(self, **changes: Array | None) -> None:
        arrays: dict[str, Array | None] = {}
        for number, split in enumerate(prepared.SPLITS):
            arrays[f"{split}_x"] = np.arange(24, dtype=np.float32).reshape(4, 2, 3) + number
            arrays[f"{split}_y"] = np.arange(4, dtype=np.int64)
        arrays |= changes
        self.arrays = {name: array for name, array in arrays.items() if array is not None}
        self.count = 0

    def __call__(self, _: Workspace) -> Mapping[str, Array]:
        self.count += 1
        return self.arrays


def prepare(version: int, build: prepared.Build, *, expected: str | None = None) -> prepared.PreparedData:
    directory = prepared.directory_of("pocket/toy", version)
    return prepared.prepare("pocket/toy", directory, build, expected=expected)


def test_arrays_come_back_memory_mapped_and_read_only() -> None:
    build = Builder(y_mean=np.ones(1, np.float32), y_std=np.array(2, np.float32))
    data = prepare(1, build)
    assert isinstance(data.train.x, np.memmap)
    assert not data.train.x.flags.writeable
    for name, split in data.splits.items():
        np.testing.assert_array_equal(split.x, build.arrays[f"{name}_x"])
        np.testing.assert_array_equal(split.y, build.arrays[f"{name}_y"])
        assert len(split) == 4
    assert data.y_mean is not None
    assert data.y_std is not None
    assert (data.y_mean.tolist(), data.y_std.shape, float(data.y_std)) == ([1], (), 2)
    assert data.fingerprint == prepared.fingerprint(build.arrays)
    prepared.verify(data)


def test_data_is_built_once_per_version_fingerprint_and_task() -> None:
    build, new = Builder(), Builder(train_y=np.array([3, 2, 1, 0]))
    first = prepare(1, build)
    assert prepare(1, build).fingerprint == first.fingerprint
    assert build.count == 1
    prepare(2, build)
    assert build.count == 2
    data = prepare(1, new, expected=prepared.fingerprint(new.arrays))
    assert (new.count, data.train.y[0]) == (1, 3)
    assert prepared.opened("pocket/other", data.directory) is None
    assert prepared.prepare("pocket/other", data.directory, build).train.y[0] == 0


def _truncate(directory: Path) -> None:
    path = directory / "validation_x.npy"
    path.write_bytes(path.read_bytes()[:-8])


def _scramble_header(directory: Path) -> None:
    path = directory / "train_x.npy"
    path.write_bytes(b"\0" * path.stat().st_size)


def _truncate_meta(directory: Path) -> None:
    path = directory / "meta.json"
    path.write_text(path.read_text()[:50])


def _unlink(directory: Path) -> None:
    (directory / "train_y.npy").unlink()


@pytest.mark.parametrize("damage", [_truncate, _unlink, _scramble_header, _truncate_meta])
def test_damaged_files_are_prepared_again(damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture) -> None:
    build = Builder()
    first = prepare(1, build)
    damage(first.directory)
    if damage is _truncate_meta:
        with pytest.raises(UserError, match=r"meta\.json is unreadable"):
            prepared.verify(first)
    again = prepare(1, build)
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "damaged" in warning.message
    np.testing.assert_array_equal(again.validation.x, build.arrays["validation_x"])
    prepared.verify(again)
    prepare(1, build)
    assert build.count == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"kinds": 7}, {"kinds": {"train_x": ["a"]}}, {"kinds": {"train_x": "pairwise"}}, {"identity": {}},
        {"arrays": [1]}, {"arrays": {"train_x": "x"}}, {"fingerprint": None}, {"name": ["x"]},
    ],
)  # fmt: skip
def test_a_description_of_other_types_counts_as_damaged(changes: dict[str, object]) -> None:
    path = prepare(1, Builder()).directory / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert prepared.opened("pocket/toy", path.parent) is None


def test_verify_names_the_file_that_changed() -> None:
    data = prepare(1, Builder())
    path = data.directory / "test_x.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    message = r"test_x\.npy changed since it was prepared: expected sha256 \w{64}, got \w{64}"
    with pytest.raises(UserError, match=message):
        prepared.verify(data)


EMPTY = {"validation_x": np.zeros((0, 2, 3), np.float32), "validation_y": np.zeros(0, np.int64)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict.fromkeys(EMPTY), r"has no validation split .*test data is never used for selection"),
        (EMPTY, "no validation split"),
        ({"test_y": None}, "has no test split"),
        ({"train_y": np.zeros(3, np.int64)}, "the arrays of train have different lengths"),
        ({"trian_x": np.zeros(1)}, "unexpected arrays trian_x"),
    ],
)
def test_incomplete_splits_are_refused_and_nothing_is_written(changes: dict[str, Array | None], message: str) -> None:
    with pytest.raises(UserError, match=message):
        prepare(1, Builder(**changes))
    assert not prepared.directory_of("pocket/toy", 1).exists()


def test_an_error_of_a_build_names_the_task_and_the_raw_files(tmp_path: Path) -> None:
    def build(_: Workspace) -> Mapping[str, Array]:
        raise UserError("16 samples are too few")

    with pytest.raises(UserError, match=rf"pocket/toy \(raw files in {tmp_path}\): 16 samples are too few"):
        prepared.prepare("pocket/toy", prepared.directory_of("pocket/toy", 1), build, raw=tmp_path)


def test_another_fingerprint_than_declared_is_refused() -> None:
    build = Builder()
    old = prepare(1, Builder(train_y=np.array([3, 2, 1, 0])))
    with pytest.raises(UserError, match=r"has fingerprint \w{16}, expected 0123456789abcdef"):
        prepare(1, build, expected="0123456789abcdef")
    assert prepared.opened("pocket/toy", old.directory, expected=old.fingerprint) is not None
    assert sorted(os.listdir(old.directory.parent)) == ["1", "1.lock"]


def test_data_of_other_raw_files_are_built_again_where_they_are_held(caplog: pytest.LogCaptureFixture) -> None:
    build, directory = Builder(), prepared.directory_of("pocket/toy", 1)
    for identity, held, count in (("a", True, 1), ("a", True, 1), ("b", False, 1), ("b", True, 2)):
        prepared.prepare("pocket/toy", directory, build, identity=identity, held=held)
        assert build.count == count
    told = [record for record in caplog.records if "other raw files" in record.message]
    # Once more as DEBUG, where that is listened to: the first look is without the lock.
    assert [record.levelname for record in told if record.levelname != "DEBUG"] == ["WARNING"]
    assert prepared.opened("pocket/toy", directory, identity="a") is None
    assert prepared.opened("pocket/toy", directory, identity="b") is not None
    meta = json.loads((directory / "meta.json").read_text())
    del meta["identity"]  # as older ones
    (directory / "meta.json").write_text(json.dumps(meta))
    assert prepared.opened("pocket/toy", directory, identity="a") is not None


def users(directory: Path, build: prepared.Build) -> prepared.PreparedData:
    return prepared.prepare("pocket/toy", directory, build, identity="this", users=True)


def test_notes_beside_the_arrays_of_a_users_directory_are_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    users(out, Builder())
    assert sorted(os.listdir(tmp_path)) == ["home", "out"]  # no lock next to it
    (out / "notes.txt").write_text("years of work")
    assert len(users(out, Builder()).train) == 4  # nothing is replaced
    _truncate(out)
    with pytest.raises(UserError, match=r"also holds notes\.txt, which would be removed"):
        users(out, Builder())
    assert (out / "notes.txt").read_text() == "years of work"
    (out / "notes.txt").unlink()
    prepared.verify(users(out, Builder()))


def test_what_comes_into_a_users_directory_during_the_build_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def build(_: Workspace) -> Mapping[str, Array]:
        out.mkdir()
        (out / "thesis").write_text("one")
        return Builder().arrays

    with pytest.raises(UserError, match="is not empty and holds no prepared data"):
        users(out, build)
    assert (out / "thesis").read_text() == "one"


def test_the_working_directory_and_mount_points_are_refused_before_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, here = Builder(), tmp_path / "here"
    here.mkdir()
    (tmp_path / "link").symlink_to(here)
    monkeypatch.chdir(here)
    for out in (here, tmp_path / "link"):
        with pytest.raises(UserError, match="is the working directory, which cannot be replaced"):
            users(out, build)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os.path, "ismount", lambda path: path == here)
    with pytest.raises(UserError, match="is a mount point, which cannot be replaced"):
        users(here, build)
    assert build.count == 0


@pytest.mark.slow
def test_processes_at_once_build_once(cache_home: Path, tmp_path: Path) -> None:
    log = tmp_path / "builds"
    code = f"""
import time
from tests.data.test_prepared import Builder, prepare
class Slow(Builder):
    def __call__(self, workspace):
        with open({str(log)!r}, "a") as stream:
            stream.write("build\\n")
        time.sleep(0.5)
        return super().__call__(workspace)
print(prepare(1, Slow()).fingerprint)
"""
    command = [sys.executable, "-c", code]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0].strip() for process in running]
    assert outputs == [prepared.fingerprint(Builder().arrays)] * 2
    assert log.read_text() == "build\n"


def test_the_fingerprint_depends_on_names_types_shapes_and_values_but_not_on_layout() -> None:
    zeros, values = np.zeros((2, 3), dtype=np.float32), np.arange(6, dtype=np.float32).reshape(2, 3)
    others: list[Array] = [zeros.reshape(3, 2), zeros.view(np.int32), values, values * [[1, 1, 1], [1, 1, -1]]]
    variants = [{"a": zeros}, {"b": zeros}, *({"a": each} for each in others)]
    assert len({prepared.fingerprint(each) for each in variants}) == 6
    same: list[Array] = [values, np.asfortranarray(values), values.astype(">f4")]
    assert len({prepared.fingerprint({"a": each}) for each in same}) == 1
    assert prepared.fingerprint({"a": zeros, "b": values}) == prepared.fingerprint({"b": values, "a": zeros})
