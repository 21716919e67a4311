"""Two sweeps on one Ray cluster: how many of its GPUs each of them uses.

``python -m benchmarks.bench_sharing [--minutes 10] [--gpus 8] [--runs equal priority
limit]``

``cluster/local.sh`` starts a Ray cluster of two nodes that declare the GPUs. Two
drivers join it, the second one when the first has used all GPUs for half a minute.
Drivers, leases, claims, Tune and workers are real; a trial sleeps for 3 to 9 seconds on
one declared GPU. The runs are:

- ``equal``: both sweeps have the priority 0.
- ``priority``: the first has 0, the second 1.
- ``limit``: both have 0; in the middle, ``orca-sweep limit --max-gpus`` limits the
  first sweep to a quarter of the GPUs.

The table has the mean number of GPUs with a trial of each sweep, and the longest time
without any. Time counts from a minute after the first trial of the second sweep, or
half a minute after the limit.
"""

# ruff: noqa: T201 - a benchmark prints its table

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psutil

from benchmarks.bench_scale import SimulatedActor
from benchmarks.simulated_sweep import SimulatedRunner, plans, uneven_seconds
from orca_ray.results.lease import Lease
from orca_ray.results.live import Limits
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.executors import trainable
from orca_ray.sweep.executors.ray import RayExecutor
from orca_ray.sweep.messages.report import TrialReport
from orca_ray.sweep.messages.settings import WorkerSettings
from orca_ray.sweep.run.controller import SweepController
from orca_ray.sweep.run.events import Event, TrialFinished, TrialStarted
from orca_ray.sweep.run.executor import ExecutorOptions
from tests.cluster.processes import Cluster, start_local_cluster

SWEEP_ID = "scale/full"
HEAD_START_SECONDS = 30.0
"""Seconds that the first sweep has all GPUs."""
SETTLING_SECONDS = 60.0
"""Seconds from the first trial of the second sweep that are not counted."""
LIMIT_SECONDS = 30.0
"""Seconds from the command that sets a limit that are not counted."""
START_SECONDS = 600.0
"""Seconds within which the first trial of a sweep must start."""


class SleepingRunner(SimulatedRunner):
    """Runner whose trials sleep for 3 to 9 seconds."""

    def step(self) -> TrialReport:
        """Sleep, then report the only epoch; the first step returns at once."""
        if self._staged:
            draw = uneven_seconds(self.trial.task, self.trial.method, self.trial.seed)
            time.sleep(3.0 + draw / 5)
        return super().step()


class SleepingActor(SimulatedActor):
    """Worker whose trials sleep."""

    runner: ClassVar[type[SimulatedRunner]] = SleepingRunner


def make_actor(name: str, settings: WorkerSettings) -> Any:
    """Return the trainable for Tune."""
    return type(name, (SleepingActor,), {"settings": settings})


def drive(folder: Path, address: str, priority: int) -> None:
    """Run a sweep until ``orca-sweep stop``; write when its trials start and end."""
    store = ResultsStore(folder / "results", create=True)
    with (
        (folder / "spans").open("w", buffering=1) as spans,
        mock.patch.object(trainable, "make_trainable", make_actor),
        Lease(store, SWEEP_ID) as lease,
        RayExecutor() as executor,
    ):

        def listen(event: Event) -> None:
            if isinstance(event, TrialStarted):
                spans.write(f"{event.trial_key} {time.time()}\n")
            elif isinstance(event, TrialFinished):
                spans.write(f"{event.record.trial_key} {time.time()}\n")

        executor.open(address)
        controller = SweepController(
            plans(126, 30, gpus=True),
            store,
            executor="ray",
            listener=listen,
            lease=lease,
            limits=Limits(priority=priority),
        )
        executor.run(controller, WorkerSettings(""), ExecutorOptions(gpus_per_trial=1))
        controller.close()


@dataclass(frozen=True)
class Use:
    """What a sweep uses of the GPUs in a span of time."""

    gpus: float
    """Mean number of GPUs with a trial."""
    seconds_without: float
    """Longest time without any trial."""


