"""Scale of a sweep: many searches, many trials that compute nothing, many workers.

``python benchmarks/bench_scale.py [MEASUREMENT ...] [--trials N] [--workers N] [--json
FILE]``

- ``driver``: 126 searches with controller, search, placement and store, on a cluster in
  virtual time: rate, last thousand trials against the first one and against the first
  one that TPE suggests, memory, files, resumption.
- ``ray``: the same through Tune and warm actors, on a local Ray cluster with logical
  CPUs; a trial sleeps for 0.1 s, because Tune ends a worker for which no trial waits,
  and starts another one for the next trial.
- ``makespan``: 60 uneven searches on 64 logical GPUs in virtual time, against a lower
  bound.
- ``start``: workers that need 5 s of sleep to start, on a local Ray cluster; all must
  run at the same time.

Each planned trial must have run once. Times are wall times; CPU times of the driver are
shown beside them, because a busy machine changes these less.
"""

# ruff: noqa: T201 - a benchmark prints its table

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psutil

from benchmarks.simulated_sweep import (
    FileCounter,
    Meter,
    SimulatedRunner,
    plans,
    uneven_seconds,
)
from benchmarks.virtual_cluster import VirtualCluster
from orca_ray.results.lease import Lease
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.executors import ray as ray_executor
from orca_ray.sweep.executors import trainable
from orca_ray.sweep.messages.report import TrialReport
from orca_ray.sweep.messages.settings import WorkerSettings
from orca_ray.sweep.plan.searches import SearchPlan
from orca_ray.sweep.plan.trial_spec import TrialSpec
from orca_ray.sweep.run.controller import SweepController
from orca_ray.sweep.run.executor import ExecutorOptions
from orca_ray.sweep.search import NUM_STARTUP, History

SEARCHES = 126
GPUS = 64
SETUP_SECONDS = 5.0
TRIAL_SECONDS = 0.1
Figures = dict[str, float]


