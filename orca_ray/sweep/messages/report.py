"""Reports of workers about the trials that they run."""

import json
from dataclasses import asdict, dataclass, field, replace

from pydantic import ConfigDict, TypeAdapter

from orca_ray.methods.reports import EpochProgress, Outcome
from orca_ray.results.artefacts import Artefact
from orca_ray.results.record import Status


@dataclass(frozen=True, kw_only=True)
class Worker:
    """The machine, device and PyTorch version that ran a trial."""

    node: str = ""
    device: str = ""
    torch: str = ""
    processor: str = ""
    """Maker and model of the CPU."""
    device_memory_mib: float | None = None
    """Total memory of the GPU; None on a CPU."""


@dataclass(frozen=True, kw_only=True)
class TrialReport:
    """Report of a worker after each epoch of a trial."""

    __pydantic_config__ = ConfigDict(
        extra="forbid"
    )  # files with other fields are not reports
    progress: tuple[EpochProgress, ...] = ()
    """Epochs that ended since the last report."""
    outcome: Outcome | None = None
    """Result so far, which is recorded if the driver stops the trial now.

    None before the model is built.
    """
    worker: Worker = field(default_factory=Worker)
    status: Status | None = None
    """How the trial ended; None while it runs."""
    error: str | None = None
    artefacts: tuple[Artefact, ...] = ()
    """Small pictures of what the model does.

    Only the last report of a completed confirm trial has some.
    """
    log: str = ""
    """Log of the worker since the last report, with the traceback of a failure."""

    def to_json(self) -> str:
        """Return the report as JSON text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "TrialReport":
        """Return the report in the JSON text.

        Raises ValueError if the text is no report.
        """
        return _report_adapter.validate_json(text)

    @property
    def done(self) -> bool:
        """Whether the trial has ended."""
        return self.status is not None

    def stopped_early(self) -> "TrialReport":
        """Return a copy of this report with the status ``stopped_early``."""
        return replace(self, status=Status.STOPPED_EARLY, error=None)


_report_adapter = TypeAdapter(TrialReport)
