"""Every method, by its registered name: it adapts to every kind of task, resumes exactly, and does not read test."""

from collections.abc import Collection

import pytest

from orca_ray.methods.registry import all_methods
from orca_ray.testing import MethodSuite
from tests.sampling import Sampled

STAGES = {"gradient_boosting", "joint", "lora", "minirocket", "mona", "orca", "orca_guarded", "pare", "recraft"}
"""Methods that together have all stages, whose states all have to survive an interruption."""


@pytest.mark.slow
class TestEveryMethod(Sampled, MethodSuite):
    names = all_methods()
    every = 7  # of pairs of a method and one of six kinds of tasks

    def marks(self, test: str, case: tuple[str, ...], number: int) -> Collection[pytest.MarkDecorator]:
        if "resume" in test:
            return () if case[0] in STAGES else (pytest.mark.exhaustive,)
        return super().marks(test, case, number)
