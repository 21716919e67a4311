"""Which part of the GPUs a sweep keeps busy, by GPUs and CPUs of a node.

``python benchmarks/bench_gpus.py [--ray]``

Controller, searches, placement, recorder and store are the real ones. Nodes and trials
are simulated in virtual time: trials on GPUs take a log-normal time (median 10 minutes,
sigma 0.7), those of fitted methods 5 to 60 s. As on Ray, a trial that was handed out
starts as soon as a node has what it needs; the node is the one with the largest free
part of its CPUs, and a share of a GPU goes to the fullest GPU that has room for it.

A GPU is busy while it has a trial. The table has the busy part of all GPU-seconds, as
long as trials on GPUs wait for their start. Its exit code is 1 if a part is below 95 %.

With ``--ray``, three cells run on Ray in real time, on one node that declares 8 GPUs.
No GPU is needed: trials sleep for 3 s, or for 0.5 s those of fitted methods.
"""

# ruff: noqa: T201 - a benchmark prints its table

import argparse
import heapq
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.bench_cluster import seconds_of
from benchmarks.bench_scale import SimulatedActor
from benchmarks.simulated_sweep import SimulatedRunner
from benchmarks.virtual_cluster import VirtualCluster
from orca_ray.process import NodeResources
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.executors import ray as ray_executor
from orca_ray.sweep.executors import trainable
from orca_ray.sweep.messages.report import TrialReport
from orca_ray.sweep.messages.settings import WorkerSettings
from orca_ray.sweep.plan.loading import parse_spec
from orca_ray.sweep.plan.searches import SearchPlan, plan_searches
from orca_ray.sweep.plan.trial_spec import Resources, TrialSpec, stable_seed
from orca_ray.sweep.run.controller import SweepController
from orca_ray.sweep.run.events import Event, Message, TrialFinished, TrialStarted
from orca_ray.sweep.run.executor import ExecutorOptions
from orca_ray.sweep.run.placement import GpuRequest, Placement
from tests.sweep.fakes import fake_reports

SWEEP = """\
name: gpus
benchmark: openml
methods: [{methods}]
early_stopping: null
resources: {{cpus: {cpus}, gpus: {gpus}}}
settings: {{refine.epochs: 1, refine.warmup_epochs: 0}}
budgets: {{full: {{search_trials: 0, confirm_seeds: {seeds}}}}}
"""
GPUS = (1, 2, 4, 8)
CPUS = (8, 16, 32, 128)
LEAST_BUSY = 0.95


@dataclass(frozen=True)
class Kind:
    """A kind of sweep: its methods, and the resources in its file."""

    name: str
    methods: str = "nft"
    cpus: int = 1
    gpus: float = 0.25


MIXED = Kind("half of them fitted", "nft, forest")
KINDS = (
    Kind("a quarter of a GPU"),
    Kind("half a GPU, 2 CPUs", cpus=2, gpus=0.5),
    Kind("a whole GPU, 4 CPUs", cpus=4, gpus=1.0),
    MIXED,
)


def plans(kind: Kind, num_trials: int, num_tasks: int = 8) -> list[SearchPlan]:
    """Plan about ``num_trials`` trials of each method of a kind of sweep."""
    seeds = list(range(1, 1 + max(1, round(num_trials / num_tasks))))
    spec = parse_spec(
        SWEEP.format(methods=kind.methods, cpus=kind.cpus, gpus=kind.gpus, seeds=seeds)
    )
    fingerprints = dict.fromkeys(spec.tasks, "0" * 16)
    tasks = spec.tasks[:num_tasks]
    found = plan_searches(spec, fingerprints, gpus=True)
    return [plan for plan in found if plan.task in tasks]


def seconds_of_kind(trial: TrialSpec) -> float:
    """Return the virtual duration of a trial."""
    if trial.method == "nft":
        return seconds_of(trial)
    return 5.0 + 55.0 * stable_seed(trial.key) / 2**32


def report_of(trial: TrialSpec) -> TrialReport:
    """Return the only report of a trial; a fitted method has no learning rate."""
    values = {"refine.learning_rate": 1e-3}
    (report,) = fake_reports(replace(trial, hyperparameters=values))
    return report


