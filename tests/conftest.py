"""Settings and fixtures for every test, and the order of tests on workers.

For tests that need a Ray cluster: `ray_cluster` gives that of the session; only tests
of faults and of the shape of a cluster start another one. For tests that train:
`module_home` or `own_home`; `empty_home` has not even packages.
"""

import gc
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests import session

# Set before torch or numpy is imported: thread pools read it once.
os.environ["OMP_NUM_THREADS"] = "1"

# A shell without job control lets background commands ignore Ctrl-C, and the processes
# of the tests would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A deadline would measure the load of the machine, not the code.
settings.register_profile("orca-ray", deadline=None)
settings.load_profile("orca-ray")

MAX_WORKERS = 8
"""Upper bound of ``-n auto``: each worker imports torch and needs about 1.5 GB."""


def pytest_xdist_auto_num_workers() -> int:
    """Return the number of workers for ``-n auto``: one for each allowed CPU."""
    if hasattr(os, "sched_getaffinity"):
        cpus = len(os.sched_getaffinity(0))
    else:
        cpus = os.cpu_count() or 1
    return min(cpus, MAX_WORKERS)


def pytest_configure(config: pytest.Config) -> None:
    """Begin the session in pytest's own process.

    Its workers find the session in their environment.
    """
    if not hasattr(config, "workerinput"):
        session.begin()


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the session, and the Ray cluster that one of its tests may have started."""
    if not hasattr(config, "workerinput"):
        session.end()


@pytest.hookimpl(trylast=True)  # after tests are deselected by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run modules with Ray tests first, then those with most long tests.

    A long module that starts last would leave a worker idle. With ``--dist loadfile``
    the tests of a module run on one worker, so that its fixtures are built once.
    """
    marks: dict[str, Counter[str]] = {}
    for item in items:
        names = {mark.name for mark in item.iter_markers()}
        marks.setdefault(module_of(item), Counter()).update(names)

    def priority(module: str) -> tuple[int, ...]:
        return tuple(-marks[module][mark] for mark in ("ray", "exhaustive", "slow"))

    order = sorted(marks, key=priority)
    places = {module: place for place, module in enumerate(order)}
    items.sort(key=lambda item: places[module_of(item)])


def module_of(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]


def pytest_collection_finish() -> None:
    """Exclude imported modules from garbage collection, and collect rarely.

    Tests that train take 13 % less time.
    """
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
    """Give the tests of a module a cache directory of their own.

    `session.new_home` says what is in it.
    """
    with pytest.MonkeyPatch.context() as patch:
        home = session.new_home(tmp_path_factory.mktemp("home"))
        patch.setenv("ORCA_RAY_HOME", str(home))
        yield home


@pytest.fixture
def own_home(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Give a test a cache directory of its own.

    It is as `module_home`, but without alignments of other tests.
    """
    home = session.new_home(tmp_path_factory.mktemp("home"))
    monkeypatch.setenv("ORCA_RAY_HOME", str(home))
    return home


@pytest.fixture
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a test an empty cache directory; return its path.

    It is ``home`` in the test's temporary directory.
    """
    monkeypatch.setenv("ORCA_RAY_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def ray_cluster() -> Iterator[session.RayCluster]:
    """Give a test the Ray cluster of the session.

    Join it by ``address=ray_cluster.address`` or, in another process, by
    ``env={**os.environ, **ray_cluster.environment}``. It has token authentication,
    `session.NUM_CPUS` logical CPUs, no GPUs and no dashboard, so it takes no submitted
    jobs. Each driver has an anonymous namespace of its own. Several tests may use it at
    the same time, so a test asks for few CPUs (``resources: {cpus: 2}`` lets two of its
    trials run at a time), looks for workers not among its own children, kills none, and
    passes variables by `WorkerSettings.environment`.
    """
    yield session.ray_cluster()
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        ray.shutdown()
