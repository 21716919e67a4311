"""The driver of a test: a sweep of trials that sleep, each on half a GPU; ``python -m tests.cluster.logical_gpus DIR``.

Workers append a line "key node process" to ``DIR/steps`` for each step of a trial.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import ray

from orca_ray.results.store import ResultsStore
from orca_ray.sweep.executors import trainable
from orca_ray.sweep.executors.base import ExecutorOptions
from orca_ray.sweep.executors.ray import RayExecutor
from orca_ray.sweep.plan.searches import plan_searches
from orca_ray.sweep.run.controller import SweepController
from orca_ray.sweep.worker.settings import WorkerSettings
from tests.sweep import fakes

TEXT = fakes.TEXT.replace("search_trials: 4, confirm_seeds: [1, 2]", "search_trials: 0, confirm_seeds: [1, 2]")
TEXT = TEXT.replace("refine.epochs: 6", "refine.epochs: 20")


def sleeping_actor(name: str, settings: WorkerSettings) -> type[trainable.TrialActor]:
    """Return an actor whose steps take a second, and whose scores are arithmetic."""

    class Sleeper(trainable.TrialActor):
        def setup(self, config: dict[str, Any]) -> None:
            super().setup(config)
            self._reports = fakes.fake_reports(self._runner.trial)

        def step(self) -> dict[str, Any]:
            with (Path(self.settings.store).parent / "steps").open("a") as steps:
                steps.write(f"{self._runner.trial.key} {self._node} {os.getpid()}\n")
            time.sleep(1)
            report = next(self._reports)
            return {"report": report.to_json(), "done": report.done, "node": self._node}

    return type(name, (Sleeper,), {"settings": settings})


def main(directory: str) -> None:
    """Run the sweep on the cluster at RAY_ADDRESS, and print how its trials ended."""
    for module in (sys.modules[__name__], fakes):
        ray.cloudpickle.register_pickle_by_value(module)
    trainable.make_trainable = sleeping_actor
    spec = fakes.fake_spec(f"{TEXT}resources: {{cpus: 0.5, gpus: 0.5}}\n")
    searches = plan_searches(spec, dict.fromkeys(spec.tasks, "0" * 16), gpus=True)
    store = ResultsStore(f"{directory}/results", create=True)
    controller = SweepController(searches, store, executor="ray")
    with RayExecutor() as engine:
        engine.open(None)
        engine.run(controller, WorkerSettings(store.uri), ExecutorOptions())
    controller.close()
    print(json.dumps({status.value: count for status, count in controller.summary().statuses.items() if count}))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1])
