"""A sweep without training: plans of two tasks, and a worker that computes scores."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orca_ray.methods.reports import EpochProgress, Outcome
from orca_ray.results.lease import Lease
from orca_ray.results.live import file_name
from orca_ray.results.record import Record, Status
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.messages.report import TrialReport
from orca_ray.sweep.plan.loading import parse_spec
from orca_ray.sweep.plan.searches import SearchPlan, plan_searches
from orca_ray.sweep.plan.spec import Overrides, SweepSpec
from orca_ray.sweep.plan.trial_spec import TrialSpec
from orca_ray.sweep.run.controller import SweepController

TEXT = Path(__file__).with_name("fake.yaml").read_text()


def fake_spec(text: str = TEXT, overrides: Overrides | None = None) -> SweepSpec:
    return parse_spec(text, overrides=overrides)


def fake_searches(spec: SweepSpec | None = None) -> list[SearchPlan]:
    spec = spec or fake_spec()
    return plan_searches(
        spec, dict.fromkeys(spec.tasks, "0123456789abcdef"), gpus=False
    )


def new_controller(
    store: ResultsStore,
    lease: Lease | None = None,
    *,
    text: str = TEXT,
    overrides: Overrides | None = None,
    **options: Any,
) -> SweepController:
    """Return a controller of the fake sweep in ``text``.

    ``options`` are further arguments of `SweepController`.
    """
    searches = fake_searches(fake_spec(text, overrides))
    return SweepController(searches, store, executor="fake", lease=lease, **options)


def fake_score(trial: TrialSpec, epoch: int) -> float:
    """Return the validation score of a trial after an epoch.

    It is best at a learning rate of 1e-2, falls with every epoch, and differs a little
    from seed to seed.
    """
    distance = abs(math.log10(float(trial.hyperparameters["refine.learning_rate"])) + 2)
    return distance + 1 / epoch + trial.seed / 1000


def fake_reports(trial: TrialSpec) -> Iterator[TrialReport]:
    """Yield the report of each epoch of a trial."""
    for epoch in range(1, trial.epochs + 1):
        point = EpochProgress(
            stage="refine",
            epoch=epoch,
            epochs=trial.epochs,
            loss=1.0,
            validation_score=fake_score(trial, epoch),
            learning_rate=1e-3,
            seconds=0.1,
        )
        status = Status.COMPLETED if epoch == trial.epochs else None
        yield TrialReport(
            progress=(point,), outcome=fake_outcome(trial, epoch), status=status
        )


def fake_outcome(trial: TrialSpec, epochs: int) -> Outcome:
    """Return the outcome of an adaptation after some epochs."""
    validation_score = fake_score(trial, epochs)
    test_score = None
    if trial.phase == "confirm" and epochs == trial.epochs:
        test_score = validation_score + 0.01
    return Outcome(
        validation_score=validation_score,
        test_score=test_score,
        best_epoch=epochs,
        epochs=epochs,
        num_parameters=10,
        num_trainable=10,
        refine_seconds=0.1 * epochs,
        samples_per_second=64.0,
        micro_batch=16,
        align_epochs=2,
        distance_before=3.0,
        distance_after=1.0,
        align_reused=trial.phase == "confirm",
        notes="a class was left out; solved in chunks",
    )


def take(controller: SweepController) -> TrialSpec:
    """Return the next trial, and check that there is one."""
    trial = controller.next_trial()
    assert trial is not None
    return trial


def end(controller: SweepController, trial: TrialSpec) -> Record:
    """Run a taken trial until it completes or is stopped, and return its record."""
    for report in fake_reports(trial):
        stops = controller.report(trial.key, report.progress)
        if report.done:
            break
        if stops:
            report = report.stopped_early()
            break
    return controller.finish(trial.key, report)


def play(
    controller: SweepController,
    most: int | None = None,
    fail: frozenset[str] = frozenset(),
) -> list[TrialSpec]:
    """Run trials one at a time until none is left, or until ``most`` have ended.

    Trials of the tasks in ``fail`` fail. Return the trials that ran.
    """
    ran: list[TrialSpec] = []
    while most is None or len(ran) < most:
        trial = controller.next_trial()
        if trial is None:
            break
        controller.started(trial.key)
        ran.append(trial)
        if trial.task in fail:
            controller.finish(trial.key, TrialReport(status=Status.FAILED_USER))
        else:
            end(controller, trial)
    controller.close()
    return ran


def waiting_requests(store: ResultsStore, sweep: str) -> list[str]:
    """Return the names of the requests that the driver of a sweep has not taken."""
    return store.folder.names(f"requests/{file_name(sweep)}")