def sweep(
    searches: list[SearchPlan], run: Callable[[SweepController], None], **options: Any
) -> Figures:
    """Run a sweep, check its store, resume it, and return the figures of `Meter` and of
    the store.
    """
    with tempfile.TemporaryDirectory(prefix="orca-ray-bench-") as name:
        store = ResultsStore(Path(name) / "results", create=True)
        files = FileCounter(Path(name))
        files.start()
        with Lease(store, searches[0].spec.sweep_id) as lease:
            meter = Meter()
            run(
                SweepController(
                    searches,
                    store,
                    executor="simulated",
                    listener=meter,
                    lease=lease,
                    **options,
                )
            )
        num_random = sum(min(NUM_STARTUP, plan.num_search // 2) for plan in searches)
        figures = {**meter.figures(num_random), "files": files.end()}
        meter.check(searches, store)
        begin = time.perf_counter()
        cpu = time.process_time()
        again = ResultsStore(store.uri)
        History.read(again, searches[0].spec)
        read = time.perf_counter() - begin
        assert SweepController(searches, again, executor="simulated").done
        resumed = {
            "resume_seconds": time.perf_counter() - begin - read,
            "resume_and_read_cpu": time.process_time() - cpu,
        }
    return {**figures, "read_seconds": read, **resumed}


def driver(trials: int, workers: int) -> Figures:
    """Measure the driver alone."""
    return sweep(many(trials), VirtualCluster(workers, lambda trial: 1.0).run)


def many(trials: int) -> list[SearchPlan]:
    """Plan about ``trials`` trials: up to 126 searches of 79, more in each if that is
    not enough.
    """
    searches = max(1, min(SEARCHES, round(trials / 79)))
    return plans(searches, max(1, round(trials / searches) - 1))


def on_ray(trials: int, workers: int) -> Figures:
    """Measure a sweep through Tune; the rate is that of warm actors."""
    return sweep(
        many(trials), lambda controller: run_on_ray(controller, workers, SleepingActor)
    )


class SimulatedActor(trainable.TrialActor):
    """Worker whose trials compute nothing; all but the trial runner is real."""

    runner: ClassVar[type[SimulatedRunner]] = SimulatedRunner
    setup_seconds: ClassVar[float] = 0.0

    def setup(self, config: dict[str, Any]) -> None:
        """Take a trial; sleep before the first one."""
        if not hasattr(self, "_heartbeat"):
            time.sleep(self.setup_seconds)
        with mock.patch.object(trainable, "TrialRunner", self.runner):
            super().setup(config)


class SleepingRunner(SimulatedRunner):
    """Runner whose trials take some time."""

    seconds = TRIAL_SECONDS


class SleepingActor(SimulatedActor):
    """Worker whose trials take some time."""

    runner = SleepingRunner


def run_on_ray(
    controller: SweepController, workers: int, actor: type[SimulatedActor]
) -> None:
    """Run a sweep on a local Ray cluster with ``workers`` logical CPUs."""

    def make(name: str, settings: WorkerSettings) -> Any:
        return type(name, (actor,), {"settings": settings})

    with (
        mock.patch("orca_ray.process.allowed_cpus", return_value=workers),
        # Ray starts as many processes at a time.
        mock.patch("multiprocessing.cpu_count", return_value=workers),
        mock.patch.object(trainable, "make_trainable", make),
        ray_executor.RayExecutor() as executor,
    ):
        executor.open("local")
        executor.run(controller, WorkerSettings(""), ExecutorOptions())


def _seconds_of(seconds: Mapping[tuple[str, str], float], trial: TrialSpec) -> float:
    return seconds[trial.task, trial.method]


def makespan(trials: int, workers: int) -> Figures:
    """Measure 60 searches of 10 search and 3 confirm trials, whose durations are known,
    unknown or badly estimated.

    The lower bound is the larger one of: all GPU seconds by the number of GPUs; the
        longest search trial and confirm
    trial, one after the other.
    """
    searches = plans(60, 10, 3, gpus=True)
    estimates: dict[str, Callable[[float, float], float]] = {
        "known": lambda seconds, noise: seconds,
        "factor_4": lambda seconds, noise: seconds * noise,
        "unknown": lambda seconds, noise: 1.0,
    }
    figures: Figures = {}
    for name, estimate in estimates.items():
        ratios = []
        for seed in range(5):
            seconds = {
                (p.task, p.method): uneven_seconds(p.task, p.method, seed)
                for p in searches
            }
            noise = {
                pair: 4 ** (1 - uneven_seconds(*pair, seed + 100) / 15)
                for pair in seconds
            }
            cluster = VirtualCluster(workers, partial(_seconds_of, seconds))
            given = {
                pair: estimate(each, noise[pair]) for pair, each in seconds.items()
            }
            sweep(searches, cluster.run, trial_seconds=given)
            ratios.append(
                cluster.now / max(cluster.busy / workers, 2 * max(seconds.values()))
            )
        figures |= {
            f"{name}_mean": statistics.mean(ratios),
            f"{name}_worst": max(ratios),
        }
    return figures


def start(trials: int, workers: int) -> Figures:
    """Measure the start of workers that sleep first; each has one trial, which ends
    when all have started.

    The time until all have started is compared with the longest time that a worker
    takes from the creation of its process (parallel) and with the sum of these times
    (sequence).
    """
    with tempfile.TemporaryDirectory(prefix="orca-ray-bench-") as name:
        folder = Path(name)

        class Runner(SimulatedRunner):
            def step(self) -> TrialReport:
                process = psutil.Process()
                ready = time.time()
                cpu = process.cpu_times()
                text = json.dumps([process.create_time(), ready, cpu.user + cpu.system])
                (folder / f"{process.pid}.json").write_text(text)
                while len(list(folder.glob("*.json"))) < workers:
                    time.sleep(0.2)
                return super().step()

        class Actor(SimulatedActor):
            runner = Runner
            setup_seconds = SETUP_SECONDS

        begin = time.time()
        sweep(
            plans(workers, 0), lambda controller: run_on_ray(controller, workers, Actor)
        )
        started = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    own = [ready - created for created, ready, _ in started]
    asleep = [ready - SETUP_SECONDS for _, ready, _ in started]
    return {
        "workers": len(started),
        "seconds_with_ray": max(ready for _, ready, _ in started) - begin,
        "seconds": (
            max(ready for _, ready, _ in started)
            - min(created for created, _, _ in started)
        ),
        "in_parallel": max(own),
        "in_sequence": sum(own),
        "cpu_seconds": sum(cpu for _, _, cpu in started),
        "asleep_at_once": max(
            sum(a <= b <= a + SETUP_SECONDS for a in asleep) for b in asleep
        ),
    }


MEASUREMENTS: dict[str, tuple[Callable[[int, int], Figures], int, int]] = {
    "driver": (driver, 10_000, GPUS),
    "ray": (on_ray, 2_000, 4),
    "makespan": (makespan, 0, GPUS),
    "start": (start, 12, 12),
}
"""Function, default number of trials and of workers, by name."""


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "measurements", nargs="*", metavar="MEASUREMENT", help=", ".join(MEASUREMENTS)
    )
    parser.add_argument("--trials", type=int)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if unknown := set(options.measurements) - MEASUREMENTS.keys():
        parser.error(
            f"no such measurement: {', '.join(sorted(unknown))}; choose from"
            f" {', '.join(MEASUREMENTS)}"
        )
    print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
    found = {}
    for name in options.measurements or MEASUREMENTS:
        measure, trials, workers = MEASUREMENTS[name]
        found[name] = measure(options.trials or trials, options.workers or workers)
        print(
            f"{name}\n"
            + "\n".join(
                f"  {each:24}{value:12.2f}" for each, value in found[name].items()
            ),
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
