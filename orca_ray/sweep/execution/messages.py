"""Messages between the driver and its workers: a trial goes out, reports come back. They travel as JSON."""

import json
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from typing import Any, Self

from pydantic import ConfigDict, TypeAdapter

from orca_ray.methods.reports import Outcome, Progress
from orca_ray.results.record import Status
from orca_ray.sweep.planning.trial import TrialSpec


@dataclass(frozen=True)
class _Message:
    def to_json(self) -> str:
        """Serialise; `from_json` restores an equal message."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Restore a message; raises ValueError for a text that is not one."""
        message: Self = cls._adapter().validate_json(text)
        return message

    @classmethod
    @cache
    def _adapter(cls) -> TypeAdapter[Any]:
        return TypeAdapter(cls)


@dataclass(frozen=True, kw_only=True)
class Assignment(_Message):
    """A trial for a worker, and where the worker keeps its state."""

    trial: TrialSpec
    checkpoints: str
    """Absolute path of the directory of checkpoints."""
    checkpoint_seconds: float
    """Least time between two checkpoints."""
    home: str | None = None
    """``ORCA_RAY_HOME`` of the driver; None where it is not set."""


@dataclass(frozen=True, kw_only=True)
class Worker:
    """The machine, device and PyTorch version that ran a trial."""

    node: str = ""
    device: str = ""
    torch: str = ""


@dataclass(frozen=True, kw_only=True)
class TrialReport(_Message):
    """Report of a worker after each step of a trial."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # files of another version are not reports
    progress: tuple[Progress, ...] = ()
    """Epochs that ended since the last report."""
    outcome: Outcome | None = None
    """Result so far, since the driver may stop the trial here; None before the model is built."""
    worker: Worker = field(default_factory=Worker)
    status: Status | None = None
    """How the trial ended; None while it runs."""
    error: str | None = None

    @property
    def done(self) -> bool:
        """Whether the trial has ended."""
        return self.status is not None

    def stopped_early(self) -> "TrialReport":
        """Return the final report of a trial that the driver stops here."""
        return replace(self, status=Status.STOPPED_EARLY, error=None)
