"""Tasks on files of their exact raw format: from the files to a row of a board, and bad files.

Every run reads one task of each reader and layout, and takes a few to a board; `make test-all` takes every task.
"""

from types import MappingProxyType

import pytest

from orca_ray.tasks.registry import all_tasks
from orca_ray.testing import RawFilesSuite
from tests.raw_files import corruptions, writers

ANOTHER_MEAN = ("cifar100", "advection", "burgers", "diffusion_reaction_2d")
"""Tasks whose written files have values of another mean than the published files."""
READ_ALIKE = {
    "openml": ("openml/29", "openml/61", "openml/1464"),
    "pdebench": ("pdebench/advection", "pdebench/diffusion_reaction_2d", "pdebench/darcy"),
    "pdebench_generated": ("pdebench_generated/burgers",),
    "drug": ("drug/gdsc",),
}
"""The tasks that stand for all of a benchmark whose tasks are read alike."""
SAMPLE = [name for name in writers() if name in READ_ALIKE.get(name.split("/")[0], (name,))]
SLOW = {
    "test_raw_files_become_a_row_of_a_board": ("openml/29", "pdebench/darcy", "drug/gdsc", "nasbench360/ecg"),
    "test_paper_splits_are_others": ("openml/29", "pdebench/advection", "nasbench360/cosmic", "nasbench360/ecg"),
}
"""The tasks of which tests that take long are run; other modules test the paper's splits of the large tasks."""


class _Published(RawFilesSuite):
    unlike = tuple(name for name in writers() if name.split("/")[1] in ANOTHER_MEAN)
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
    packaged = {name for name, task in all_tasks().items() if task.packages or task.benchmark == "pocket"}
    assert set(writers()) == set(all_tasks()) - packaged == set(corruptions())
