"""From a runner's last report to the record that the store keeps."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orca_ray
from orca_ray.results.record import Record, Status
from orca_ray.sweep.spec import SweepSpec
from orca_ray.sweep.trial import TrialSpec, canonical_json


def make_record(
    trial: TrialSpec,
    spec: SweepSpec,
    report: Mapping[str, Any],
    curve: Sequence[Mapping[str, Any]],
    started_at: datetime,
    executor: str,
    attempts: int,
) -> Record:
    """Build the record of an ended trial; a trial without an outcome is told by its curve."""
    from orca_ray.tasks.registry import get_task

    outcome = report.get("outcome") or _outcome_from(curve)
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
        metric=task.metric,
        status=Status(report["status"]),
        validation_score=outcome["validation_score"],
        test_score=outcome["test_score"],
        best_epoch=outcome["best_epoch"],
        epochs=outcome["epochs"],
        distance_before=outcome["distance_before"],
        distance_after=outcome["distance_after"],
        num_parameters=outcome["num_parameters"],
        num_trainable=outcome["num_trainable"],
        wall_seconds=(finished_at - started_at).total_seconds(),
        align_seconds=outcome["align_seconds"],
        refine_seconds=outcome["refine_seconds"],
        evaluate_seconds=outcome["evaluate_seconds"],
        peak_memory_mib=outcome["peak_memory_mib"],
        executor=executor,
        node=place.get("node", ""),
        device=place.get("device", ""),
        started_at=started_at,
        finished_at=finished_at,
        attempts=attempts,
        error=report.get("error"),
        version=orca_ray.__version__,
        torch_version=place.get("torch", ""),
    )


def _outcome_from(curve: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what is known of a trial that was stopped or failed: its curve so far, and no test score."""
    refine = [point for point in curve if point["stage"] == "refine"]
    scored = [(p["validation_score"], p["epoch"]) for p in refine if p["validation_score"] is not None]
    align = [point for point in curve if point["stage"] == "align"]
    best = min(scored, default=(None, None))
    return {
        "validation_score": best[0],
        "test_score": None,
        "best_epoch": best[1],
        "epochs": len(refine),
        "distance_before": align[0]["distance"] if align else None,
        "distance_after": align[-1]["distance"] if align else None,
        "num_parameters": None,
        "num_trainable": None,
        "align_seconds": sum(point["seconds"] for point in align),
        "refine_seconds": sum(point["seconds"] for point in refine),
        "evaluate_seconds": 0.0,
        "peak_memory_mib": None,
    }
