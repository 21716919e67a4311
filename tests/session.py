"""What all processes of a test session share: a folder, a cache, a Ray cluster.

The cache has prepared data. Pytest's own process makes the folder and names it in an
environment variable, which the processes of pytest-xdist inherit. ``python -m
tests.session`` is the process that holds the cluster.
"""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

FOLDER_VARIABLE = "ORCA_TEST_FOLDER"
"""Environment variable with the path of the session's folder."""
OWNER_VARIABLE = "ORCA_TEST_OWNER"
"""Environment variable with the id of pytest's own process."""
ROOT = Path(__file__).resolve().parents[1]
NUM_CPUS = 4
"""Logical CPUs of the cluster; the sweeps of two test processes need not wait."""
START_SECONDS = 120.0
"""Seconds for the cluster to start."""
END_SECONDS = 30.0
"""Seconds for the cluster to end."""
PRELOADED = (
    "orca_ray.sweep.executors.trainable,orca_ray.methods.trial_trainer,transformers"
)
"""Modules that the first workers of the cluster import when it starts."""
RAY_SETTINGS = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # or workers starve beside other test processes
}


def begin() -> None:
    """Make the folder of the session, and set the environment of its tests.

    In this environment, tests start and join Ray clusters.
    """
    # a short name: the folder will contain Unix sockets
    os.environ[FOLDER_VARIABLE] = tempfile.mkdtemp(prefix="ot-")
    os.environ[OWNER_VARIABLE] = str(os.getpid())
    token = secrets.token_hex(16)
    for name, value in {**RAY_SETTINGS, "RAY_AUTH_TOKEN": token}.items():
        os.environ.setdefault(name, value)


def end() -> None:
    """End the cluster, if a test has started it, and delete the folder."""
    pid = folder() / "pid"
    if pid.exists():
        try:
            process = psutil.Process(int(pid.read_text()))
            # and not another process that has got its id
            if "tests.session" in process.cmdline():
                family = [process, *process.children(recursive=True)]
                process.terminate()
                _, survivors = psutil.wait_procs(family, timeout=END_SECONDS)
                for survivor in survivors:
                    survivor.kill()
        except psutil.NoSuchProcess:
            pass  # it has ended by itself
    shutil.rmtree(folder(), ignore_errors=True)


def folder() -> Path:
    return Path(os.environ[FOLDER_VARIABLE])


def new_home(directory: Path) -> Path:
    """Make a cache directory with the session's prepared pocket tasks; return it.

    Prepared pocket tasks and source features are made once, by the first test of any
    process that needs them. All else is the directory's own: alignments, checkpoints,
    own tasks. A test that changes prepared data takes an empty directory instead.
    """
    from orca_ray.testing.suite import SHARED, make_home  # imports torch

    with FileLock(folder() / "home.lock"), pytest.MonkeyPatch.context() as patch:
        shared = folder() / "home"
        if not shared.exists():
            make_home(shared)
        patch.setenv("ORCA_RAY_HOME", str(shared))
        make_home(directory, (*SHARED, "source"))
        pocket = shared / "prepared" / "pocket"
        pocket.mkdir(parents=True, exist_ok=True)
        (directory / "prepared").mkdir()
        (directory / "prepared" / "pocket").symlink_to(pocket, target_is_directory=True)
    return directory


@dataclass(frozen=True)
class RayCluster:
    address: str
    """Host and port of its head, for ``address=`` or RAY_ADDRESS."""

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which a process of its own joins the cluster."""
        names = (*RAY_SETTINGS, "RAY_AUTH_TOKEN")
        return {
            "RAY_ADDRESS": self.address,
            **{name: os.environ[name] for name in names},
        }


def ray_cluster() -> RayCluster:
    """Return the cluster; the first call of any process of the session starts it."""
    address = folder() / "address"
    with FileLock(folder() / "cluster.lock"):
        if not address.exists():
            start_cluster()
            wait_for(address)
    return RayCluster(address.read_text())


def start_cluster() -> None:
    """Start the process that holds the cluster."""
    variables = {
        "PYTHONPATH": str(ROOT),
        "RAY_TMPDIR": str(folder()),
        "RAY_preload_python_modules": PRELOADED,
    }
    with (folder() / "cluster.log").open("wb") as log:
        subprocess.run(
            [sys.executable, "-m", "tests.session"],
            cwd=ROOT,
            env={**os.environ, **variables},
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def wait_for(address: Path) -> None:
    """Wait until the cluster has written its ``address``."""
    deadline = time.monotonic() + START_SECONDS
    while not address.exists():
        log = (folder() / "cluster.log").read_text()
        assert psutil.pid_exists(int((folder() / "pid").read_text())), (
            f"the Ray cluster of the session did not start: {log}"
        )
        assert time.monotonic() < deadline, (
            f"the Ray cluster of the session takes too long: {log}"
        )
        time.sleep(0.1)


def hold_cluster() -> None:
    """Start a cluster, write down its address, and end it on SIGTERM.

    It also ends when pytest's own process is gone. It is a child of no test process,
    for some tests kill workers among their children. Its first workers start with the
    cluster, and import what a trial needs (five seconds) while tests do other things.
    """
    child = os.fork()
    if child:
        (folder() / "pid").write_text(str(child))
        return
    from ray.cluster_utils import Cluster

    owner = psutil.Process(int(os.environ[OWNER_VARIABLE]))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    options = {
        "num_cpus": NUM_CPUS,
        "include_dashboard": False,
        "object_store_memory": 100 * 2**20,
    }
    cluster = Cluster(initialize_head=True, head_node_args=options)
    try:
        unfinished = folder() / "address.new"
        unfinished.write_text(cluster.address)
        unfinished.rename(folder() / "address")
        while owner.is_running():
            time.sleep(1)
    finally:
        cluster.shutdown()
        # pytest does so, unless it was killed
        shutil.rmtree(folder(), ignore_errors=True)


if __name__ == "__main__":
    hold_cluster()
