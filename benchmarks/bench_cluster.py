"""A large cluster in virtual time: what a driver needs for a thousand workers, and how
well it uses them.

``python benchmarks/bench_cluster.py [--trials 1000 10000] [--workers 100 1000 10000]
[--epochs 3] [--json FILE]``

Controller, search, placement, recorder, store (a local folder), lease, and the
searcher, scheduler and callback of Tune are the real ones; `virtual_tune` stands in for
Tune's controller and Ray. Trials take a log-normal time (median 10 minutes, sigma 0.7)
and report three epochs (``--epochs``); workers start, fail, hang and are lost as in
`virtual_tune.Faults`. Each cell of the table is a process of its own on one core:

- makespan over its lower bound, the larger one of: all GPU seconds of the trials by the
  number of GPUs; the longest search trial and confirm trial of one search, one after
  the other. The bound knows neither starts nor faults.
- CPU of the driver for a trial, and for a step of Tune's loop; load: CPU of the driver
  by virtual time. Tune itself and Ray are not in it.
- operations on the store's folder in a minute of virtual time, by kind.
- time until the controller knows of a fault, by kind: mean and longest.

First, a sweep of 300 trials on 100 workers with many faults is compared with an
undisturbed one (`check`): each planned trial once, and equal records. In each cell,
each planned trial must have run once and have the scores of its hyper-parameters and
seed. A difference ends with exit code 1.
"""

# ruff: noqa: T201 - a benchmark prints its table

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import NormalDist, mean
from typing import Any
from unittest import mock

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.simulated_sweep import Meter, plans
from benchmarks.virtual_time import VirtualTime
from benchmarks.virtual_tune import Faults, VirtualTune, diverges
from orca_ray.results.folder import Folder
from orca_ray.results.lease import Lease
from orca_ray.results.record import Record, Status
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.messages.report import TrialReport
from orca_ray.sweep.messages.settings import TimeLimits
from orca_ray.sweep.plan.searches import SearchPlan
from orca_ray.sweep.plan.trial_spec import TrialSpec, stable_seed
from orca_ray.sweep.run.controller import SweepController
from tests.sweep.fakes import fake_outcome, fake_reports

MEDIAN_SECONDS = 600.0
SIGMA = 0.7
EPOCHS = 3
MANY_FAULTS = Faults(
    rates=(
        ("failed_oom", 0.03),
        ("failed_code", 0.01),
        ("process", 0.03),
        ("preempted", 0.03),
        ("hang", 0.01),
    ),
    node_seconds=3 * 3600.0,
)
RUN_FIELDS = {"wall_seconds", "started_at", "finished_at", "attempts", "node"}
"""Fields of a record that say how a trial ran, not what it found."""


def seconds_of(trial: TrialSpec, median: float = MEDIAN_SECONDS) -> float:
    """Return the duration of a trial, which depends only on its key."""
    return median * math.exp(
        SIGMA * NormalDist().inv_cdf((stable_seed(trial.key) + 0.5) / 2**32)
    )


@dataclass
class Run:
    """What a sweep on a virtual cluster leaves."""

    records: dict[str, Record]
    makespan: float
    bound: float
    figures: dict[str, float]
    noticed: dict[str, list[float]]
    requests: Counter[str] = field(default_factory=Counter)


def run(
    searches: list[SearchPlan],
    workers: int,
    faults: Faults,
    *,
    seed: int = 0,
    median: float = MEDIAN_SECONDS,
    limits: TimeLimits | None = None,
) -> Run:
    """Run a sweep on ``workers`` GPUs; raise UserError unless each planned trial ran
    once.
    """
    trials: dict[str, TrialSpec] = {}

    def seconds(trial: TrialSpec) -> float:
        trials[trial.key] = trial
        return seconds_of(trial, median)

    clock = VirtualTime()
    with (
        tempfile.TemporaryDirectory(prefix="orca-ray-bench-") as name,
        _counted() as requests,
        clock.installed(),
    ):
        store = ResultsStore(Path(name) / "results", create=True)
        meter = Meter()
        tune = VirtualTune(clock, workers, seconds, faults, seed)
        begin = time.process_time()
        with Lease(store, searches[0].spec.sweep_id) as lease:
            tune.run(
                SweepController(
                    searches, store, executor="ray", listener=meter, lease=lease
                ),
                limits,
            )
        cpu = time.process_time() - begin
        counted = Counter(requests)
        meter.check(searches, store)
        records = store.load(searches[0].spec.sweep_id)
    check_scores(records, trials)
    longest: dict[tuple[str, str, str], float] = {}
    durations = [
        (each, seconds_of(each, median))
        for key, each in trials.items()
        if not diverges(key)
    ]
    for trial, duration in durations:
        search = (trial.task, trial.method, trial.phase)
        longest[search] = max(longest.get(search, 0.0), duration)
    chain = max(
        longest.get((task, method, "search"), 0.0)
        + longest.get((task, method, "confirm"), 0.0)
        for task, method, _ in longest
    )
    work = sum(duration for _, duration in durations)
    figures = {
        "trials": len(records),
        "workers": workers,
        "cpu_ms_a_trial": 1e3 * cpu / len(records),
        "cpu_ms_a_step": 1e3 * cpu / tune.steps,
        "steps": tune.steps,
        "load": cpu / clock.now,
        "most_workers_at_once": tune.most_at_once,
        "gpu_hours_lost": (tune.busy - work) / 3600,
    }
    return Run(
        records,
        clock.now,
        max(work / workers, chain),
        figures,
        dict(tune.noticed),
        counted,
    )


