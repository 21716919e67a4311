"""From a runner's last report to the record that the store keeps."""

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orca_ray
from orca_ray.methods.reports import Outcome
from orca_ray.results.record import Record, Status
from orca_ray.sweep.planning.spec import SweepSpec
from orca_ray.sweep.planning.trial import TrialSpec, canonical_json

_OUTCOME = tuple(field.name for field in dataclasses.fields(Outcome))
"""Fields of an outcome; a record has each of them under the same name."""


def make_record(
    trial: TrialSpec,
    spec: SweepSpec,
    report: Mapping[str, Any],
    curve: Sequence[Mapping[str, Any]],
    started_at: datetime,
    executor: str,
    attempts: int,
) -> Record:
    """Build the record of an ended trial; what the runner did not get to tell stays unknown."""
    from orca_ray.tasks.registry import get_task

    status = Status(report["status"])
    place = report.get("place") or {}
    task = get_task(trial.task)
    finished_at = datetime.now(UTC)
    return Record(
        trial_key=trial.key,
        sweep=spec.sweep_id,
        benchmark=task.benchmark,
        task=trial.task,
        method=trial.method,
        body=trial.body,
        phase=trial.phase,
        protocol=trial.protocol,
        seed=trial.seed,
        hyperparameters=canonical_json(dict(trial.hyperparameters)),
        data_fingerprint=trial.data_fingerprint,
        metric=task.under(trial.protocol).metric,
        status=status,
        wall_seconds=(finished_at - started_at).total_seconds(),
        executor=executor,
        node=place.get("node", ""),
        device=place.get("device", ""),
        started_at=started_at,
        finished_at=finished_at,
        attempts=attempts,
        error=report.get("error"),
        version=orca_ray.__version__,
        torch_version=place.get("torch", ""),
        deterministic=trial.deterministic,
        **_outcome(status, report.get("outcome"), curve),
    )


def _outcome(status: Status, told: Mapping[str, Any] | None, curve: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the fields of an outcome: as told by a trial that completed, else with the scores of its curve.

    A resumed trial tells several epochs at once, and may so have gone past the one it was stopped at.
    """
    outcome = {**dict.fromkeys(_OUTCOME), **_stages(curve), **(told or {})}
    return outcome if status is Status.COMPLETED else {**outcome, **_scores(curve)}


def _stages(curve: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a curve tells of the stages, for a trial whose worker was lost."""
    align = [point for point in curve if point["stage"] == "align"]
    return {
        "distance_before": align[0]["distance"] if align else None,
        "distance_after": align[-1]["distance"] if align else None,
        "align_epochs": len(align),
        "align_seconds": sum(point["seconds"] for point in align),
        "refine_seconds": sum(point["seconds"] for point in _refine(curve)),
        "evaluate_seconds": 0.0,
    }


def _scores(curve: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a curve tells of the scores: the best validation score so far, and none on test."""
    scored = [(p["validation_score"], p["epoch"]) for p in _refine(curve) if p["validation_score"] is not None]
    best, epoch = min(scored, default=(None, None))
    return {"validation_score": best, "test_score": None, "best_epoch": epoch, "epochs": len(_refine(curve))}


def _refine(curve: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [point for point in curve if point["stage"] == "refine"]