@dataclass
class Node:
    """A node, and what is free of it."""

    resources: NodeResources
    cpus: float = field(init=False)
    gpus: list[float] = field(init=False)
    """Free part of each GPU."""

    def __post_init__(self) -> None:
        self.cpus = self.resources.cpus
        self.gpus = [1.0] * int(self.resources.gpus)

    @property
    def num_busy(self) -> int:
        """Number of GPUs with a trial."""
        return sum(free < 1.0 for free in self.gpus)

    def gpu_for(self, wanted: Resources) -> int | None:
        """Return the fullest GPU with room for a trial; None if there is none."""
        rooms = [
            (free, index)
            for index, free in enumerate(self.gpus)
            if free >= wanted.gpus - 1e-9
        ]
        return min(rooms)[1] if rooms else None

    def has_room(self, wanted: Resources) -> bool:
        """Return whether a trial may start here."""
        has_gpu = not wanted.gpus or self.gpu_for(wanted) is not None
        return has_gpu and self.cpus >= wanted.cpus


class VirtualNodes(VirtualCluster):
    """A cluster in virtual time whose nodes run trials as their resources allow."""

    def __init__(
        self, nodes: list[NodeResources], seconds: Callable[[TrialSpec], float]
    ) -> None:
        """Store the nodes and the function that returns the duration of a trial."""
        super().__init__(0, seconds)
        self._nodes = nodes
        self._free = [Node(node) for node in nodes]
        self._running: dict[str, tuple[TrialSpec, Node, int | None]] = {}
        self._ends: list[tuple[float, str]] = []
        self.gpu_seconds = 0.0
        """GPU-seconds of the nodes while trials waited for a GPU."""
        self.busy_seconds = 0.0
        """Those of ``gpu_seconds`` in which the GPU had a trial."""

    def run(self, controller: SweepController) -> None:
        """Run trials until the controller has none."""
        num_to_start = 0
        requests = {}
        for plan in controller.searches.plans:
            requests[plan.task, plan.method] = GpuRequest(plan.resources.gpus)
            num_to_start += plan.num_trials if plan.resources.gpus else 0
        controller.placement = Placement(
            lambda: self._nodes, requests, clock=lambda: self.now
        )
        controller.failures.now = lambda: self.now
        waiting: list[TrialSpec] = []
        with self._virtual_dates():
            while True:
                waiting += iter(controller.next_trial, None)
                started = [each for each in waiting if self._place(controller, each)]
                waiting = [each for each in waiting if each not in started]
                num_to_start -= sum(each.resources.gpus > 0 for each in started)
                if not self._ends:
                    break
                self._end_next(controller, count=num_to_start > 0)
            controller.close()

    def _place(self, controller: SweepController, trial: TrialSpec) -> bool:
        """Start a trial if a node has room for it; return whether one has."""
        wanted = trial.resources
        room = [node for node in self._free if node.has_room(wanted)]
        if not room:
            return False
        node = max(room, key=lambda node: 1 - wanted.cpus / node.cpus)
        node.cpus -= wanted.cpus
        index = node.gpu_for(wanted) if wanted.gpus else None
        if index is not None:
            node.gpus[index] -= wanted.gpus
        self._running[trial.key] = trial, node, index
        heapq.heappush(self._ends, self._start(controller, trial))
        return True

    def _end_next(self, controller: SweepController, *, count: bool) -> None:
        """Go to the next end of a trial; ``count``: trials wait for a GPU till then."""
        then, key = heapq.heappop(self._ends)
        if count:
            passed = then - self.now
            self.gpu_seconds += passed * sum(len(node.gpus) for node in self._free)
            self.busy_seconds += passed * sum(node.num_busy for node in self._free)
        self.now = then
        trial, node, index = self._running.pop(key)
        node.cpus += trial.resources.cpus
        if index is not None:
            node.gpus[index] += trial.resources.gpus
        report = report_of(trial)
        controller.report(key, report.progress)
        controller.ended(key, report)


def busy_part(kind: Kind, nodes: list[NodeResources], trials_a_gpu: int = 40) -> float:
    """Return the busy part of the GPU-seconds while trials wait for a GPU."""
    num_gpus = int(sum(node.gpus for node in nodes))
    cluster = VirtualNodes(nodes, seconds_of_kind)
    with tempfile.TemporaryDirectory(prefix="orca-ray-bench-") as name:
        store = ResultsStore(Path(name) / "results", create=True)
        searches = plans(kind, trials_a_gpu * num_gpus)
        controller = SweepController(searches, store, executor="simulated")
        cluster.run(controller)
        if not controller.done:
            raise SystemExit("trials are left")
    return cluster.busy_seconds / cluster.gpu_seconds


def node_of(cpus: float, gpus: float, name: str = "node") -> NodeResources:
    """Return a node with enough memory."""
    return NodeResources(name, cpus, gpus, 1024.0, name)


