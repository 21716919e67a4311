"""Messages between driver and workers: settings, trials, and reports; a trial's last
report becomes its record.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any

from pydantic import ConfigDict, TypeAdapter

from orca_ray.data import cache as data_cache
from orca_ray.methods.reports import EpochProgress, Outcome
from orca_ray.options import KeepModels
from orca_ray.results.artefacts import Artefact
from orca_ray.results.record import Record, Status
from orca_ray.sweep.executors.liveness import TimeLimits
from orca_ray.sweep.plan.searches import TrialSpec, canonical_json
from orca_ray.tasks.metrics import get_metric
from orca_ray.tasks.registry import get_task
from orca_ray.version import code_version

_TRIAL = (
    "task",
    "method",
    "body",
    "phase",
    "protocol",
    "seed",
    "data_fingerprint",
    "deterministic",
)
"""Fields that `TrialSpec` and `Record` share."""


_trial_adapter = TypeAdapter(TrialSpec)


def trial_to_json(trial: TrialSpec) -> str:
    """Return a trial as JSON text, for its worker; settings that all workers get are in
    `WorkerSettings`.
    """
    return json.dumps(asdict(trial))


def trial_from_json(text: str) -> TrialSpec:
    """Return the trial that `trial_to_json` converted to ``text``."""
    return _trial_adapter.validate_json(text)


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
    """Result so far, which the driver records if it stops the trial now; None before
    the model is built.
    """
    worker: Worker = field(default_factory=Worker)
    status: Status | None = None
    """How the trial ended; None while it runs."""
    error: str | None = None
    artefacts: tuple[Artefact, ...] = ()
    """Small pictures of what the model does; only in the last report of a confirm trial
    that completed.
    """
    log: str = ""
    """What the worker has logged since the last report, with the traceback of a
    failure.
    """

    def to_json(self) -> str:
        """Return the report as JSON text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "TrialReport":
        """Return the report in the JSON text; raises ValueError if the text is no
        report.
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


def passed_environment() -> dict[str, str]:
    """Return the environment variables that workers get: those on hub, proxies and
    package index, AWS_*, ORCA_RAY_*.
    """
    found = {
        name: value
        for name, value in os.environ.items()
        if name in _NAMES or name.startswith(_PREFIXES)
    }
    if found.get(data_cache.HOME_VARIABLE):
        found[data_cache.HOME_VARIABLE] = str(data_cache.home())  # absolute
    return found


@dataclass(frozen=True)
class WorkerSettings:
    """Settings of all workers of a sweep; `repr` leaves out the fields that may contain
    credentials.

    They are not written to files: Ray passes them inside the pickled class of the
        trainable, which stays in memory.
    """

    store: str = field(repr=False)
    """Path or URI of the results store, in whose folder the trials have their
    checkpoints.
    """
    staging: str | None = field(default=None, repr=False)
    """URI of the folder through which nodes share staged data; None: no such folder."""
    checkpoint_seconds: float = 30.0
    """Minimum time between two checkpoints of a trial."""
    keep_models: KeepModels = KeepModels.NONE
    """Unless it is ``none``, confirm trials store their models."""
    time: TimeLimits = field(default_factory=TimeLimits)
    """Time limits of a trial, from which the interval of heartbeats and the limit of a
    worker's start follow.
    """
    environment: Mapping[str, str] = field(
        default_factory=passed_environment, repr=False
    )

    def apply(self) -> None:
        """Set the environment variables in `environment` that this process does not
        have; keep those that it has.
        """
        for name, value in self.environment.items():
            os.environ.setdefault(name, value)


def make_record(
    trial: TrialSpec,
    sweep: str,
    report: TrialReport,
    curve: Sequence[EpochProgress],
    started_at: datetime,
    **run: Any,
) -> Record:
    """Build the record of a trial that has ended, from its last report and its learning
    curve.

    The keyword arguments ``run`` are the fields ``executor`` and ``attempts``.
    Unreported results become None.
    """
    assert report.status is not None
    task = get_task(trial.task)
    metric = task.under(trial.protocol).metric
    finished_at = datetime.now(UTC)
    return Record(
        **{name: getattr(trial, name) for name in _TRIAL},
        trial_key=trial.key,
        sweep=sweep,
        benchmark=task.benchmark,
        metric=metric,
        metric_version=get_metric(metric).version,
        hyperparameters=canonical_json(dict(trial.hyperparameters)),
        status=report.status,
        error=report.error,
        started_at=started_at,
        finished_at=finished_at,
        wall_seconds=(finished_at - started_at).total_seconds(),
        node=report.worker.node,
        device=report.worker.device,
        torch_version=report.worker.torch,
        version=code_version(),
        processor=report.worker.processor or None,
        cpus=trial.resources.cpus,
        gpus=trial.resources.gpus,
        **_outcome(report, curve),
        **run,
    )


def _outcome(report: TrialReport, curve: Sequence[EpochProgress]) -> dict[str, Any]:
    """Return the record's fields about the result: scores, epochs, distances, durations
    and so on.

    For a completed trial, they are those of its last report. For other trials, best
    score, best epoch and number of epochs come from the curve: after a resumption, a
    report covers several epochs, and may go beyond the one where the trial was stopped.
    If the worker disappeared before it reported a result, the curve gives distances and
    durations.
    """
    align, refine = (
        [point for point in curve if point.stage == stage]
        for stage in ("align", "refine")
    )
    outcome: dict[str, Any] = {
        **dict.fromkeys(each.name for each in fields(Outcome)),
        "distance_before": align[0].distance if align else None,
        "distance_after": align[-1].distance if align else None,
        "align_epochs": len(align),
        "align_seconds": sum(point.seconds for point in align),
        "refine_seconds": sum(point.seconds for point in refine),
        "evaluate_seconds": 0.0,
        **({} if report.outcome is None else asdict(report.outcome)),
    }
    if report.status is Status.COMPLETED:
        return outcome
    scored = [
        (p.validation_score, p.epoch) for p in refine if p.validation_score is not None
    ]
    best, epoch = min(scored, default=(None, None))
    return {
        **outcome,
        "validation_score": best,
        "test_score": None,
        "best_epoch": epoch,
        "epochs": len(refine),
    }
