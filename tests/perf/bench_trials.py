"""Overhead of a sweep per trial: trials that compute nothing, in the driver alone and on a local Ray cluster.

``python tests/perf/bench_trials.py [TRIALS]``. A trial reports one epoch and ends. "driver" is the conductor with
Optuna, early stopping and the results store. "ray" adds Tune, warm actors and the transport of reports; the start of
the cluster is shown separately.
"""

# ruff: noqa: T201 - a benchmark prints its table

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from orca_ray.results.store import ResultsStore
from orca_ray.sweep.execution.conductor import Conductor
from orca_ray.sweep.execution.executors import trainable
from orca_ray.sweep.execution.executors.base import RunOptions
from orca_ray.sweep.execution.executors.ray import RayExecutor
from orca_ray.sweep.execution.messages import Assignment
from orca_ray.sweep.execution.worker_settings import WorkerSettings
from orca_ray.sweep.planning.loading import parse_spec
from orca_ray.sweep.planning.searches import plan_searches
from tests.sweep.fakes import fake_reports, play

SWEEP = """\
name: noop
benchmark: pocket
methods: [nft]
tasks: [pocket/digits, pocket/wdbc]
early_stopping: null
parallel: 2
settings: {{refine.epochs: 1, refine.warmup_epochs: 0}}
space: {{refine.learning_rate: {{log_uniform: [1e-5, 1e-2]}}}}
budgets: {{full: {{search_trials: {search}, confirm_seeds: [1]}}}}
"""


class NoopActor(trainable.TrialActor):
    """Reports a fake result at once; reused like the real actor."""

    def setup(self, config: dict[str, Any]) -> None:
        """Take a trial."""
        self._trial = Assignment.from_json(config["assignment"]).trial

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial."""
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """End the trial."""
        (report,) = fake_reports(self._trial)
        return {"report": report.to_json(), "done": True}

    def cleanup(self) -> None:
        """Do nothing."""


def conductor(num_trials: int, folder: Path) -> Conductor:
    """Plan ``num_trials`` trials of two (task, method) pairs."""
    spec = parse_spec(SWEEP.format(search=max(1, num_trials // 2 - 1)))
    searches = plan_searches(spec, dict.fromkeys(spec.tasks, "0" * 16), gpus=False)
    return Conductor(searches, ResultsStore(folder / "results", create=True), executor="noop")


def in_driver(work: Conductor) -> float:
    """Run all trials in this process; return seconds."""
    begin = time.perf_counter()
    play(work)
    return time.perf_counter() - begin


def on_ray(work: Conductor) -> tuple[float, float]:
    """Run all trials on a local Ray cluster; return seconds to start it and seconds to run."""

    def make_noop(name: str, settings: WorkerSettings) -> Any:
        return type(name, (NoopActor,), {"settings": settings})

    trainable.make_trainable = make_noop
    begin = time.perf_counter()
    with RayExecutor() as engine:
        engine.open("local")
        opened = time.perf_counter()
        engine.run(work, WorkerSettings(""), RunOptions())  # no-op trials have no checkpoints
        return opened - begin, time.perf_counter() - opened


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trials", nargs="?", type=int, default=60)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    wanted = options.trials
    with tempfile.TemporaryDirectory(prefix="orca-ray-bench-") as name:
        first, second = Path(name) / "driver", Path(name) / "ray"
        alone = conductor(wanted, first)
        driver = in_driver(alone)
        work = conductor(wanted, second)
        started, ray = on_ray(work)
        done = (alone.summary().ran, work.summary().ran)
    assert done[0] == done[1] > 0, done
    print(f"{done[0]} no-op trials, {os.cpu_count()} CPUs; Ray started in {started:.1f} s")
    print(f"{'':8}{'seconds':>10}{'ms a trial':>12}{'ratio':>8}")
    for label, seconds in (("driver", driver), ("ray", ray)):
        print(f"{label:8}{seconds:10.2f}{1000 * seconds / done[0]:12.1f}{seconds / driver:8.1f}")
    if options.json:
        options.json.write_text(json.dumps({"trials": done[0], "start": started, "driver": driver, "ray": ray}))


if __name__ == "__main__":
    main()
