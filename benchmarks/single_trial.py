"""A single trial run to its end in this process."""

from collections.abc import Mapping
from typing import Any

from orca_ray.methods.options import Scalar
from orca_ray.methods.registry import relevant, resolve
from orca_ray.methods.reports import EpochProgress, Outcome
from orca_ray.methods.trial_trainer import TrialTrainer
from orca_ray.tasks.registry import get_task


def run_trial(
    task: str,
    method: str,
    body: str,
    values: Mapping[str, Scalar],
    seed: int,
    **options: Any,
) -> tuple[Outcome, list[EpochProgress]]:
    """Run a trial with hyper-parameters ``values``; return its outcome and the progress
    after every epoch.

    ``options`` are further arguments of `TrialTrainer`.
    """
    chosen = get_task(task)
    used = relevant(resolve(method, values), method)
    trainer = TrialTrainer(
        chosen, chosen.prepare(), method, body, used, seed, test=True, **options
    )
    try:
        curve = []
        while not trainer.done:
            curve.append(trainer.step())
        return trainer.result(), curve
    finally:
        trainer.close()
