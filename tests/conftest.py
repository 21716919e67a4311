"""Settings for every test: one thread, no deadlines, and the order and number of parallel workers."""

import gc
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Set before torch or numpy is imported: thread pools read it once.
os.environ["OMP_NUM_THREADS"] = "1"

# A shell without job control lets background commands ignore Ctrl-C, and the processes of the tests would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A deadline would measure the load of the machine, not the code.
settings.register_profile("orca-ray", deadline=None)
settings.load_profile("orca-ray")

MAX_WORKERS = 8
"""Upper bound of ``-n auto``: each worker imports torch and needs about 1.5 GB."""


def pytest_xdist_auto_num_workers() -> int:
    """Return the number of workers for ``-n auto``: one for each CPU that this process may use."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cpus, MAX_WORKERS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run Ray tests first, then slow tests: a long test that starts last leaves the other workers idle.

    The first worker runs the Ray tests one after another, and the others take some of them when nothing else is left.
    """
    items.sort(key=lambda item: 0 if item.get_closest_marker("ray") else 1 if item.get_closest_marker("slow") else 2)


def pytest_collection_finish() -> None:
    """Exclude imported modules from garbage collection, and collect rarely: tests that train take 13 % less time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Limit torch to one thread, without importing it for tests that do not use it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.fixture(scope="module")
def module_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give the tests of a module a cache directory of their own, with the fetched packages and bodies of the user's."""
    from orca_ray.testing.suite import make_home  # imports torch

    with pytest.MonkeyPatch.context() as patch:
        home = make_home(tmp_path_factory.mktemp("home"))
        patch.setenv("ORCA_RAY_HOME", str(home))
        yield home