class SleepingRunner(SimulatedRunner):
    """Runner whose trials only sleep."""

    def step(self) -> TrialReport:
        """Report that there is nothing to stage; then sleep, and report the epoch."""
        if not self._staged:
            self._staged = True
            return TrialReport()
        time.sleep(3.0 if self.trial.method == "nft" else 0.5)
        return report_of(self.trial)


class SleepingActor(SimulatedActor):
    """Worker whose trials only sleep."""

    runner: ClassVar[type[SimulatedRunner]] = SleepingRunner


class BusyGpus:
    """Listener that measures in real time how many GPUs have a trial.

    Time counts from when all workers have started until no trial waits for a GPU.
    """

    def __init__(self, num_to_start: int, num_gpus: int) -> None:
        self.messages: list[str] = []
        self.controller: SweepController
        self._num_to_start = num_to_start
        self._num_gpus = num_gpus
        self._num_finished = 0
        self._shares: dict[str, float] = {}
        self._changed_at = 0.0
        self.seconds = 0.0
        self.busy_seconds = 0.0

    def __call__(self, event: Event) -> None:
        now = time.monotonic()
        if isinstance(event, Message):
            self.messages.append(event.text)
        if not isinstance(event, TrialStarted | TrialFinished):
            return
        if self._num_to_start > 0 and self._num_finished >= 2 * self._num_gpus:
            passed = now - self._changed_at
            num_busy = min(round(sum(self._shares.values()) + 0.49), self._num_gpus)
            self.seconds += passed * self._num_gpus
            self.busy_seconds += passed * num_busy
        self._changed_at = now
        if isinstance(event, TrialStarted):
            wanted = self.controller.trials[event.trial_key].trial.resources
            if wanted.gpus:
                self._num_to_start -= 1
                self._shares[event.trial_key] = wanted.gpus
        elif self._shares.pop(event.record.trial_key, None):
            self._num_finished += 1


def busy_part_on_ray(kind: Kind, cpus: int, gpus: int = 8) -> tuple[float, list[str]]:
    """Return the busy part of GPU-seconds on Ray, and the sweep's messages."""
    import ray

    def make(name: str, settings: WorkerSettings) -> Any:
        return type(name, (SleepingActor,), {"settings": settings})

    searches = plans(kind, 12 * gpus)
    on_gpus = [plan for plan in searches if plan.resources.gpus]
    meter = BusyGpus(sum(plan.num_trials for plan in on_gpus), gpus)
    init = ray.init

    def init_with_gpus(**options: Any) -> Any:
        return init(**{**options, "num_cpus": cpus, "num_gpus": gpus})

    with (
        tempfile.TemporaryDirectory(prefix="orca-ray-bench-") as name,
        mock.patch.object(ray, "init", init_with_gpus),
        mock.patch("multiprocessing.cpu_count", return_value=cpus),
        mock.patch.object(trainable, "make_trainable", make),
        ray_executor.RayExecutor() as executor,
    ):
        store = ResultsStore(Path(name) / "results", create=True)
        executor.open("local")
        meter.controller = SweepController(
            searches, store, executor="ray", listener=meter
        )
        executor.run(meter.controller, WorkerSettings(""), ExecutorOptions())
    return meter.busy_seconds / meter.seconds, meter.messages[:1]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ray", action="store_true", help="On Ray, in real time.")
    if parser.parse_args().ray:
        for kind, cpus in ((KINDS[0], 8), (KINDS[1], 8), (MIXED, 8)):
            part, messages = busy_part_on_ray(kind, cpus)
            print(f"Ray, {kind.name}, {cpus} CPUs, 8 GPUs: {part:.1%}", *messages)
        return
    parts = []
    print("| trials | GPUs | " + " | ".join(f"{cpus} CPUs" for cpus in CPUS) + " |")
    print("|---|--:|" + "--:|" * len(CPUS))
    for kind in KINDS:
        for gpus in GPUS:
            row = [busy_part(kind, [node_of(cpus, gpus)]) for cpus in CPUS]
            cells = " | ".join(f"{part:.1%}" for part in row)
            print(f"| {kind.name} | {gpus} | {cells} |", flush=True)
            parts += row
    nodes = [node_of(8, 8, "a"), node_of(128, 8, "b"), node_of(32, 1, "c")]
    nodes.append(node_of(64, 0, "d"))
    for kind in KINDS:
        parts.append(busy_part(kind, nodes))
        print(f"{kind.name}, four unequal nodes: {parts[-1]:.1%}", flush=True)
    if min(parts) < LEAST_BUSY:
        raise SystemExit(f"GPUs idle: the smallest part is {min(parts):.1%}")


if __name__ == "__main__":
    main()
