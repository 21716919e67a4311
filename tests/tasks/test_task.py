"""The checks of a declaration against its arrays, on toy tasks."""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from orca_ray.data import prepared
from orca_ray.data.raw import RawFile, Workspace
from orca_ray.data.rows import Array, Target
from orca_ray.discovery import declared
from orca_ray.errors import UserError
from orca_ray.tasks.task import Arrays, Task
from orca_ray.testing.trials import make_task

pytestmark = pytest.mark.usefixtures("empty_home")


def _arrays(target: Target, **changes: Array | None) -> Mapping[str, Array]:
    arrays: dict[str, Array | None] = {}
    for split in prepared.SPLITS:
        arrays[f"{split}_x"] = np.ones((6, 2, 5), np.float32)
        if target.kind == "classes":
            arrays[f"{split}_y"] = np.arange(6, dtype=np.int64) % 3
        else:
            arrays[f"{split}_y"] = np.ones((6, *target.output_shape), np.float32)
    arrays |= changes
    return {name: array for name, array in arrays.items() if array is not None}


def _task(target: Target, **changes: Array | None) -> Task:
    def build(_: Workspace) -> Arrays:
        return _arrays(target, **changes)

    task = make_task(target, (2, 5))
    return replace(task, name="toy/one", domain="tabular", build=build)


CLASSES = Target("classes", size=3)
UNCOUNTED = Target("classes", size=0)
DENSE = Target("dense", shape=(5,))
ONES = np.ones((6, 2, 5), np.float32)
NAN = np.full((6, 2, 5), np.nan, np.float32)


