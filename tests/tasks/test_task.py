"""The checks of a declaration against its arrays, on toy tasks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from orca_ray.data import prepared
from orca_ray.data.target import Target
from orca_ray.errors import UserError
from orca_ray.tasks.task import Task

Array = npt.NDArray[Any]


@pytest.fixture(autouse=True)
def _cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCA_RAY_HOME", str(tmp_path / "home"))


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


def _task(target: Target, *, fingerprint: str | None = None, **changes: Array | None) -> Task:
    return Task(
        name="toy/one",
        title="Toy",
        modality="tabular",
        input_shape=(2, 5),
        target=target,
        loss="mse",
        metric="rmse",
        body="minilm-l6",
        num_samples=(6, 6, 6),
        licence="MIT",
        citation="none",
        reference="none",
        build=lambda: _arrays(target, **changes),
        fingerprint=fingerprint,
    )


CLASSES = Target("classes", size=3)
DENSE = Target("dense", shape=(5,))
NAN = np.full((6, 2, 5), np.nan, np.float32)


@pytest.mark.parametrize("target", [CLASSES, DENSE, Target("scalar"), Target("labels", size=4)])
def test_arrays_that_fit_are_prepared(target: Target) -> None:
    data = _task(target).prepare()
    assert data.name == "toy/one"
    assert len(data.test) == 6


@pytest.mark.parametrize(
    ("target", "changes", "message"),
    [
        (CLASSES, {"test_x": np.ones((6, 5), np.float32)}, r"test inputs have shape \(5,\), declared is \(2, 5\)"),
        (CLASSES, {"train_x": np.ones((6, 2, 5))}, "train inputs must be float32, got float64"),
        (CLASSES, {"train_x": NAN}, "train inputs hold values that are not finite"),
        (CLASSES, {"validation_y": np.array([0, 1, 2, 3, 0, 0])}, r"validation labels must be in 0…2, got 0…3"),
        (CLASSES, {"validation_y": np.array([-1, 1, 2, 0, 0, 0])}, r"got -1…2"),
        (CLASSES, {"train_y": np.zeros(6, np.float32)}, "train labels must be int64, got float32"),
        (CLASSES, {"train_y": np.array([0, 0, 0, 2, 2, 2])}, "no training sample of class 1"),
        (
            CLASSES,
            {"train_x": np.ones((2, 2, 5), np.float32), "train_y": np.array([0, 1])},
            "2 training samples are fewer than its 3 classes",
        ),
        (CLASSES, {"validation_x": None, "validation_y": None}, "has no validation split"),
        (DENSE, {"test_y": np.ones((6, 4), np.float32)}, r"test targets have shape \(4,\), declared is \(5,\)"),
        (DENSE, {"y_std": np.full(1, np.inf, np.float32)}, "y_std hold values that are not finite"),
        (Target("scalar"), {"train_y": np.ones((6, 1), np.float32)}, r"targets have shape \(1,\), declared is \(\)"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(target: Target, changes: dict[str, Array | None], message: str) -> None:
    task = _task(target, fingerprint=None, **changes)
    with pytest.raises(UserError, match=message):
        task.prepare()
    assert not prepared.directory_of(task.name, task.version).exists()


def test_another_fingerprint_is_refused() -> None:
    with pytest.raises(UserError, match="expected 0123456789abcdef"):
        _task(CLASSES, fingerprint="0123456789abcdef").prepare()


def test_names_have_two_parts() -> None:
    task = _task(CLASSES)
    assert (task.benchmark, task.short_name) == ("toy", "one")
    fields = {name: getattr(task, name) for name in Task.__dataclass_fields__}
    for name in ("toy", "toy/", "a/b/c"):
        with pytest.raises(ValueError, match="named benchmark/task"):
            Task(**{**fields, "name": name})
    with pytest.raises(ValueError, match="input_shape must be"):
        Task(**{**fields, "input_shape": (5,)})
