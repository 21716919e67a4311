"""Builds that fill arrays on the disk, stop half-way and go on."""

import errno
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from orca_ray.data import cache, layout, prepared
from orca_ray.data.prepared import Arrays, under_protocol
from orca_ray.data.raw import Workspace
from orca_ray.data.rows import JoinedRows, PairwiseRows
from orca_ray.errors import UserError

Array = np.ndarray[Any, np.dtype[Any]]


class Counting:
    """Fills train_x in batches of two, and stops before item ``stop``."""

    def __init__(self, stop: int | None = None, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.stop, self.error = stop, error
        self.filled: list[int] = []

    def __call__(self, workspace: Workspace) -> Arrays:
        x = workspace.array("train_x", (6, 2, 3))
        for part in workspace.batches("train", 6, 2, x):
            for item in range(6)[part]:
                if item == self.stop:
                    raise self.error("stopped")
                self.filled.append(item)
                x[item] = item + 1
        return {"train_x": x, **_others()}


def _others() -> dict[str, Array]:
    x, y = np.ones((4, 2, 3), np.float32), np.arange(4, dtype=np.int64)
    return {"train_y": np.arange(6, dtype=np.int64), "validation_x": x, "validation_y": y, "test_x": x, "test_y": y}


def _prepare(build: prepared.Build, identity: str = "") -> prepared.PreparedData:
    return prepared.prepare("big/toy", prepared.directory_of("big/toy", 1), build, identity=identity)


def _left() -> list[str]:
    return sorted(os.listdir(prepared.directory_of("big/toy", 1).parent))


def test_an_interrupted_build_goes_on_where_it_stopped() -> None:
    first, second = Counting(stop=4), Counting()
    with pytest.raises(KeyboardInterrupt):
        _prepare(first)
    data = _prepare(second)
    assert (first.filled, second.filled) == ([0, 1, 2, 3], [4, 5])
    np.testing.assert_array_equal(np.asarray(data.train.x)[:, 0, 0], np.arange(1, 7))
    assert _left() == ["1", "1.lock"]
    assert sorted(path.name for path in data.directory.iterdir()) == sorted(
        ["meta.json", *(f"{key}.npy" for key in prepared.REQUIRED)]
    )
    prepared.verify(data)


def test_other_raw_files_begin_anew() -> None:
    with pytest.raises(KeyboardInterrupt):
        _prepare(Counting(stop=4), "raw of yesterday")
    again = Counting()
    _prepare(again, "raw of today")
    assert again.filled == list(range(6))


@pytest.mark.parametrize("error", [UserError, ValueError])
def test_bad_input_leaves_nothing_behind(error: type[Exception]) -> None:
    with pytest.raises(error, match="stopped"):
        _prepare(Counting(stop=4, error=error))
    assert _left() == ["1.lock"]


def test_a_reader_that_knows_why_is_bad_input_too() -> None:
    def build(workspace: Workspace) -> Arrays:
        try:
            return Counting(stop=4, error=OSError)(workspace)
        except OSError as error:  # as h5py raises it for a truncated file
            raise UserError("truncated") from error

    with pytest.raises(UserError, match="truncated"):
        _prepare(build)
    assert _left() == ["1.lock"]


def _full(_: str) -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


def _too_little(_: str) -> UserError:
    with pytest.raises(UserError, match="no space") as caught:
        cache.check_space(Path(), 1e18)
    return caught.value


@pytest.mark.parametrize("error", [_full, _too_little, MemoryError, lambda _: OSError(errno.EIO, "i/o")])
def test_finished_batches_outlive_what_the_input_is_not_at_fault_for(error: Any) -> None:
    with pytest.raises((UserError, MemoryError, OSError)):
        _prepare(Counting(stop=4, error=error))
    second = Counting()
    _prepare(second)
    assert second.filled == [4, 5]


@pytest.mark.parametrize(("module", "name"), [(layout, "fingerprint"), (cache, "flush")])
def test_an_interruption_after_the_build_loses_no_batch(
    module: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, name, interrupt)
        with pytest.raises(KeyboardInterrupt):
            _prepare(Counting())
    second = Counting()
    data = _prepare(second)
    assert second.filled == []
    assert sorted(path.name for path in data.directory.iterdir()) == sorted(
        ["meta.json", *(f"{key}.npy" for key in prepared.REQUIRED)]
    )
    np.testing.assert_array_equal(np.asarray(data.train.x)[:, 0, 0], np.arange(1, 7))


def test_what_a_build_only_works_with_outlives_an_interruption_and_goes_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def build(workspace: Workspace) -> Arrays:
        own = workspace.array("own", (4,), np.int64)
        for part in workspace.batches("own", 4, 2, own):
            own[part] = np.arange(4)[part]
        return {**Counting()(workspace), "validation_y": np.asarray(own)}

    def interrupt(_: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cache, "flush", interrupt)
        with pytest.raises(KeyboardInterrupt):
            _prepare(build)
    data = _prepare(build)
    np.testing.assert_array_equal(data.validation.y, np.arange(4))
    assert not (data.directory / "own.npy").exists()


@pytest.mark.parametrize("view", [lambda x: x[:4], lambda x: x[::-1], lambda x: x[1:5]])
def test_a_build_may_return_a_part_of_its_own_array(view: Any) -> None:
    def build(workspace: Workspace) -> Arrays:
        arrays = dict(Counting()(workspace))
        x, y = view(arrays["train_x"]), view(np.asarray(arrays["train_y"]))
        return {**arrays, "train_x": x, "train_y": y}

    data = _prepare(build)
    prepared.verify(data)
    np.testing.assert_array_equal(np.asarray(data.train.x)[:, 0, 0], view(np.arange(1, 7)))
    assert data.fingerprint == prepared.fingerprint({**_others(), "train_x": data.train.x, "train_y": data.train.y})


def test_a_home_behind_a_link_is_as_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    monkeypatch.setenv("ORCA_RAY_HOME", str(tmp_path / "link"))
    saved, save = list[str](), np.save

    def noted(path: Path, *values: Any, **options: Any) -> None:
        saved.append(Path(path).name)
        save(path, *values, **options)

    monkeypatch.setattr(np, "save", noted)
    data = _prepare(Counting())
    np.testing.assert_array_equal(np.asarray(data.train.x)[:, 0, 0], np.arange(1, 7))
    assert not [name for name in saved if "train_x" in name]


def test_space_is_taken_when_an_array_is_made(tmp_path: Path) -> None:
    workspace = Workspace("big/toy", tmp_path, tmp_path)
    assert workspace.array("train_x", (1000, 1000)).sum() == 0
    status = (tmp_path / "train_x.npy").stat()
    assert status.st_blocks * 512 >= status.st_size


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_leaves_no_array(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match="no space left on the disk"):
        Workspace("big/toy", tmp_path, tmp_path).array("train_x", (2, 3))
    assert not list(tmp_path.iterdir())


def test_a_file_system_that_reserves_nothing_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(os, "posix_fallocate", unknown)
    assert Workspace("big/toy", tmp_path, tmp_path).array("train_x", (2, 3)).shape == (2, 3)


def test_a_killed_build_goes_on_too(cache_home: Path) -> None:
    code = """
import os, signal
from tests.data.test_workspace import Counting, _prepare
class Killed(Counting):
    def __call__(self, workspace):
        self.error = lambda _: os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(workspace)
_prepare(Killed(stop=4))
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    second = Counting()
    _prepare(second)
    assert second.filled == [4, 5]


def test_a_filled_array_is_moved_and_its_fingerprint_is_that_of_its_values() -> None:
    arrays: Mapping[str, Array] = {
        "train_x": np.repeat(np.arange(1, 7, dtype=np.float32), 6).reshape(6, 2, 3),
        **_others(),
    }
    assert _prepare(Counting()).fingerprint == prepared.fingerprint(arrays)


def test_an_array_of_another_shape_is_made_anew(tmp_path: Path) -> None:
    workspace = Workspace("big/toy", tmp_path, tmp_path)
    workspace.array("train_x", (2, 3))[:] = 1
    assert workspace.array("train_x", (2, 4)).sum() == 0


@pytest.mark.parametrize("num_bytes", [0, 5, 100])
def test_an_array_that_was_only_begun_is_made_anew(num_bytes: int, tmp_path: Path) -> None:
    """A process may be killed before the header is whole."""
    path = tmp_path / "train_x.npy"
    Workspace("big/toy", tmp_path, tmp_path).array("train_x", (2, 3))[:] = 1
    path.write_bytes(path.read_bytes()[:num_bytes])
    assert Workspace("big/toy", tmp_path, tmp_path).array("train_x", (2, 3)).sum() == 0


def test_a_missing_raw_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    workspace = Workspace("big/toy", tmp_path / "raw", tmp_path)
    with pytest.raises(
        UserError, match=r"raw file a/b\.npy is not in .*raw; run 'orca-sweep data fetch big/toy --raw .*/raw'"
    ):
        workspace.file("a/b.npy")
    assert workspace.optional("a/b.npy") is None


def _pairwise(num: int, seed: int) -> tuple[PairwiseRows, Array]:
    generator = np.random.default_rng(seed)
    positions = generator.normal(size=(num, 3, 5)).astype(np.float32)
    pairs = generator.normal(size=(num, 2, 5, 5)).astype(np.float32)
    ones = np.ones((5, 5), np.float32)
    tiled = [np.concatenate([f[:, :, None] * ones, f[:, None, :] * ones]) for f in positions]
    return PairwiseRows({"positions": positions, "pairs": pairs}), np.concatenate([tiled, pairs], axis=1)


def test_composite_rows_are_stored_as_parts_and_come_back_whole() -> None:
    rows, whole = _pairwise(6, 0)
    others, _ = _pairwise(4, 1)
    arrays: Arrays = {**_others(), "train_x": rows, "validation_x": others, "test_x": others}
    data = _prepare(lambda _: arrays)
    assert data.train.x.shape == (6, 8, 5, 5)
    for part in (slice(1, 4), np.array([5, 0, 2])):
        np.testing.assert_array_equal(data.train.x[part], whole[part])
    assert (data.directory / "train_x.pairs.npy").is_file()
    assert data.fingerprint == prepared.fingerprint(arrays)
    prepared.verify(data)
    joined = under_protocol(data, "paper").train.x
    assert isinstance(joined, JoinedRows)
    np.testing.assert_array_equal(joined[np.array([9, 0, 6])], np.stack([others[3:4][0], whole[0], others[0:1][0]]))


def test_groups_are_kept() -> None:
    group = np.array([0, 0, 1, 1])
    data = _prepare(lambda _: {"train_x": np.ones((6, 2, 3), np.float32), **_others(), "test_group": group})
    assert data.train.group is None
    np.testing.assert_array_equal(data.test.group, group)


def test_groups_of_two_splits_stay_apart_when_they_are_joined() -> None:
    groups = {"train_group": np.array([0, 0, 1, 2, 2, 2]), "validation_group": np.array([1, 1, 0, 2])}
    x = np.ones((6, 2, 3), np.float32)
    data = _prepare(lambda _: {"train_x": x, **_others(), **groups})
    np.testing.assert_array_equal(under_protocol(data, "paper").train.group, [0, 0, 1, 2, 2, 2, 4, 4, 3, 5])
