import errno
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import pytest

from orca_ray.data import cache, layout, prepared
from orca_ray.data.prepared import Arrays, under_protocol
from orca_ray.data.raw import Workspace
from orca_ray.data.rows import LazyRows, PairwiseRows
from orca_ray.errors import UserError
from orca_ray.tasks.registry import get_task
from tests.raw_files import writers

Array = npt.NDArray[Any]


def builder(**changes: Array | None) -> mock.Mock:
    """Return a build that counts its calls; None as a change leaves an array out."""
    arrays: dict[str, Array | None] = {}
    for number, split in enumerate(prepared.SPLITS):
        arrays[f"{split}_x"] = np.arange(24, dtype=np.float32).reshape(4, 2, 3) + number
        arrays[f"{split}_y"] = np.arange(4, dtype=np.int64)
    arrays |= changes
    built = {name: array for name, array in arrays.items() if array is not None}
    return mock.Mock(return_value=built)


def prepare(
    build: prepared.Build, version: int = 1, **options: Any
) -> prepared.PreparedData:
    directory = prepared.directory_of("pocket/toy", version)
    return prepared.prepare("pocket/toy", directory, build, **options)


def test_arrays_come_back_memory_mapped_and_read_only() -> None:
    build = builder(y_mean=np.ones(1, np.float32), y_std=np.array(2, np.float32))
    data = prepare(build)
    assert isinstance(data.train.x, np.memmap)
    assert not data.train.x.flags.writeable
    for name, split in data.splits.items():
        np.testing.assert_array_equal(split.x, build.return_value[f"{name}_x"])
        np.testing.assert_array_equal(split.y, build.return_value[f"{name}_y"])
        assert len(split) == 4
    assert data.y_mean is not None
    assert data.y_std is not None
    assert data.y_mean.tolist() == [1]
    assert data.y_std.shape == ()
    assert data.y_std == 2
    assert data.fingerprint == prepared.fingerprint(build.return_value)
    prepared.verify(data)


def test_data_is_built_once_per_version_and_fingerprint() -> None:
    build = builder()
    first = prepare(build)
    assert prepare(build).fingerprint == first.fingerprint
    assert build.call_count == 1
    prepare(build, 2)
    assert build.call_count == 2
    new = builder(train_y=np.array([3, 2, 1, 0]))
    data = prepare(new, expected=prepared.fingerprint(new.return_value))
    assert new.call_count == 1
    np.testing.assert_array_equal(data.train.y, [3, 2, 1, 0])


def test_data_of_another_task_is_not_opened() -> None:
    directory = prepare(builder(train_y=np.array([3, 2, 1, 0]))).directory
    assert prepared.open_prepared("pocket/other", directory) is None
    of_other_task = prepared.prepare("pocket/other", directory, builder())
    first_target, *_ = of_other_task.train.y
    assert first_target == 0


def cut(name: str, end: int) -> Callable[[Path], object]:
    """Return a function that cuts a file of a directory."""

    def cut_file(directory: Path) -> None:
        path = directory / name
        path.write_bytes(path.read_bytes()[:end])

    return cut_file


def _remove_targets(directory: Path) -> None:
    (directory / "train_y.npy").unlink()


def _zero_inputs(directory: Path) -> None:
    path = directory / "train_x.npy"
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize(
    "damage",
    [
        cut("validation_x.npy", -8),
        cut("meta.json", 50),
        _remove_targets,
        _zero_inputs,
    ],
)
def test_damaged_files_are_prepared_again(
    damage: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    build = builder()
    damage(prepare(build).directory)
    data = prepare(build)
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "damaged" in warning.message
    np.testing.assert_array_equal(data.validation.x, build.return_value["validation_x"])
    prepared.verify(data)
    prepare(build)
    assert build.call_count == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"kinds": 7},
        {"kinds": {"train_x": ["a"]}},
        {"kinds": {"train_x": "pairwise"}},
        {"identity": {}},
        {"arrays": [1]},
        {"arrays": {"train_x": "x"}},
        {"fingerprint": None},
        {"name": ["x"]},
    ],
)
def test_a_description_of_other_types_counts_as_damaged(
    changes: dict[str, object],
) -> None:
    path = prepare(builder()).directory / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert prepared.open_prepared("pocket/toy", path.parent) is None


def test_verify_names_the_file_that_changed() -> None:
    data = prepare(builder())
    path = data.directory / "test_x.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(
        UserError,
        match=(
            r"test_x\.npy changed since it was prepared: expected sha256 \w{64}, got \w"
        ),
    ):
        prepared.verify(data)
    cut("meta.json", 50)(data.directory)
    with pytest.raises(UserError, match=r"meta\.json is unreadable"):
        prepared.verify(data)


