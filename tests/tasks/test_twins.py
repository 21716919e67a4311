"""Every task of every benchmark on files of its exact raw format: from the files to a row of a board, and bad files."""

import pytest

from orca_ray.tasks.registry import all_tasks
from orca_ray.testing import TwinSuite
from tests.twins import damages, twins

ANOTHER_MEAN = ("cifar100", "advection", "burgers", "diffusion_reaction_2d")
"""Tasks whose twins have values of another mean than the published files."""


@pytest.mark.slow  # in all, about half a minute
class TestEveryTwin(TwinSuite):
    twins = twins()
    damages = damages()
    unlike = tuple(name for name in twins if name.split("/")[1] in ANOTHER_MEAN)
    published = True


def test_every_task_has_a_twin() -> None:
    packaged = {name for name, task in all_tasks().items() if task.packages or task.benchmark == "pocket"}
    assert set(twins()) == set(all_tasks()) - packaged
