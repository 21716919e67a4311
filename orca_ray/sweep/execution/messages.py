"""JSON messages between the driver and its workers: the driver sends a trial, the worker sends reports."""

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
        """Return the message as JSON text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the message in the JSON text; raises ValueError if it is not a message of this class."""
        message: Self = cls._adapter().validate_json(text)
        return message

    @classmethod
    @cache
    def _adapter(cls) -> TypeAdapter[Any]:
        return TypeAdapter(cls)


@dataclass(frozen=True, kw_only=True)
class Assignment(_Message):
    """A trial for a worker to run, and where and how often to save checkpoints."""

    trial: TrialSpec
    checkpoints: str
    """Absolute path of the checkpoint directory, which all workers share."""
    checkpoint_seconds: float
    """Minimum time between two checkpoints."""
    home: str | None = None
    """Cache directory, if the driver's environment sets ORCA_RAY_HOME; None otherwise."""


@dataclass(frozen=True, kw_only=True)
class Worker:
    """The machine, device and PyTorch version that ran a trial."""

    node: str = ""
    device: str = ""
    torch: str = ""


@dataclass(frozen=True, kw_only=True)
class TrialReport(_Message):
    """What a worker reports after each epoch of a trial."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # files with other fields are not reports
    progress: tuple[Progress, ...] = ()
    """Epochs that ended since the last report."""
    outcome: Outcome | None = None
    """Result so far, which the driver records if it stops the trial now; None before the model is built."""
    worker: Worker = field(default_factory=Worker)
    status: Status | None = None
    """How the trial ended; None while it runs."""
    error: str | None = None

    @property
    def done(self) -> bool:
        """Whether the trial has ended."""
        return self.status is not None

    def stopped_early(self) -> "TrialReport":
        """Return this report with the status of a trial that the driver stops early."""
        return replace(self, status=Status.STOPPED_EARLY, error=None)
