"""Settings that all workers of a sweep get from the driver."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from orca_ray.data import cache
from orca_ray.options import KeepModels

_NAMES = (
    "HF_HOME",
    "HF_TOKEN",
    "HF_ENDPOINT",
    "HF_HUB_OFFLINE",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_FIND_LINKS",
)
_PREFIXES = ("AWS_", "ORCA_RAY_")


@dataclass(frozen=True)
class TimeLimits:
    """Time limits of a trial, in seconds."""

    trial: float | None = None
    """Limit of one attempt at a trial; None: no limit.

    The time is measured from the worker's first report (see `TrialRunner.step`).
    """
    heartbeat: float = 1800.0
    """Limit of the time without an epoch or any other progress.

    The worker of a trial that exceeds it is killed.
    """


def passed_environment() -> dict[str, str]:
    """Return the environment variables that workers get.

    They are those of `_NAMES` and of `_PREFIXES`.
    """
    passed = {
        name: value
        for name, value in os.environ.items()
        if name in _NAMES or name.startswith(_PREFIXES)
    }
    if passed.get(cache.HOME_VARIABLE):
        passed[cache.HOME_VARIABLE] = str(cache.home())  # absolute
    return passed


@dataclass(frozen=True)
class WorkerSettings:
    """Settings of all workers of a sweep.

    `repr` leaves out the fields that may contain credentials. The settings are not
    written to files: Ray passes them inside the pickled class of the trainable, which
    stays in memory.
    """

    store: str = field(repr=False)
    """Path or URI of the results store, which also holds the checkpoints."""
    staging: str | None = field(default=None, repr=False)
    """URI of the folder through which nodes share staged data; None: no such folder."""
    checkpoint_seconds: float = 30.0
    """Minimum time between two checkpoints of a trial."""
    keep_models: KeepModels = KeepModels.NONE
    """Which models are kept. Unless it is ``none``, confirm trials store their models.
    """
    time: TimeLimits = field(default_factory=TimeLimits)
    """Time limits of a trial.

    They also determine the interval of heartbeats, and the limit of a worker's start.
    """
    environment: Mapping[str, str] = field(
        default_factory=passed_environment, repr=False
    )

    def apply(self) -> None:
        """Set the variables in `environment` that this process does not have."""
        for name, value in self.environment.items():
            os.environ.setdefault(name, value)