@pytest.mark.parametrize(
    ("target", "changes", "message"),
    [
        (
            CLASSES,
            {"test_x": np.ones((6, 5), np.float32)},
            r"test inputs have shape \(5,\), declared is \(2, 5\)",
        ),
        (
            CLASSES,
            {"train_x": np.ones((6, 2, 5))},
            "train inputs must be float32, got float64",
        ),
        (CLASSES, {"train_x": NAN}, "train inputs hold values that are not finite"),
        (
            CLASSES,
            {"validation_y": np.array([0, 1, 2, 3, 0, 0])},
            r"validation labels must be in 0…2, got 0…3",
        ),
        (CLASSES, {"validation_y": np.array([-1, 1, 2, 0, 0, 0])}, r"got -1…2"),
        (
            CLASSES,
            {"train_y": np.zeros(6, np.float32)},
            "train labels must be int64, got float32",
        ),
        (
            CLASSES,
            {"train_y": np.array([0, 0, 0, 2, 2, 2])},
            "no training sample of class 1",
        ),
        (
            CLASSES,
            {"train_x": ONES[:2], "train_y": np.array([0, 1])},
            "2 training samples are fewer than its 3",
        ),
        # The number of classes that only the data tell is that of the training labels.
        (
            UNCOUNTED,
            {"validation_y": np.array([0, 1, 2, 3, 0, 0])},
            r"validation labels must be in 0…2, got 0…3",
        ),
        (
            UNCOUNTED,
            {"train_y": np.full(6, -1)},
            r"train labels must be 0 or more, got -1…-1",
        ),
        (
            UNCOUNTED,
            {"train_x": ONES[:0], "train_y": np.zeros(0, np.int64)},
            "has no train split",
        ),
        (
            DENSE,
            {"test_y": np.ones((6, 4), np.float32)},
            r"test targets have shape \(4,\), declared is \(5,\)",
        ),
        (
            DENSE,
            {"y_std": np.full(1, np.inf, np.float32)},
            "y_std hold values that are not finite",
        ),
        (
            Target("scalar"),
            {"train_y": np.ones((6, 1), np.float32)},
            r"targets have shape \(1,\), declared is \(\)",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    target: Target, changes: dict[str, Array | None], message: str
) -> None:
    task = _task(target, **changes)
    with pytest.raises(UserError, match=message):
        task.prepare()
    assert not prepared.directory_of(task.name, task.version).exists()


def test_what_only_the_data_tell_is_filled_in() -> None:
    task = replace(
        _task(UNCOUNTED), input_shape=None, input_kind="sequence", num_samples=None
    )
    resolved = task.resolved(task.prepare())
    assert resolved.input_shape == (2, 5)
    assert resolved.target.size == 3
    assert resolved.num_samples == (6, 6, 6)
    with pytest.raises(ValueError, match="must say its input_kind"):
        replace(task, input_kind=None)


def test_splits_of_the_paper_lie_beside_the_others() -> None:
    protocols = []

    def build(workspace: Workspace) -> Arrays:
        protocols.append(workspace.protocol)
        return _arrays(CLASSES)

    task = replace(_task(CLASSES), build=build, paper_splits=True)
    assert task.prepare("paper").directory.name == "1-paper"
    assert task.prepare().directory.name == "1"
    assert protocols == ["paper", "held-out"]
    assert task.prepared("paper") is not None
    assert replace(task, paper_splits=False).prepare("paper").directory.name == "1"


def _task_of_files(*files: RawFile, built: list[Path]) -> Task:
    """Return a task that adds the folder of its raw files to ``built``."""

    def build(workspace: Workspace) -> Arrays:
        built.append(workspace.raw)
        return _arrays(CLASSES)

    return replace(_task(CLASSES), files=files, build=build)


def test_the_cache_is_held_to_raw_files_that_are_named(tmp_path: Path) -> None:
    built: list[Path] = []
    task = _task_of_files(RawFile(path="a.npy"), built=built)
    for name, content in (("A", b"1"), ("B", b"22")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.npy").write_bytes(content)
    for name in "AABBA":
        task.prepare(raw=tmp_path / name)
    assert [raw.name for raw in built] == ["A", "B", "A"]
    # The task's own raw files are not there, so the data stay.
    assert task.prepare().directory == task.prepared_directory()
    with pytest.raises(UserError, match="raw files are not in"):
        task.prepare(raw=tmp_path / "typo")
    assert len(built) == 3


def test_raw_files_that_changed_make_the_data_again_and_those_that_are_gone_do_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    built: list[Path] = []
    task = _task_of_files(
        RawFile(path="a.npy"), RawFile(path="b.zip", unpacked="inside"), built=built
    )
    raw = task.raw_directory
    (raw / "inside").mkdir(parents=True)
    (raw / "a.npy").write_bytes(b"1")
    (raw / "b.zip").write_bytes(b"1")
    task.prepare()
    (raw / "b.zip").unlink()  # it is unpacked
    task.prepare()
    assert len(built) == 1
    assert task.prepared() is not None
    (raw / "a.npy").write_bytes(b"12")
    assert task.prepared() is None
    task.prepare()
    assert len(built) == 2
    assert "prepared data is of other raw files than there are now" in caplog.text
    (raw / "inside" / "new").write_bytes(b"")
    os.utime(raw / "inside", ns=(0, 0))
    task.prepare()
    assert len(built) == 3
    (raw / "a.npy").unlink()
    assert task.prepared() is not None
    task.prepare()
    assert len(built) == 3


@pytest.mark.parametrize("identity", ["version 1, held-out\n/home/one", None])
def test_data_without_raw_files_of_an_older_version_stay(identity: str | None) -> None:
    task = _task(CLASSES)
    meta = task.prepare().directory / "meta.json"
    content = json.loads(meta.read_text())
    del content["identity"]
    if identity is not None:
        content["identity"] = identity
    meta.write_text(json.dumps(content))
    assert task.prepared() is not None
    modified = meta.stat().st_mtime_ns
    assert task.prepare(raw=Path("anywhere")).directory == meta.parent
    assert meta.stat().st_mtime_ns == modified


def test_a_module_may_declare_one_task_and_several_and_nothing_else() -> None:
    one = replace(_task(CLASSES), name="toy/one")
    two = replace(_task(CLASSES), name="toy/two")
    three = replace(_task(CLASSES), name="toy/three")
    module = ModuleType("orca_ray.tasks.toy.all")
    assert not declared(Task, "TASK", [module])
    module.__dict__.update(TASK=one, TASKS=(two, three))
    in_order_of_names = [one, three, two]
    assert list(declared(Task, "TASK", [module]).values()) == in_order_of_names
    with pytest.raises(ValueError, match="two modules declare the task 'toy/one'"):
        declared(Task, "TASK", [module, module])
    module.__dict__["TASKS"] = (two, "three")
    message = r"orca_ray\.tasks\.toy\.all declares .*, which is no Task"
    with pytest.raises(ValueError, match=message):
        declared(Task, "TASK", [module])


def test_bad_declarations_are_refused() -> None:
    task = _task(CLASSES)
    assert task.benchmark == "toy"
    assert task.short_name == "one"
    for name in ("toy", "toy/", "a/b/c"):
        with pytest.raises(ValueError, match="named benchmark/task"):
            replace(task, name=name)
    with pytest.raises(ValueError, match="input_shape must be"):
        replace(task, input_shape=(5,))
