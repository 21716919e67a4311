"""Build the record of a trial that has ended."""

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import orca_ray
from orca_ray.methods.reports import Outcome, Progress
from orca_ray.results.record import Record, Status
from orca_ray.sweep.execution.messages import TrialReport
from orca_ray.sweep.planning.trial import TrialSpec, canonical_json

_TRIAL = ("task", "method", "body", "phase", "protocol", "seed", "data_fingerprint", "deterministic")
"""Fields that `TrialSpec` and `Record` share."""


def make_record(
    trial: TrialSpec, sweep: str, report: TrialReport, curve: Sequence[Progress], started_at: datetime, **run: Any
) -> Record:
    """Build the record of a trial that has ended, from its last report and its learning curve.

    The keyword arguments ``run`` are the fields ``executor`` and ``attempts``. Unreported results become None.
    """
    from orca_ray.tasks.registry import get_task

    assert report.status is not None
    task = get_task(trial.task)
    finished_at = datetime.now(UTC)
    return Record(
        **{name: getattr(trial, name) for name in _TRIAL},
        trial_key=trial.key,
        sweep=sweep,
        benchmark=task.benchmark,
        hyperparameters=canonical_json(dict(trial.hyperparameters)),
        metric=task.under(trial.protocol).metric,
        status=report.status,
        wall_seconds=(finished_at - started_at).total_seconds(),
        node=report.worker.node,
        device=report.worker.device,
        started_at=started_at,
        finished_at=finished_at,
        error=report.error,
        version=orca_ray.__version__,
        torch_version=report.worker.torch,
        **_outcome(report, curve),
        **run,
    )


def _outcome(report: TrialReport, curve: Sequence[Progress]) -> dict[str, Any]:
    """Return the record's fields about the result: scores, epochs, distances, durations and so on.

    A completed trial has those of its last report. For others, best score, best epoch and number of epochs come from
    the curve: after a resumption, a report covers several epochs, and may go beyond the one where the trial was
    stopped. If the worker disappeared before it reported a result, the curve gives distances and durations, too.
    """
    align, refine = ([point for point in curve if point.stage == stage] for stage in ("align", "refine"))
    outcome: dict[str, Any] = {
        **dict.fromkeys(field.name for field in dataclasses.fields(Outcome)),
        "distance_before": align[0].distance if align else None,
        "distance_after": align[-1].distance if align else None,
        "align_epochs": len(align),
        "align_seconds": sum(point.seconds for point in align),
        "refine_seconds": sum(point.seconds for point in refine),
        "evaluate_seconds": 0.0,
        **({} if report.outcome is None else dataclasses.asdict(report.outcome)),
    }
    if report.status is Status.COMPLETED:
        return outcome
    scored = [(p.validation_score, p.epoch) for p in refine if p.validation_score is not None]
    best, epoch = min(scored, default=(None, None))
    return {**outcome, "validation_score": best, "test_score": None, "best_epoch": epoch, "epochs": len(refine)}
