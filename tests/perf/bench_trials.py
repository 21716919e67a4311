"""What the machinery of a sweep costs a trial: trials that do nothing, in the driver alone and on a local Ray cluster.

``python tests/perf/bench_trials.py [TRIALS]``. A trial reports one epoch and ends. "driver" is the conductor: Optuna,
early stopping and the results store. "ray" adds Tune, warm actors and the transport of reports; the start of the
cluster is shown apart.
"""

# ruff: noqa: T201 - a benchmark prints its table

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from ray import tune

from orca_ray.results.store import ResultsStore
from orca_ray.sweep.execution.conductor import Conductor
from orca_ray.sweep.execution.executors import trainable
from orca_ray.sweep.execution.executors.ray import RayExecutor
from orca_ray.sweep.planning.loading import parse_spec
from orca_ray.sweep.planning.searches import plan_searches

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


def report() -> dict[str, Any]:
    """Return what a runner reports of a trial that took no time."""
    point = {
        "stage": "refine", "epoch": 1, "epochs": 1, "loss": 1.0, "distance": None, "validation_score": 0.5,
        "learning_rate": 1e-3, "seconds": 0.0,
    }  # fmt: skip
    outcome = {
        "validation_score": 0.5, "test_score": 0.5, "best_epoch": 1, "epochs": 1, "distance_before": None,
        "distance_after": None, "num_parameters": 1, "num_trainable": 1, "align_seconds": 0.0, "refine_seconds": 0.0,
        "evaluate_seconds": 0.0, "peak_memory_mib": None,
    }  # fmt: skip
    return {"progress": [point], "done": True, "status": "completed", "error": None, "outcome": outcome, "place": {}}


class NoopActor(tune.Trainable):  # type: ignore[misc]  # ray is untyped
    """Answers at once; reused like the real one."""

    def setup(self, config: dict[str, Any]) -> None:
        """Take a trial."""

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial."""
        return True

    def step(self) -> dict[str, Any]:
        """End the trial."""
        return {"report": json.dumps(report())}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing to keep."""

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Nothing to take."""


def conductor(num_trials: int, folder: Path) -> Conductor:
    """Plan ``num_trials`` trials of two (task, method) pairs."""
    spec = parse_spec(SWEEP.format(search=max(1, num_trials // 2 - 1)))
    searches = plan_searches(spec, dict.fromkeys(spec.tasks, "0" * 16), gpus=False)
    return Conductor(searches, ResultsStore(folder / "results", create=True), executor="noop")


def in_driver(work: Conductor) -> float:
    """Play all trials in this process; return seconds."""
    begin = time.perf_counter()
    while (trial := work.next_trial()) is not None:
        work.started(trial.key)
        answer = report()
        work.report(trial.key, answer["progress"])
        work.finish(trial.key, answer)
    return time.perf_counter() - begin


def on_ray(work: Conductor, folder: Path) -> tuple[float, float]:
    """Run all trials on a local Ray cluster; return seconds to start it and seconds to run."""

    def make_noop(name: str) -> Any:
        return type(name, (NoopActor,), {})

    trainable.make_trainable = make_noop
    begin = time.perf_counter()
    with RayExecutor() as engine:
        engine.open("local")
        opened = time.perf_counter()
        engine.run(work, folder / "checkpoints", 30.0)
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
        started, ray = on_ray(work, second)
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
