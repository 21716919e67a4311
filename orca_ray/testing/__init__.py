"""Conformance suites for what can be added to orca-ray.

This package and plug-ins run them (docs/plug-ins.md). A suite is a class of pytest
tests. Subclass it in a test module, under a name that starts with ``Test``, and set
`names` to the registered names of the objects to test::

    from orca_ray.testing import DistanceSuite


    class TestDistances(DistanceSuite):
        names = ("energy",)

The suites need ``pip install 'orca-ray[sweep,testing]'``. No other package of orca-ray
imports this one.
"""

import pytest

_MODULES = ("distances", "families", "scores", "suite", "tasks", "trials")
# Failures show values, if this is registered before the modules are imported.
pytest.register_assert_rewrite(*(f"{__name__}.{module}" for module in _MODULES))

from orca_ray.testing.distances import DistanceSuite  # noqa: E402
from orca_ray.testing.families import FamilySuite  # noqa: E402
from orca_ray.testing.scores import LossSuite, MetricSuite, StatisticSuite  # noqa: E402
from orca_ray.testing.tasks import RawFilesSuite, TaskSuite  # noqa: E402
from orca_ray.testing.trials import MethodSuite  # noqa: E402

__all__ = [
    "DistanceSuite",
    "FamilySuite",
    "LossSuite",
    "MethodSuite",
    "MetricSuite",
    "RawFilesSuite",
    "StatisticSuite",
    "TaskSuite",
]