@contextmanager
def _counted() -> Iterator[Counter[str]]:
    """Context manager: counts the operations on the folders of stores by kind."""
    counter = Counter[str]()
    attempt = Folder._try

    def counting(self: Folder, verb: str, path: str, action: Any) -> Any:
        counter[verb] += 1
        return attempt(self, verb, path, action)

    with mock.patch.object(Folder, "_try", counting):
        yield counter


def check_scores(records: dict[str, Record], trials: dict[str, TrialSpec]) -> None:
    """Exit with 1 unless each completed record has the scores that its trial gives on
    every run.
    """
    for key, record in records.items():
        expected = fake_outcome(trials[key], trials[key].epochs)
        found = (record.validation_score, record.test_score, record.epochs)
        if not record.status.failed and found != (
            expected.validation_score,
            expected.test_score,
            expected.epochs,
        ):
            raise SystemExit(
                f"trial {key} has the scores {found}, not those of its hyper-parameters"
                " and seed"
            )


def check(
    *, median: float = MEDIAN_SECONDS, limits: TimeLimits | None = None
) -> dict[str, int]:
    """Compare a sweep of 300 trials on 100 workers with many faults with an undisturbed
    one.

    Return the number of trials, and of faults by kind; exit with 1 if a record differs.
    """
    searches = plans(15, 19, 1, gpus=True, epochs=EPOCHS, generation=10)
    faults = replace(
        MANY_FAULTS, node_seconds=MANY_FAULTS.node_seconds * median / MEDIAN_SECONDS
    )
    disturbed = run(searches, 100, faults, median=median, limits=limits)
    expected = {key: _result(each) for key, each in undisturbed(searches).items()}
    if {key: _result(each) for key, each in disturbed.records.items()} != expected:
        raise SystemExit(
            "the records of the disturbed sweep differ from those of the"
            " undisturbed one"
        )
    return {
        "trials": len(expected),
        **{kind: len(each) for kind, each in sorted(disturbed.noticed.items())},
    }


def undisturbed(searches: list[SearchPlan]) -> dict[str, Record]:
    """Return the records of a sweep that runs one trial after another, on a cluster
    without faults.
    """
    with tempfile.TemporaryDirectory(prefix="orca-ray-bench-") as name:
        store = ResultsStore(Path(name) / "results", create=True)
        controller = SweepController(searches, store, executor="ray")
        while (trial := controller.next_trial()) is not None:
            controller.started(trial.key)
            for report in fake_reports(trial):
                if diverges(trial.key):
                    report = TrialReport(status=Status.FAILED_NAN, error="simulated")
                controller.report(trial.key, report.progress)
                if report.done:
                    controller.ended(trial.key, report)
                    break
        controller.close()
        return store.load(searches[0].spec.sweep_id)


def _result(record: Record) -> dict[str, Any]:
    return {
        name: value for name, value in asdict(record).items() if name not in RUN_FIELDS
    }


def measure(trials: int, workers: int, epochs: int) -> dict[str, Any]:
    """Return the figures of one cell of the table."""
    searches = max(1, min(126, round(trials / 79)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    made = run(
        plans(searches, max(1, round(trials / searches) - 1), gpus=True, epochs=epochs),
        workers,
        Faults(),
    )
    return {
        **made.figures,
        "makespan_hours": made.makespan / 3600,
        "to_bound": made.makespan / made.bound,
        "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
        "mb_of_imports": before * 1024 / 1e6,
        "requests": {
            kind: 60 * count / made.makespan for kind, count in made.requests.items()
        },
        "noticed": {
            kind: [len(each), mean(each), max(each)]
            for kind, each in sorted(made.noticed.items())
        },
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, nargs="*", default=[1000, 10_000])
    parser.add_argument("--workers", type=int, nargs="*", default=[100, 1000, 10_000])
    parser.add_argument(
        "--epochs", type=int, default=EPOCHS, help="Reports of a trial."
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure", type=int, nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*options.measure)))
        return
    print("disturbed and undisturbed records are equal:", check(), flush=True)
    found = []
    for trials in options.trials:
        for workers in options.workers:
            command = [
                sys.executable,
                __file__,
                "--measure",
                str(trials),
                str(workers),
                str(options.epochs),
            ]
            done = subprocess.run(
                command,
                stdout=subprocess.PIPE,
                text=True,
                check=True,
                preexec_fn=_one_core,
            )
            found.append(json.loads(done.stdout))
            _print(found[-1])
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


def _print(cell: dict[str, Any]) -> None:
    print(f"{cell.pop('trials'):,} trials on {cell.pop('workers'):,} workers")
    for name, value in cell.items():
        if isinstance(value, dict):
            parts = (v if isinstance(v, list) else [v] for v in value.values())
            value = ", ".join(
                f"{k} {' '.join(f'{x:.1f}' for x in v)}"
                for k, v in zip(value, parts, strict=True)
            )
            print(f"  {name:24}{value}")
        else:
            print(f"  {name:24}{value:12.2f}")
    sys.stdout.flush()


def _one_core() -> None:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])


if __name__ == "__main__":
    main()
