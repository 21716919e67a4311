"""A sweep without training: plans of two cheap tasks, and a worker whose scores are arithmetic."""

import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from orca_ray.methods.reports import Outcome
from orca_ray.sweep.execution.conductor import Conductor
from orca_ray.sweep.execution.executors.base import stopped_early
from orca_ray.sweep.planning.searches import SearchPlan, plan_searches
from orca_ray.sweep.planning.spec import Overrides, SweepSpec, parse_spec
from orca_ray.sweep.planning.trial import TrialSpec

TEXT = """\
name: fake
benchmark: pocket
methods: [nft, orca]
tasks: [pocket/digits, pocket/wdbc]
early_stopping: {eta: 2, min_epochs: 2}
settings: {refine.learning_rate: 1e-3, refine.epochs: 6, align.epochs: 2}
space: {refine.learning_rate: {log_uniform: [1e-5, 1e-1]}}
budgets:
  full: {search_trials: 4, confirm_seeds: [1, 2]}
"""


def fake_spec(text: str = TEXT, overrides: Overrides | None = None) -> SweepSpec:
    return parse_spec(text, overrides=overrides)


def fake_searches(spec: SweepSpec | None = None) -> list[SearchPlan]:
    spec = spec or fake_spec()
    return plan_searches(spec, dict.fromkeys(spec.tasks, "0123456789abcdef"), gpus=False)


def fake_score(trial: TrialSpec, epoch: int) -> float:
    """Best at a learning rate of 1e-2, better with every epoch, a little different for every seed."""
    distance = abs(math.log10(float(trial.hyperparameters["refine.learning_rate"])) + 2)
    return distance + 1 / epoch + trial.seed / 1000


def fake_reports(trial: TrialSpec) -> Iterator[dict[str, Any]]:
    """Yield the reports that a runner would."""
    for epoch in range(1, trial.epochs + 1):
        point = {
            "stage": "refine", "epoch": epoch, "epochs": trial.epochs, "loss": 1.0, "distance": None,
            "validation_score": fake_score(trial, epoch), "learning_rate": 1e-3, "seconds": 0.1,
        }  # fmt: skip
        done = epoch == trial.epochs
        yield {"progress": [point], "done": done, "outcome": fake_outcome(trial, epoch), **(fake_end() if done else {})}


def fake_outcome(trial: TrialSpec, epochs: int) -> dict[str, Any]:
    """Return what an adaptation has come to after some epochs."""
    best = fake_score(trial, epochs)
    test = best + 0.01 if trial.phase == "confirm" and epochs == trial.epochs else None
    outcome = Outcome(
        validation_score=best, test_score=test, best_epoch=epochs, epochs=epochs, num_parameters=10, num_trainable=10,
        refine_seconds=0.1 * epochs, samples_per_second=64.0, micro_batch=16, align_epochs=2, distance_before=3.0,
        distance_after=1.0, align_reused=trial.phase == "confirm", notes="a class was left out; solved in chunks",
    )  # fmt: skip
    return asdict(outcome)


def fake_end(status: str = "completed", error: str | None = None) -> dict[str, Any]:
    return {"status": status, "error": error, "place": {}}


def play(conductor: Conductor, most: int | None = None, fail: frozenset[str] = frozenset()) -> list[TrialSpec]:
    """Run trials one at a time until done, or until ``most`` have ended; tasks in ``fail`` fail."""
    ran: list[TrialSpec] = []
    while (most is None or len(ran) < most) and (trial := conductor.next_trial()) is not None:
        conductor.started(trial.key)
        ran.append(trial)
        if trial.task in fail:
            conductor.finish(trial.key, fake_end("failed_user"))
            continue
        for report in fake_reports(trial):
            stop = conductor.report(trial.key, report["progress"])
            if report["done"] or stop:
                conductor.finish(trial.key, report if report["done"] else stopped_early(report))
                break
    return ran
