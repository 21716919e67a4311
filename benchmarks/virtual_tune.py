"""Stands in for Tune and a Ray cluster in virtual time; searcher, scheduler and
callback of Tune are the real ones.

A step does what a step of Tune's controller does (Ray 2.60): it calls the callback,
asks the searcher for trials until there is none, asks the scheduler which trial gets a
free actor, requests actors for the other waiting trials, and handles one event. Actors
run one trial after another; each has one GPU. Workers start slowly, fail and hang,
nodes are lost and replaced, as `Faults` says. What an attempt has done is kept, as with
checkpoints.
"""

import heapq
import itertools
import math
import random
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest import mock

from ray.exceptions import RayActorError
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from benchmarks.virtual_time import VirtualTime
from orca_ray.process import NodeResources
from orca_ray.results.record import Status
from orca_ray.sweep.executors import ray_private, tune_adapter
from orca_ray.sweep.executors.liveness import Deadlines
from orca_ray.sweep.executors.tune_adapter import (
    TuneCallback,
    TuneScheduler,
    TuneSearcher,
)
from orca_ray.sweep.messages.report import TrialReport
from orca_ray.sweep.messages.settings import TimeLimits
from orca_ray.sweep.plan.trial_spec import TrialSpec
from orca_ray.sweep.run.controller import SweepController
from orca_ray.sweep.run.placement import GpuRequest, Placement
from tests.sweep.fakes import fake_reports

GPUS_PER_NODE = 8
IDLE_SECONDS = 1.0
"""Longest virtual time between two steps.

Tune makes ten a second when nothing happens.
"""


@dataclass(frozen=True)
class Faults:
    """Distributions of faults: each is a rate per attempt, or a time in seconds."""

    rates: tuple[tuple[str, float], ...] = (
        ("failed_oom", 0.01),
        ("failed_code", 0.003),
        ("process", 0.003),
        ("preempted", 0.005),
        ("hang", 0.001),
    )
    """Share of attempts that end with memory that ran out, an exception, a dead
    process, a preemption, or a hang.
    """
    node_seconds: float = 100 * 3600.0
    """Mean time between two losses of one node, exponential."""
    silent: float = 0.5
    """Share of lost nodes whose network is gone, so that no connection is closed."""
    replaced_after: float = 300.0
    """Seconds until another node joins."""
    noticed_after: tuple[float, float] = (52.0, 65.0)
    """Seconds after which Ray reports a silent node: 5 checks with a limit of 10 s, 3 s
    apart.
    """
    closed_after: tuple[float, float] = (0.1, 2.0)
    """Seconds after which Ray reports processes that ended."""
    start_seconds: tuple[float, float] = (25.0, 0.3)
    """Median and sigma of the time that a worker takes to start, log-normal."""
    reset_seconds: float = 0.2
    """Seconds between two trials of one actor."""


NOT_FINITE = 0.01
"""Share of trials that diverge, in every run."""


def diverges(key: str) -> bool:
    """Return whether the trial ``key`` diverges."""
    return random.Random(f"diverges {key}").random() < NOT_FINITE


@dataclass(eq=False)
class Node:
    """A node with GPUs, and the actors on it."""

    id: str
    gpus: int
    actors: set["Actor"] = field(default_factory=set)
    lost: bool = False


@dataclass(eq=False)
class Actor:
    """A worker on one GPU."""

    node: Node
    avoid: tuple[str, ...]
    trial: "TuneTrial | None" = None
    started: bool = False
    stopped_at: float | None = None
    """When its process ended, hung, or lost the network; the driver does not know yet.
    """
    busy_since: float = 0.0


@dataclass(eq=False)
class TuneTrial:
    """What Tune keeps of a trial."""

    trial_id: str
    config: dict[str, Any]
    spec: TrialSpec
    status: str = Trial.PENDING
    actor: Actor | None = None
    error: Exception | None = None
    error_file: str = ""
    temporary_state: Any = field(
        default_factory=lambda: SimpleNamespace(ray_actor=None)
    )
    run_metadata: Any = field(
        default_factory=lambda: SimpleNamespace(metric_analysis={}, metric_n_steps={})
    )
    evaluated_params: dict[str, Any] = field(default_factory=dict)

    def get_pickled_error(self) -> Exception | None:
        """Return what ended the trial."""
        return self.error


