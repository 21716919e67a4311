"""What all workers of a sweep get alike, and scratch directories that outlive no process."""

import contextlib
import logging
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orca_ray.data import cache
from orca_ray.sweep.executors.liveness import TimeLimits

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def scratch_directory() -> Iterator[Path]:
    """Context manager that makes a temporary directory, whose name holds this process's id and time of creation."""
    import psutil

    process = psutil.Process()
    prefix = f"{_prefix()}{process.pid}-{process.create_time():.2f}-"
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as path:
        yield Path(path)


def remove_abandoned() -> None:
    """Delete the directories of `scratch_directory` that killed processes of this machine have left."""
    import psutil

    for path in Path(tempfile.gettempdir()).glob(f"{_prefix()}*"):
        found = re.fullmatch(r"(\d+)-([\d.]+)-.*", path.name.removeprefix(_prefix()))
        if found is None:  # of a machine whose name begins with the name of this one
            continue
        pid, created = found.groups()
        with contextlib.suppress(psutil.NoSuchProcess):
            if abs(psutil.Process(int(pid)).create_time() - float(created)) < 1:
                continue
        logger.info("deleting %s, which a killed process has left", path)
        shutil.rmtree(path, ignore_errors=True)


def _prefix() -> str:
    """Return how the names begin; with the machine's name, because containers may share a directory but no ids."""
    return f"orca-ray-{platform.node()}-"


_NAMES = (
    "HF_HOME", "HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
    "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS",
)  # fmt: skip
_PREFIXES = ("AWS_", "ORCA_RAY_")


def passed_environment() -> dict[str, str]:
    """Return the variables of this process that workers get: hub, proxies, package index, ``AWS_*``, ``ORCA_RAY_*``."""
    found = {name: value for name, value in os.environ.items() if name in _NAMES or name.startswith(_PREFIXES)}
    if found.get(cache.HOME_VARIABLE):
        found[cache.HOME_VARIABLE] = str(cache.home())  # absolute
    return found


@dataclass(frozen=True)
class WorkerSettings:
    """Settings of all workers of a sweep. They may contain credentials: `repr` shows none, and no file has them.

    Ray passes them to workers inside the pickled class of the trainable, which it keeps in memory.
    """

    store: str = field(repr=False)
    """Path or URI of the results store, in whose folder the trials have their checkpoints."""
    staging: str | None = field(default=None, repr=False)
    """URI of the folder through which nodes share staged data; None: there is none."""
    checkpoint_seconds: float = 30.0
    """Minimum time between two checkpoints of a trial."""
    keep_models: bool = False
    """Whether confirm trials store their models."""
    time: TimeLimits = field(default_factory=TimeLimits)
    """Time limits of a trial, from which the interval of heartbeats and the limit of a worker's start follow."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Environment variables, see `passed_environment`."""

    def apply(self) -> None:
        """Set the variables of ``environment`` that this process does not have; what a node sets itself is kept."""
        for name, value in self.environment.items():
            os.environ.setdefault(name, value)
