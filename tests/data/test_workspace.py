"""Builds that fill arrays on the disk, stop half-way and go on."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

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

    def __init__(self, stop: int | None = None, error: Any = KeyboardInterrupt) -> None:
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


FILES = sorted(["meta.json", *(f"{key}.npy" for key in prepared.REQUIRED)])
FILLED = np.repeat(np.arange(1, 7, dtype=np.float32), 6).reshape(6, 2, 3)


def test_an_interrupted_build_goes_on_where_it_stopped() -> None:
    first, second = Counting(stop=4), Counting()
    with pytest.raises(KeyboardInterrupt):
        _prepare(first)
    data = _prepare(second)
    assert (first.filled, second.filled) == ([0, 1, 2, 3], [4, 5])
    np.testing.assert_array_equal(data.train.x, FILLED)
    assert _left() == ["1", "1.lock"]
    assert sorted(path.name for path in data.directory.iterdir()) == FILES
    assert data.fingerprint == prepared.fingerprint({"train_x": FILLED, **_others()})
    prepared.verify(data)


def test_other_raw_files_begin_anew() -> None:
    with pytest.raises(KeyboardInterrupt):
        _prepare(Counting(stop=4), "raw of yesterday")
    again = Counting()
    _prepare(again, "raw of today")
    assert again.filled == list(range(6))


def _truncated(_: str) -> UserError:
    error = UserError("stopped")  # as h5py's readers raise it for a truncated file
    error.__cause__ = OSError("truncated")
    return error


@pytest.mark.parametrize("error", [UserError, ValueError, _truncated])
def test_bad_input_leaves_nothing_behind(error: Any) -> None:
    with pytest.raises((UserError, ValueError), match="stopped"):
        _prepare(Counting(stop=4, error=error))
    assert _left() == ["1.lock"]


def _full(_: str) -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


def _too_little(_: str) -> UserError:
    with pytest.raises(UserError, match="no space") as caught:
        cache.require_space(Path(), 1e18)
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
    assert sorted(path.name for path in data.directory.iterdir()) == FILES
    np.testing.assert_array_equal(data.train.x, FILLED)


@pytest.mark.parametrize("view", [lambda x: x[:4], lambda x: x[::-1], lambda x: x[1:5]])
def test_a_build_may_return_a_part_of_its_own_array(view: Any) -> None:
    def build(workspace: Workspace) -> Arrays:
        arrays = dict(Counting()(workspace))
        x, y = view(arrays["train_x"]), view(np.asarray(arrays["train_y"]))
        return {**arrays, "train_x": x, "train_y": y}

    data = _prepare(build)
    prepared.verify(data)
    np.testing.assert_array_equal(data.train.x, view(FILLED))
    assert data.fingerprint == prepared.fingerprint({**_others(), "train_x": data.train.x, "train_y": data.train.y})


def test_a_filled_array_is_moved_also_to_a_home_behind_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    monkeypatch.setenv("ORCA_RAY_HOME", str(tmp_path / "link"))
    with mock.patch.object(np, "save", wraps=np.save) as save:
        data = _prepare(Counting())
    np.testing.assert_array_equal(data.train.x, FILLED)
    assert not [call for call in save.call_args_list if "train_x" in str(call.args[0])]


def _fails(code: int) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def test_space_is_taken_when_an_array_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace, path = Workspace("big/toy", tmp_path, tmp_path), tmp_path / "x.npy"
    assert workspace.array("x", (1000, 1000)).sum() == 0
    assert path.stat().st_blocks * 512 >= path.stat().st_size
    monkeypatch.setattr(os, "posix_fallocate", _fails(errno.EOPNOTSUPP))  # such a file system will do, too
    assert workspace.array("y", (2, 3)).shape == (2, 3)
    for code in (errno.ENOSPC, errno.EDQUOT):
        monkeypatch.setattr(os, "posix_fallocate", _fails(code))
        with pytest.raises(UserError, match="no space left on the disk"):
            workspace.array("z", (2, 3))
    assert sorted(os.listdir(tmp_path)) == ["x.npy", "y.npy"]


@pytest.mark.parametrize("num_bytes", [0, 5, 100, None])
def test_an_array_that_was_only_begun_or_has_another_shape_is_made_anew(num_bytes: int | None, tmp_path: Path) -> None:
    """A process may be killed before the header is whole."""
    path = tmp_path / "train_x.npy"
    workspace = Workspace("big/toy", tmp_path, tmp_path)
    workspace.array("train_x", (2, 3))[:] = 1
    path.write_bytes(path.read_bytes()[:num_bytes])
    assert workspace.array("train_x", (2, 3) if num_bytes is not None else (2, 4)).sum() == 0


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
    others, others_whole = _pairwise(4, 1)
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
    np.testing.assert_array_equal(joined[np.array([9, 0, 6])], np.stack([others_whole[3], whole[0], others_whole[0]]))


def test_groups_are_kept_and_stay_apart_when_two_splits_are_joined() -> None:
    groups = {"train_group": np.array([0, 0, 1, 2, 2, 2]), "validation_group": np.array([1, 1, 0, 2])}
    data = _prepare(lambda _: {"train_x": FILLED, **_others(), **groups})
    assert data.test.group is None
    np.testing.assert_array_equal(data.validation.group, [1, 1, 0, 2])
    np.testing.assert_array_equal(under_protocol(data, "paper").train.group, [0, 0, 1, 2, 2, 2, 4, 4, 3, 5])