class Sweep:
    """A driver in a process of its own, and its files."""

    def __init__(self, folder: Path, cluster: Cluster, priority: int) -> None:
        """Start the driver."""
        self._folder = folder
        self._env = {
            **cluster.environment,
            "ORCA_RAY_HOME": str(folder / "home"),
            "ORCA_RAY_RESULTS": str(folder / "results"),
        }
        folder.mkdir()
        command = [sys.executable, "-m", "benchmarks.bench_sharing", "--drive"]
        command += [str(folder), f"127.0.0.1:{cluster.port}", str(priority)]
        self._process = subprocess.Popen(command, env=self._env)

    def wait_for_trial(self) -> None:
        """Wait until the first trial has started."""
        spans = self._folder / "spans"
        end = time.monotonic() + START_SECONDS
        while not (spans.exists() and spans.stat().st_size):
            if self._process.poll() is not None or time.monotonic() > end:
                raise SystemExit("a sweep does not start")
            time.sleep(0.2)

    def command(self, name: str, *options: str) -> None:
        """Run a command of ``orca-sweep`` on the sweep."""
        program = str(Path(sys.executable).parent / "orca-sweep")
        command = [program, name, SWEEP_ID, *options]
        subprocess.run(command, env=self._env, check=True, stdout=subprocess.DEVNULL)

    def end(self) -> None:
        """End the driver."""
        if self._process.poll() is None:
            self.command("stop")
        if self._process.wait(60) != 0:
            raise SystemExit("a sweep failed")

    def kill(self) -> None:
        """Kill the driver if it still runs."""
        if self._process.poll() is None:
            self._process.kill()

    def use(self, begin: float, end: float) -> Use:
        """Return the use of GPUs between two times."""
        starts: dict[str, float] = {}
        spans = []
        for line in (self._folder / "spans").read_text().splitlines():
            key, when = line.split()
            if key in starts:
                spans.append((starts.pop(key), float(when)))
            else:
                starts[key] = float(when)
        spans += [(start, end) for start in starts.values()]
        busy = 0.0
        seconds_without = 0.0
        last_end = begin
        for start, finish in sorted(spans):
            if finish <= begin or start >= end:
                continue
            busy += min(finish, end) - max(start, begin)
            seconds_without = max(seconds_without, start - last_end)
            last_end = max(last_end, finish)
        seconds_without = max(seconds_without, end - last_end)
        return Use(busy / (end - begin), seconds_without)


@contextmanager
def two_sweeps(cluster: Cluster, priorities: tuple[int, int]) -> Iterator[list[Sweep]]:
    """Context manager: start two sweeps, wait until they have settled, and end them."""
    with (
        tempfile.TemporaryDirectory(prefix="orca-ray-bench-") as name,
        ExitStack() as stack,
    ):
        sweeps = []
        for number, priority in enumerate(priorities):
            sweeps.append(Sweep(Path(name) / str(number), cluster, priority))
            stack.callback(sweeps[-1].kill)
            sweeps[-1].wait_for_trial()
            time.sleep(SETTLING_SECONDS if number else HEAD_START_SECONDS)
        yield sweeps
        for sweep in sweeps:
            sweep.end()


def measure(sweeps: list[Sweep], what: str, seconds: float, gpus: int) -> None:
    """Wait for some seconds, and print a row about what both sweeps used in them."""
    begin = time.time()
    time.sleep(seconds)
    end = time.time()
    uses = [sweep.use(begin, end) for sweep in sweeps]
    total = sum(use.gpus for use in uses)
    cells = [f"{use.gpus:.2f} ({use.gpus / total:.1%})" for use in uses]
    cells += [f"{total / gpus:.1%}"]
    cells += [f"{use.seconds_without:.1f} s" for use in uses]
    print(f"| {what} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Print the table, or run one driver."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    runs = ["equal", "priority", "limit"]
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--runs", nargs="*", choices=runs, default=runs)
    parser.add_argument("--drive", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        folder, address, priority = options.drive
        drive(Path(folder), address, int(priority))
        return
    half = options.gpus // 2
    seconds = 60 * options.minutes
    print(f"{psutil.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
    print(f"{options.gpus} declared GPUs on 2 nodes, {options.minutes:g} minutes")
    with (
        tempfile.TemporaryDirectory(prefix="orca-ray-bench-") as name,
        start_local_cluster(
            Path(name), nodes=2, cpus=half, ORCA_NODE_GPUS=str(half)
        ) as cluster,
    ):
        print("| run | first | second | busy | first has none | second has none |")
        print("|---|--:|--:|--:|--:|--:|", flush=True)
        if "equal" in options.runs:
            with two_sweeps(cluster, (0, 0)) as sweeps:
                measure(sweeps, "equal priorities", seconds, options.gpus)
        if "priority" in options.runs:
            with two_sweeps(cluster, (0, 1)) as sweeps:
                measure(sweeps, "priority 0 and 1", seconds, options.gpus)
        if "limit" in options.runs:
            with two_sweeps(cluster, (0, 0)) as sweeps:
                measure(sweeps, "before the limit", seconds / 2, options.gpus)
                sweeps[0].command("limit", "--max-gpus", str(options.gpus // 4))
                time.sleep(LIMIT_SECONDS)
                measure(sweeps, "after the limit", seconds / 2, options.gpus)
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
