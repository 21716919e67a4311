"""Settings that the driver passes to all workers of a sweep."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from orca_ray.data import cache
from orca_ray.sweep.executors.liveness import TimeLimits

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
