"""The class `Suite`, base of the conformance suites."""

from collections.abc import Callable, Collection, Hashable, Iterable
from pathlib import Path
from typing import ClassVar

import pytest

from orca_ray.data import cache

SHARED = ("packages", "bodies")
"""Folders of the cache with fetched packages and converted bodies."""


_made: dict[Hashable, Path] = {}


def made_once(key: Hashable, factory: pytest.TempPathFactory, make: Callable[[Path], object]) -> Path:
    """Return a temporary directory that ``make`` has written to; equal keys get the same one in a run of pytest."""
    if key not in _made:
        directory = factory.mktemp("once")
        make(directory)
        _made[key] = directory
    return _made[key]


class Suite:
    """A set of tests that runs for every name of a class.

    Use: subclass it in a test module, under a name that starts with ``Test``, and set `names`. ::

        class TestDistances(DistanceSuite):
            names = ("energy",)
    """

    names: ClassVar[Iterable[str]]
    """Names of the objects to test, as `orca_ray` looks them up: installed plug-ins are found by their entry points."""

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run each test that has an argument ``name`` once for each of `names`, which must not be empty."""
        if "name" in metafunc.fixturenames:
            names = sorted(self.names)
            assert names, f"{type(self).__name__}.names is empty"
            self.parametrize(metafunc, "name", [(name,) for name in names])

    def parametrize(self, metafunc: pytest.Metafunc, arguments: str, cases: Iterable[tuple[str, ...]]) -> None:
        """Run a test once for each of ``cases``, which have a value for each of the comma-separated ``arguments``."""
        test = metafunc.function.__name__
        marked = (
            pytest.param(*case, marks=self.marks(test, case, number), id="-".join(case))
            for number, case in enumerate(cases)
        )
        metafunc.parametrize(arguments, marked)

    def marks(self, test: str, case: tuple[str, ...], number: int) -> Collection[pytest.MarkDecorator]:
        """Return marks of the case with this number of a test; override it to leave cases out of the usual runs."""
        return ()


def make_home(directory: Path, shared: Iterable[str] = SHARED) -> Path:
    """Make a cache directory that is empty but for links to the folders ``shared`` of the user's; return it."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in shared:
        (directory / name).symlink_to(cache.subdirectory(name), target_is_directory=True)
    return directory
