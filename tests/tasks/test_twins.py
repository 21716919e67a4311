"""Tasks on files of their exact raw format: from the files to a row of a board, and bad files.

Every run reads one task of each reader and layout, and takes a few to a board; `make test-all` takes every task.
"""

from types import MappingProxyType

import pytest

from orca_ray.tasks.registry import all_tasks
from orca_ray.testing import TwinSuite
from tests.twins import damages, twins

ANOTHER_MEAN = ("cifar100", "advection", "burgers", "diffusion_reaction_2d")
"""Tasks whose twins have values of another mean than the published files."""
READ_ALIKE = {
    "openml": ("openml/29", "openml/61", "openml/1464"),
    "pdebench": ("pdebench/advection", "pdebench/diffusion_reaction_2d", "pdebench/darcy"),
    "pdebench_generated": ("pdebench_generated/burgers",),
    "drug": ("drug/gdsc",),
}
"""The tasks that stand for all of a benchmark whose tasks are read alike."""
SAMPLE = [name for name in twins() if name in READ_ALIKE.get(name.split("/")[0], (name,))]
SLOW = {
    "test_a_twin_becomes_a_row_of_a_board": ("openml/29", "pdebench/darcy", "drug/gdsc", "nasbench360/ecg"),
    "test_paper_splits_are_others": ("openml/29", "pdebench/advection", "nasbench360/cosmic", "nasbench360/ecg"),
}
"""The tasks of which tests that take long are run; other modules test the paper's splits of the large tasks."""


class _Published(TwinSuite):
    unlike = tuple(name for name in twins() if name.split("/")[1] in ANOTHER_MEAN)
    published = True


@pytest.mark.slow
class TestSampledTwins(_Published):
    twins = MappingProxyType({name: twins()[name] for name in SAMPLE})
    damages = MappingProxyType({name: damages()[name] for name in SAMPLE})

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if metafunc.function.__name__ in SLOW:
            metafunc.parametrize("name", SLOW[metafunc.function.__name__])
        else:
            super().pytest_generate_tests(metafunc)


@pytest.mark.slow
@pytest.mark.exhaustive
class TestEveryTwin(_Published):
    twins = twins()
    damages = damages()


def test_every_task_has_a_twin() -> None:
    packaged = {name for name, task in all_tasks().items() if task.packages or task.benchmark == "pocket"}
    assert set(twins()) == set(all_tasks()) - packaged == set(damages())
