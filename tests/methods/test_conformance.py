"""Every method, by its registered name: it adapts to every kind of task, resumes exactly, and does not read test."""

import pytest

from orca_ray.methods.registry import all_methods
from orca_ray.testing import MethodSuite


@pytest.mark.slow
class TestEveryMethod(MethodSuite):
    names = all_methods()