class VirtualTune:
    """Runs the trials of a controller on ``workers`` GPUs."""

    def __init__(
        self,
        clock: VirtualTime,
        workers: int,
        seconds: Callable[[TrialSpec], float],
        faults: Faults,
        seed: int = 0,
    ) -> None:
        """Store the arguments; ``seconds`` returns the virtual duration of a trial."""
        self._clock = clock
        self._seconds = seconds
        self._faults = faults
        self._random = random.Random(f"cluster {seed}")
        self._seed = seed
        self._events: list[tuple[float, int, bool, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self.nodes: dict[str, Node] = {}
        self._free = 0
        for first in range(0, workers, GPUS_PER_NODE):
            self._join(min(GPUS_PER_NODE, workers - first))
        self.live: dict[str, TuneTrial] = {}
        self._unstaged: deque[TuneTrial] = deque()
        self._cached: list[Actor] = []
        self._epochs: dict[str, int] = defaultdict(int)
        self._attempts: dict[str, int] = defaultdict(int)
        self._finished = False
        self.busy = 0.0
        """GPU seconds in which trials ran."""
        self.steps = 0
        self.most_at_once = 0
        self.noticed: dict[str, list[float]] = defaultdict(list)
        """Seconds between a fault and the time at which the controller knows of it, by
        kind of fault.
        """

    def run(
        self, controller: SweepController, limits: TimeLimits | None = None
    ) -> None:
        """Run Tune until the controller has no more trials."""
        requests = {
            (plan.task, plan.method): GpuRequest(1.0)
            for plan in controller.searches.plans
        }
        controller.failures.now = self._clock
        quarantined = controller.failures.quarantined
        controller.placement = Placement(
            self._alive, requests, quarantined=quarantined, clock=self._clock
        )
        with self._adapted():
            self.searcher = TuneSearcher(
                controller, Deadlines(limits or TimeLimits(), clock=self._clock)
            )
            self._scheduler = TuneScheduler(self.searcher)
            self._callback = TuneCallback(self.searcher, lambda demand: None)
            while (
                not (self._finished and not self.live) and not self._callback.stop_all()
            ):
                self._step()
            if self.searcher.error is not None:
                raise self.searcher.error
            controller.close()

    def get_live_trials(self) -> list[TuneTrial]:
        """Return the trials that have not ended, as Tune's controller does."""
        return list(self.live.values())

    @contextmanager
    def _adapted(self) -> Iterator[None]:
        """Context manager: the adapter reaches this cluster where it would call Ray."""
        ray = SimpleNamespace(
            kill=lambda actor: self._after(
                1.0, lambda: self._fail(actor, "hang"), driver=True
            )
        )
        with ExitStack() as stack:
            stack.enter_context(mock.patch.object(tune_adapter, "ray", ray))
            stack.enter_context(
                mock.patch.object(ray_private, "key_value_store", self._heartbeat)
            )
            yield

    def _heartbeat(self, operation: str, name: str) -> bytes | None:
        """Return what the worker of a trial has written last: every 30 s, node and
        progress count.
        """
        actor = (
            self.live[name].actor if operation == "get" and name in self.live else None
        )
        if actor is None:
            return None
        last = self._clock.now if actor.stopped_at is None else actor.stopped_at
        return f"{actor.node.id} {int(last / 30)}".encode()

    def _step(self) -> None:
        self.steps += 1
        self._callback.on_step_begin(self.steps, list(self.live.values()))
        while not self._finished:
            name = f"{next(self._numbers):08x}"
            config = self.searcher.suggest(name)
            self._finished = config == Searcher.FINISHED
            if self._finished or config is None:
                break
            trial = self.live[name] = TuneTrial(
                name, config, TrialSpec.from_json(config["trial"])
            )
            self._unstaged.append(trial)
        self._give_actors()
        self._next_event()

    def _give_actors(self) -> None:
        """Give a free actor to the trial that the scheduler chooses; request actors for
        trials that have none.
        """
        chosen = self._scheduler.choose_trial_to_run(self)
        for actor in self._cached:
            if chosen is not None and actor.avoid == tuple(chosen.config["avoid"]):
                if chosen.actor is not None:
                    self._end(chosen.actor)
                self._attach(actor, chosen)
                chosen.temporary_state.ray_actor = actor
                self._after(
                    self._faults.reset_seconds,
                    partial(self._start, actor, chosen),
                    driver=True,
                )
            else:
                self._end(actor)
            chosen = None
        self._cached.clear()
        self._unstaged = deque(
            each
            for each in self._unstaged
            if each.actor is None and each.trial_id in self.live
        )
        for trial in list(self._unstaged) if self._free else ():
            avoid = tuple(trial.config["avoid"])
            room = (
                each
                for each in self.nodes.values()
                if each.gpus > len(each.actors) and each.id not in avoid
            )
            if (node := next((each for each in room if not each.lost), None)) is None:
                continue
            actor = Actor(node, avoid)
            node.actors.add(actor)
            self._free -= 1
            self._attach(actor, trial)
            median, sigma = self._faults.start_seconds
            delay = median * math.exp(sigma * self._random.gauss(0, 1))
            self._after(delay, partial(self._start, actor, trial), driver=True)
            if not self._free:
                break

    def _attach(self, actor: Actor, trial: TuneTrial) -> None:
        actor.trial = trial
        trial.actor = actor

    def _start(self, actor: Actor, trial: TuneTrial) -> None:
        """Begin an attempt: its epochs follow, up to the fault that it meets."""
        if (
            actor.stopped_at is not None
            or actor.trial is not trial
            or trial.trial_id not in self.live
        ):
            return
        trial.status = Trial.RUNNING
        trial.temporary_state.ray_actor = actor
        self._callback.on_trial_start(self.steps, [], trial)
        self.most_at_once = max(
            self.most_at_once, sum(len(node.actors) for node in self.nodes.values())
        )
        spec = trial.spec
        key = trial.spec.key
        actor.busy_since = self._clock.now
        self._attempts[key] += 1
        chance = random.Random(f"{self._seed} {key} {self._attempts[key]}")
        fate = self._fate(key, chance)
        epoch_seconds = self._seconds(spec) / spec.epochs
        left = spec.epochs - self._epochs[key]
        breaks_at = chance.uniform(0, left) * epoch_seconds if fate else math.inf
        if (
            fate == "failed_nan"
        ):  # always at the same time, so that every run has the same curve
            breaks_at = 0.0
        for number, report in enumerate(
            list(fake_reports(spec))[self._epochs[key] :], start=1
        ):
            if (at := number * epoch_seconds) > breaks_at:
                break
            self._after(at, partial(self._report, actor, trial, report), driver=True)
        if fate.startswith("failed_"):
            report = TrialReport(status=Status(fate), error="simulated")
            self._after(
                breaks_at, lambda: self._report(actor, trial, report), driver=True
            )
        elif fate:
            self._after(breaks_at, lambda: self._stop(actor, trial, fate))

    def _fate(self, key: str, chance: random.Random) -> str:
        if diverges(key):
            return "failed_nan"
        draw = chance.random()
        for name, rate in self._faults.rates:
            if (draw := draw - rate) < 0:
                return name
        return ""

    def _stop(self, actor: Actor, trial: TuneTrial, fate: str) -> None:
        """End or hang the process of an actor; the driver learns it later."""
        if actor.trial is not trial or actor.stopped_at is not None:
            return
        actor.stopped_at = self._clock.now
        if fate != "hang":  # which only the time limit ends
            self._after(
                self._random.uniform(*self._faults.closed_after),
                lambda: self._fail(actor, fate),
                driver=True,
            )

    def _report(self, actor: Actor, trial: TuneTrial, report: TrialReport) -> None:
        if (
            actor.stopped_at is not None
            or actor.trial is not trial
            or trial.trial_id not in self.live
        ):
            return
        self._epochs[trial.spec.key] += len(report.progress)
        result = {
            "report": report.to_json(),
            "done": report.done,
            "node": actor.node.id,
        }
        if report.done:
            self.searcher.on_trial_complete(trial.trial_id, result)
        elif (
            self._scheduler.on_trial_result(self, trial, result) != TrialScheduler.STOP
        ):
            return
        self._callback.on_trial_complete(self.steps, [], trial)
        self._leave(trial, Trial.TERMINATED)
        self._cached.append(actor)

    def _fail(self, actor: Actor, fate: str) -> None:
        """Report an actor that is gone."""
        trial = actor.trial
        if actor not in actor.node.actors:
            return
        if actor.stopped_at is not None:
            self.noticed[fate].append(self._clock.now - actor.stopped_at)
        self._end(actor)
        if trial is None or trial.trial_id not in self.live:
            return
        trial.error = RayActorError(preempted=fate == "preempted")
        trial.actor = actor  # of which the heartbeat speaks
        self._scheduler.on_trial_error(self, trial)
        self.searcher.on_trial_complete(trial.trial_id, error=True)
        self._callback.on_trial_error(self.steps, [], trial)
        self._leave(trial, Trial.ERROR)

    def _leave(self, trial: TuneTrial, status: str) -> None:
        trial.status = status
        del self.live[trial.trial_id]
        if trial.actor is not None:
            self.busy += self._clock.now - trial.actor.busy_since
            trial.actor.trial = None

    def _end(self, actor: Actor) -> None:
        """Free the GPU of an actor."""
        actor.node.actors.discard(actor)
        actor.stopped_at = (
            self._clock.now if actor.stopped_at is None else actor.stopped_at
        )
        self._free += not actor.node.lost
        actor.trial = None

    def _alive(self) -> list[NodeResources]:
        """Return the nodes that Ray knows to be alive."""
        return [
            NodeResources(f"host-{node.id}", 2.0 * node.gpus, node.gpus, 64.0, node.id)
            for node in self.nodes.values()
        ]

    def _join(self, gpus: int) -> None:
        node = Node(f"node{next(self._numbers)}", gpus)
        self.nodes[node.id] = node
        self._free += gpus
        if self._faults.node_seconds < math.inf:
            self._after(
                self._random.expovariate(1 / self._faults.node_seconds),
                lambda: self._lose(node),
            )

    def _lose(self, node: Node) -> None:
        """Take a node away with its workers; another one joins later."""
        silent = self._random.random() < self._faults.silent
        node.lost = True
        self._free -= node.gpus - len(node.actors)
        for actor in node.actors:
            actor.stopped_at = self._clock.now
        kind = "silent node" if silent else "dead node"
        delay = self._random.uniform(
            *(self._faults.noticed_after if silent else self._faults.closed_after)
        )

        def noticed() -> None:
            self.nodes.pop(node.id)
            for actor in list(node.actors):
                self._after(0.0, partial(self._fail, actor, kind), driver=True)

        self._after(delay, noticed)
        self._after(self._faults.replaced_after, lambda: self._join(node.gpus))

    def _after(
        self, seconds: float, do: Callable[[], None], *, driver: bool = False
    ) -> None:
        """Do something later; with ``driver``, it is an event that one step of the
        driver handles.
        """
        heapq.heappush(
            self._events, (self._clock.now + seconds, next(self._numbers), driver, do)
        )

    def _next_event(self) -> None:
        """Go to the next event of the driver and handle it, or to the end of the
        longest pause.
        """
        until = self._clock.now + IDLE_SECONDS
        while self._events and self._events[0][0] <= until:
            at, _, driver, do = heapq.heappop(self._events)
            self._clock.advance(at)
            do()
            if driver:
                return
        self._clock.advance(until)