EMPTY = {
    "validation_x": np.zeros((0, 2, 3), np.float32),
    "validation_y": np.zeros(0, np.int64),
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            dict.fromkeys(EMPTY),
            r"has no validation split .*test data is never used for selection",
        ),
        (EMPTY, "no validation split"),
        ({"test_y": None}, "has no test split"),
        (
            {"train_y": np.zeros(3, np.int64)},
            "the arrays of train have different lengths",
        ),
        ({"trian_x": np.zeros(1)}, "unexpected arrays trian_x"),
    ],
)
def test_incomplete_splits_are_refused_and_nothing_is_written(
    changes: dict[str, Array | None], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        prepare(builder(**changes))
    assert not prepared.directory_of("pocket/toy", 1).exists()


def test_another_fingerprint_than_declared_is_refused() -> None:
    build = builder()
    old = prepare(builder(train_y=np.array([3, 2, 1, 0])))
    with pytest.raises(
        UserError, match=r"has fingerprint \w{16}, expected 0123456789abcdef"
    ):
        prepare(build, expected="0123456789abcdef")
    still_there = prepared.open_prepared(
        "pocket/toy", old.directory, expected=old.fingerprint
    )
    assert still_there is not None
    assert sorted(os.listdir(old.directory.parent)) == ["1", "1.lock"]


def test_data_of_other_raw_files_are_built_again_where_they_are_held(
    caplog: pytest.LogCaptureFixture,
) -> None:
    build = builder()
    directory = prepared.directory_of("pocket/toy", 1)
    for identity, held, count in (
        ("a", True, 1),
        ("a", True, 1),
        ("b", False, 1),
        ("b", True, 2),
    ):
        prepared.prepare("pocket/toy", directory, build, identity=identity, held=held)
        assert build.call_count == count
    # Once more as DEBUG, where that is listened to: the first look is without the lock.
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "other raw files" in warning.message


def test_data_are_opened_by_their_identity_if_they_have_one() -> None:
    data = prepare(builder(), identity="b")
    assert prepared.open_prepared("pocket/toy", data.directory, identity="a") is None
    assert (
        prepared.open_prepared("pocket/toy", data.directory, identity="b") is not None
    )
    path = data.directory / "meta.json"
    meta = json.loads(path.read_text())
    del meta["identity"]  # as in older data
    path.write_text(json.dumps(meta))
    assert (
        prepared.open_prepared("pocket/toy", data.directory, identity="a") is not None
    )


def test_a_directory_of_other_files_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis").write_text("years of work")
    with pytest.raises(
        UserError, match="is there and holds no prepared data: name a new directory"
    ):
        prepared.prepare("pocket/toy", tmp_path, builder())
    assert (tmp_path / "thesis").read_text() == "years of work"


ZEROS = np.zeros((2, 3), dtype=np.float32)
VALUES = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_the_fingerprint_depends_on_names_types_shapes_and_values() -> None:
    variants: list[Arrays] = [
        {"a": ZEROS},
        {"b": ZEROS},
        {"a": ZEROS.reshape(3, 2)},
        {"a": ZEROS.view(np.int32)},
        {"a": VALUES},
        {"a": VALUES * [[1, 1, 1], [1, 1, -1]]},
    ]
    assert len(set(map(prepared.fingerprint, variants))) == 6


def test_the_fingerprint_does_not_depend_on_layout_and_order() -> None:
    variants: list[Arrays] = [
        {"a": ZEROS, "b": VALUES},
        {"b": VALUES, "a": ZEROS},
        {"a": ZEROS, "b": np.asfortranarray(VALUES)},
        {"a": ZEROS, "b": VALUES.astype(">f4")},
    ]
    assert len(set(map(prepared.fingerprint, variants))) == 1


class Counting:
    """Fills train_x in batches of two, and stops before item ``stop``."""

    def __init__(self, stop: int | None = None, error: Any = KeyboardInterrupt) -> None:
        self.stop = stop
        self.error = error
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
    x = np.ones((4, 2, 3), np.float32)
    y = np.arange(4, dtype=np.int64)
    return {
        "train_y": np.arange(6, dtype=np.int64),
        "validation_x": x,
        "validation_y": y,
        "test_x": x,
        "test_y": y,
    }


def _directories() -> list[str]:
    """Return the names of what is stored for the task, locks included."""
    return sorted(os.listdir(prepared.directory_of("pocket/toy", 1).parent))


FILES = sorted(["meta.json", *(f"{key}.npy" for key in prepared.REQUIRED)])
FILLED = np.repeat(np.arange(1, 7, dtype=np.float32), 6).reshape(6, 2, 3)


def test_an_interrupted_build_goes_on_where_it_stopped() -> None:
    first = Counting(stop=4)
    second = Counting()
    with pytest.raises(KeyboardInterrupt):
        prepare(first)
    data = prepare(second)
    assert first.filled == [0, 1, 2, 3]
    assert second.filled == [4, 5]
    np.testing.assert_array_equal(data.train.x, FILLED)
    assert _directories() == ["1", "1.lock"]
    assert sorted(path.name for path in data.directory.iterdir()) == FILES
    assert data.fingerprint == prepared.fingerprint({"train_x": FILLED, **_others()})
    prepared.verify(data)


def test_an_interrupted_build_of_other_raw_files_starts_anew() -> None:
    with pytest.raises(KeyboardInterrupt):
        prepare(Counting(stop=4), identity="raw of yesterday")
    second = Counting()
    prepare(second, identity="raw of today")
    assert second.filled == list(range(6))


def _truncated(_: str) -> UserError:
    error = UserError("stopped")  # as h5py's readers raise it for a truncated file
    error.__cause__ = OSError("truncated")
    return error


@pytest.mark.parametrize(
    ("error", "is_kept"),
    [
        (UserError, False),
        (ValueError, False),
        (_truncated, False),
        (MemoryError, True),
        (partial(OSError, errno.ENOSPC), True),
        (partial(OSError, errno.EIO), True),
    ],
)
def test_finished_batches_outlive_only_what_the_input_is_not_at_fault_for(
    error: Any, is_kept: bool
) -> None:
    with pytest.raises(
        (UserError, MemoryError, OSError, ValueError), match=r"stopped|space"
    ):
        prepare(Counting(stop=4, error=error))
    assert (_directories() == ["1.lock"]) == (not is_kept)
    second = Counting()
    prepare(second)
    assert second.filled == ([4, 5] if is_kept else [0, 1, 2, 3, 4, 5])


@pytest.mark.parametrize(
    ("module", "name"), [(layout, "fingerprint"), (cache, "flush")]
)
def test_an_interruption_after_the_build_loses_no_batch(
    module: ModuleType, name: str
) -> None:
    with (
        mock.patch.object(module, name, side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        prepare(Counting())
    second = Counting()
    data = prepare(second)
    assert second.filled == []
    assert sorted(path.name for path in data.directory.iterdir()) == FILES
    np.testing.assert_array_equal(data.train.x, FILLED)


@pytest.mark.parametrize("view", [lambda x: x[:4], lambda x: x[::-1], lambda x: x[1:5]])
def test_a_build_may_return_a_part_of_its_own_array(view: Any) -> None:
    def build(workspace: Workspace) -> Arrays:
        arrays = dict(Counting()(workspace))
        x = view(arrays["train_x"])
        y = view(np.asarray(arrays["train_y"]))
        return {**arrays, "train_x": x, "train_y": y}

    data = prepare(build)
    prepared.verify(data)
    np.testing.assert_array_equal(data.train.x, view(FILLED))
    arrays = {**_others(), "train_x": data.train.x, "train_y": data.train.y}
    assert data.fingerprint == prepared.fingerprint(arrays)


def test_space_is_taken_when_an_array_is_made(tmp_path: Path) -> None:
    workspace = Workspace("big/toy", tmp_path, tmp_path)
    assert workspace.array("x", (1000, 1000)).sum() == 0
    status = (tmp_path / "x.npy").stat()
    assert status.st_blocks * 512 >= status.st_size


def _refuse_to_reserve(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    error = OSError(code, os.strerror(code))
    monkeypatch.setattr(os, "posix_fallocate", mock.Mock(side_effect=error))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_an_array_without_space_is_refused(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _refuse_to_reserve(monkeypatch, code)
    workspace = Workspace("big/toy", tmp_path, tmp_path)
    with pytest.raises(UserError, match="no space left"):
        workspace.array("x", (2, 3))
    assert os.listdir(tmp_path) == []


def test_a_file_system_that_reserves_no_space_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _refuse_to_reserve(monkeypatch, errno.EOPNOTSUPP)
    workspace = Workspace("big/toy", tmp_path, tmp_path)
    assert workspace.array("x", (2, 3)).shape == (2, 3)
    assert os.listdir(tmp_path) == ["x.npy"]


@pytest.mark.parametrize(
    ("num_bytes", "shape"),
    [(0, (2, 3)), (5, (2, 3)), (100, (2, 3)), (None, (2, 4))],
)
def test_an_array_that_was_only_begun_or_has_another_shape_is_made_anew(
    num_bytes: int | None, shape: tuple[int, ...], tmp_path: Path
) -> None:
    """A process may be killed before the header is whole."""
    path = tmp_path / "train_x.npy"
    workspace = Workspace("big/toy", tmp_path, tmp_path)
    workspace.array("train_x", (2, 3))[:] = 1
    path.write_bytes(path.read_bytes()[:num_bytes])
    assert workspace.array("train_x", shape).sum() == 0


def test_a_missing_raw_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    workspace = Workspace("big/toy", tmp_path / "raw", tmp_path)
    message = (
        r"raw file a/b\.npy is not in .*raw; run 'orca-sweep data fetch big/toy --raw"
        r" .*/raw'"
    )
    with pytest.raises(UserError, match=message):
        workspace.file("a/b.npy")
    assert workspace.optional("a/b.npy") is None


def test_an_error_of_the_build_gets_task_and_raw_directory(tmp_path: Path) -> None:
    build = mock.Mock(side_effect=UserError("16 samples are too few"))
    with pytest.raises(
        UserError, match=rf"big/toy \(raw files in {tmp_path}\): 16 samples are too few"
    ):
        prepared.prepare("big/toy", tmp_path / "out", build, raw=tmp_path)


def _pairwise(num: int, seed: int) -> tuple[PairwiseRows, Array]:
    """Return composite rows, and the same rows as one array."""
    generator = np.random.default_rng(seed)
    positions = generator.normal(size=(num, 3, 5)).astype(np.float32)
    pairs = generator.normal(size=(num, 2, 5, 5)).astype(np.float32)
    along_rows = np.broadcast_to(positions[:, :, :, None], (num, 3, 5, 5))
    along_columns = np.broadcast_to(positions[:, :, None, :], (num, 3, 5, 5))
    joined = np.concatenate([along_rows, along_columns, pairs], axis=1)
    return PairwiseRows({"positions": positions, "pairs": pairs}), joined


def test_composite_rows_are_stored_as_parts_and_come_back_joined() -> None:
    train_rows, train_x = _pairwise(6, 0)
    test_rows, test_x = _pairwise(4, 1)
    arrays: Arrays = {
        **_others(),
        "train_x": train_rows,
        "validation_x": test_rows,
        "test_x": test_rows,
    }
    data = prepare(lambda _: arrays)
    assert data.train.x.shape == (6, 8, 5, 5)
    for rows in (slice(1, 4), np.array([5, 0, 2])):
        np.testing.assert_array_equal(data.train.x[rows], train_x[rows])
    assert (data.directory / "train_x.pairs.npy").is_file()
    assert data.fingerprint == prepared.fingerprint(arrays)
    prepared.verify(data)
    joined = under_protocol(data, "paper").train.x
    assert isinstance(joined, LazyRows)
    expected = np.concatenate([train_x, test_x])[[9, 0, 6]]
    np.testing.assert_array_equal(joined[np.array([9, 0, 6])], expected)


def test_groups_are_kept_and_stay_apart_when_two_splits_are_joined() -> None:
    groups = {
        "train_group": np.array([0, 0, 1, 2, 2, 2]),
        "validation_group": np.array([1, 1, 0, 2]),
    }
    data = prepare(lambda _: {"train_x": FILLED, **_others(), **groups})
    assert data.test.group is None
    np.testing.assert_array_equal(data.validation.group, [1, 1, 0, 2])
    joined = under_protocol(data, "paper").train
    np.testing.assert_array_equal(joined.group, [0, 0, 1, 2, 2, 2, 4, 4, 3, 5])
    ungrouped = replace(data, splits={**data.splits, "validation": data.test})
    assert under_protocol(ungrouped, "paper").train.group is None


TASKS = sorted(
    name
    for name in writers()
    if not name.startswith(("openml/", "pdebench_generated/"))
)
SAMPLED = ("drug/ctrp", "nasbench360/ecg", "pdebench/shallow_water")
MOST_RUNS = 60


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in SAMPLED else pytest.mark.exhaustive)
        for name in TASKS
    ],
)
def test_a_build_interrupted_after_every_batch_ends_the_same(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "raw"
    task = get_task(name)
    raw.mkdir()
    writers()[name](raw)
    uninterrupted = task.prepare(raw=raw, out=tmp_path / "whole")
    batches = Workspace.batches
    write = Workspace._write_progress

    def small(
        workspace: Workspace, stage: str, num_items: int, _: int, *arrays: Array
    ) -> Iterator[slice]:
        return batches(workspace, stage, num_items, max(1, num_items // 3), *arrays)

    def interrupted(workspace: Workspace) -> None:
        write(workspace)
        raise KeyboardInterrupt

    monkeypatch.setattr(Workspace, "batches", small)
    monkeypatch.setattr(Workspace, "_write_progress", interrupted)
    for _ in range(MOST_RUNS):
        try:
            data = task.prepare(raw=raw, out=tmp_path / "resumed")
        except KeyboardInterrupt:
            continue
        assert data.fingerprint == uninterrupted.fingerprint
        prepared.verify(data)
        return
    pytest.fail(
        f"not done after {MOST_RUNS} interruptions: something is begun anew each time"
    )
