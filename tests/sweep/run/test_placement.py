"""Placement on clusters that change, and GPU shares by measured memory."""

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace

import pytest

from orca_ray.errors import UserError
from orca_ray.process import NodeResources
from orca_ray.results.record import Status
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.executors.inline import InlineExecutor
from orca_ray.sweep.executors.ray import _gpu_request
from orca_ray.sweep.messages.causes import Cause
from orca_ray.sweep.messages.report import TrialReport, Worker
from orca_ray.sweep.plan.searches import SearchPlan, placement_problem, plan_searches
from orca_ray.sweep.plan.spec import Overrides
from orca_ray.sweep.plan.trial_spec import Resources, TrialSpec
from orca_ray.sweep.run.driver import wait_for_room
from orca_ray.sweep.run.events import Event, Message
from orca_ray.sweep.run.placement import GpuRequest, Placement
from orca_ray.sweep.run.retries import FailuresOfTrial
from orca_ray.sweep.search import History, MakeSources, Search, make_searches
from tests.sweep.fakes import (
    TEXT,
    fake_outcome,
    fake_searches,
    fake_spec,
    new_controller,
    take,
)

CPU_NODE = NodeResources("cpu", 8, 0, 16.0, "c" * 56)
GPU_NODE = NodeResources("gpu", 8, 2, 64.0, "d" * 56)
METHODS = [
    (task, method)
    for task in ("pocket/digits", "pocket/wdbc")
    for method in ("nft", "orca")
]


class Cluster:
    """Nodes that a test changes, and a clock."""

    def __init__(self, *nodes: NodeResources) -> None:
        self.nodes = list(nodes)
        self.now = 0.0

    def placement(
        self, request: GpuRequest, quarantined: dict[str, str] | None = None
    ) -> Placement:
        requests = dict.fromkeys(METHODS, request)
        return Placement(
            lambda: self.nodes,
            requests,
            quarantined=quarantined or {},
            clock=lambda: self.now,
        )


@pytest.fixture
def trial() -> TrialSpec:
    return fake_searches()[0].trial({}, 1, "confirm")


def measured(
    trial: TrialSpec, peak_mib: float, status: Status | None = None
) -> TrialReport:
    """Return a report of a trial with this peak on a card of 16 GiB."""
    outcome = replace(fake_outcome(trial, 1), peak_memory_mib=peak_mib)
    return TrialReport(
        outcome=outcome,
        worker=Worker(device="card", device_memory_mib=16384.0),
        status=status,
    )


def gpus_of(placement: Placement, trial: TrialSpec) -> float:
    """Return the GPUs of the first attempt at a trial."""
    return placement.resources(trial, FailuresOfTrial()).gpus


def test_slots_of_a_node() -> None:
    wanted = [(1, 0.25), (2, 1), (1, 0.1), (1, 0, 20.0)]
    assert [Resources(*amounts).slots_on(GPU_NODE) for amounts in wanted] == [
        8,
        2,
        8,
        3,
    ]
    assert Resources(1, 0.3).slots_on(NodeResources("n", 100, 2, 64.0)) == 6, (
        "a share lies on one card"
    )
    assert Resources(1, 0.5).slots_on(CPU_NODE) == 0
    assert [
        Resources(1, 2.0).slots_on(NodeResources("n", 8, gpus, 8.0))
        for gpus in (1, 2, 3, 8)
    ] == [0, 1, 1, 4]


def test_gpus_that_join_later_are_used(trial: TrialSpec) -> None:
    cluster = Cluster(CPU_NODE)
    placement = cluster.placement(GpuRequest(0.5))
    found = list[float]()
    for cluster.nodes in ([CPU_NODE], [CPU_NODE, GPU_NODE], [CPU_NODE]):
        found.append(gpus_of(placement, trial))
        cluster.now += 6
    assert found == [
        0.0,
        0.5,
        0.5,
    ], "after the first GPU, it waits for the next one, not for days on a CPU"
    assert (
        gpus_of(Cluster(CPU_NODE).placement(GpuRequest(0.5, required=True)), trial)
        == 0.5
    )


def test_as_many_trials_are_handed_out_as_fit() -> None:
    placement = Cluster(CPU_NODE, GPU_NODE).placement(GpuRequest(1.0))
    small = Resources(1)
    large = Resources(1, 1.0)
    assert placement.admits(small, Counter({small: 18}))
    assert not placement.admits(small, Counter({small: 19}))
    assert not placement.admits(large, Counter({large: 3}))
    assert placement.admits(small, Counter({large: 3})), (
        "whole-GPU trials do not block smaller ones"
    )
    assert not placement.admits(small, Counter({large: 3}), {large}), (
        "but they do not wait for ever"
    )
    assert placement.admits(small, Counter(), {Resources(1, 9.0)}), (
        "what fits nowhere blocks nothing"
    )


def test_trials_start_together_and_pass_one_that_waits(store: ResultsStore) -> None:
    controller = new_controller(store, text=f"{TEXT}parallel: 1\n")
    requests = {
        pair: GpuRequest(1.0 if pair[0] == "pocket/wdbc" else 0.0) for pair in METHODS
    }
    controller.placement = Placement(
        lambda: [NodeResources("n", 4, 1, 8.0, "n")], requests
    )
    out = [trial for _ in range(20) if (trial := controller.next_trial()) is not None]
    shapes = Counter(trial.resources.gpus for trial in out)
    assert shapes[1.0] == 2, "one runs, one waits"
    assert shapes[0.0] == 2, "the searches of the other task go on"
    assert controller.demand()[Resources(1, 1.0)] > 0


def test_gpus_of_the_command_line_are_required_and_those_of_a_file_measured() -> None:
    search, *_ = fake_searches()
    found = [_gpu_request(search, given) for given in (0.5, "auto", None)]
    assert (found[0], [each.measured for each in found]) == (
        GpuRequest(0.5, required=True),
        [False, True, True],
    )


def test_a_deterministic_search_runs_one_trial_after_the_other() -> None:
    search, *_ = fake_searches(
        fake_spec(overrides=Overrides(deterministic=True, seeds=1))
    )
    assert search.most_at_once == 1
    assert fake_searches()[0].most_at_once == math.inf


def test_a_search_without_room_suggests_nothing(store: ResultsStore) -> None:
    controller = new_controller(store)
    requests = dict.fromkeys(METHODS, GpuRequest(0.0))
    controller.placement = Placement(
        lambda: [NodeResources("n", 2, 0, 8.0, "n")], requests
    )
    out = [trial for _ in range(20) if (trial := controller.next_trial()) is not None]
    controller.close()
    assert len(out) == len(store.journal(controller.sweep)) == 3, "two run, one follows"
    assert len({(trial.task, trial.method) for trial in out}) == 3, (
        "the duration of each search is measured first"
    )


class OpenEndedSearch(Search):
    """A search that must not decide before there is room."""

    is_open_ended = True


def make_open_ended(
    plans: Sequence[SearchPlan], history: History, *, running: Collection[str] = ()
) -> list[OpenEndedSearch]:
    return [OpenEndedSearch(plan, history, running=running) for plan in plans]


@pytest.mark.parametrize(
    ("make_sources", "num_started"), [(make_open_ended, 2), (make_searches, 3)]
)
def test_an_open_ended_search_decides_when_there_is_room_and_not_before(
    store: ResultsStore, make_sources: MakeSources, num_started: int
) -> None:
    controller = new_controller(store, make_sources=make_sources)
    requests = dict.fromkeys(METHODS, GpuRequest(0.0))
    node = NodeResources("n", 2, 0, 8.0, "n")
    controller.placement = Placement(lambda: [node], requests)
    trials = [controller.next_trial() for _ in range(20)]
    assert len([trial for trial in trials if trial is not None]) == num_started


def test_the_share_follows_the_measured_peak(trial: TrialSpec) -> None:
    placement = Cluster(GPU_NODE).placement(GpuRequest(1.0, measured=True))
    on_gpu = replace(trial, resources=Resources(1, 1.0))
    assert gpus_of(placement, trial) == 1.0, "nothing is known"
    placement.learn(on_gpu, measured(trial, 1000.0))
    assert gpus_of(placement, trial) == 0.125
    placement.learn(on_gpu, measured(trial, 2500.0))
    assert gpus_of(placement, trial) == 0.25, (
        "1.2 times 2500 MiB and a context are more than 2 GiB"
    )
    other = replace(
        trial, hyperparameters={**trial.hyperparameters, "refine.batch_size": 4096}
    )
    assert gpus_of(placement, other) == 1.0, "another batch size is another workload"
    fixed = Cluster(GPU_NODE).placement(GpuRequest(0.5))
    fixed.learn(on_gpu, measured(trial, 1000.0))
    assert gpus_of(fixed, trial) == 0.5
    assert gpus_of(placement, replace(trial, deterministic=True)) == 1.0


def test_a_share_that_was_too_small_is_raised(trial: TrialSpec) -> None:
    placement = Cluster(GPU_NODE).placement(GpuRequest(0.25))
    for share, next_share in ((0.25, 0.5), (1.0, 1.0)):
        on_gpu = replace(trial, resources=Resources(1, share))
        placement.learn(on_gpu, measured(trial, 4096.0, Status.FAILED_OOM))
        assert gpus_of(placement, trial) == next_share


def test_known_peaks_come_from_the_store(store: ResultsStore) -> None:
    controller = new_controller(store)
    controller.placement = Cluster(GPU_NODE).placement(GpuRequest(1.0))
    ran = take(controller)
    record = controller.ended(ran.key, measured(ran, 1500.0, Status.COMPLETED))
    assert record is not None
    assert record.gpus == 1.0
    restarted = Cluster(GPU_NODE).placement(GpuRequest(1.0, measured=True))
    controller.close()
    restarted.learn_record(store.load("fake/full")[ran.key])
    restarted.learn(ran, TrialReport(worker=Worker(device_memory_mib=16384.0)))
    assert gpus_of(restarted, ran) == 0.25


def test_memory_that_ran_out_twice_is_reserved(trial: TrialSpec) -> None:
    placement = Cluster(CPU_NODE).placement(GpuRequest(0.0))
    once, twice = (
        FailuresOfTrial(Counter({Cause.MEMORY: number})) for number in (1, 2)
    )
    assert placement.resources(trial, once).memory_gib == 0.0
    assert placement.resources(trial, twice).memory_gib == 8.0
    assert (
        Cluster().placement(GpuRequest(0.0)).resources(trial, twice).memory_gib == 0.0
    ), "no node is known"
    reserved = replace(trial, resources=Resources(1, 0, 12.0))
    assert placement.resources(reserved, twice).memory_gib == 16.0, (
        "no more than the largest node has"
    )


def test_quarantined_nodes_get_no_trials_unless_no_other_is_left(
    trial: TrialSpec,
) -> None:
    cluster = Cluster(CPU_NODE, GPU_NODE)
    wanted = Resources(1)
    quarantined = {CPU_NODE.id: "broken"}
    placement = cluster.placement(GpuRequest(0.0), quarantined)
    assert placement.avoided(wanted, FailuresOfTrial()) == [CPU_NODE.id]
    assert not placement.admits(wanted, Counter({wanted: 10}))
    assert placement.avoided(
        wanted, FailuresOfTrial(avoid=frozenset({GPU_NODE.id}))
    ) == [CPU_NODE.id]
    cluster.nodes = [CPU_NODE]
    cluster.now = 10.0
    assert placement.avoided(wanted, FailuresOfTrial()) == []
    assert placement.admits(wanted, Counter())
    assert placement.node_name(CPU_NODE.id) == "cpu (cccccccc)"


def test_a_lost_trial_prefers_another_node() -> None:
    placement = Cluster(CPU_NODE, GPU_NODE).placement(GpuRequest(0.0))
    assert placement.avoided(
        Resources(1), FailuresOfTrial(avoid=frozenset({CPU_NODE.id}))
    ) == [CPU_NODE.id]
    assert (
        placement.avoided(
            Resources(1, 1.0), FailuresOfTrial(avoid=frozenset({GPU_NODE.id}))
        )
        == []
    ), "no other fits"


class Growing(InlineExecutor):
    """A cluster that a node joins at the third look."""

    grows = True

    def __init__(self, first: NodeResources) -> None:
        self.first = first
        self.looks = 0
        self.demand = Counter[Resources]()

    def nodes(self) -> list[NodeResources]:
        self.looks += 1
        return [self.first, *([GPU_NODE] if self.looks >= 3 else [])]

    def announce(self, demand: object) -> None:
        assert isinstance(demand, Counter)
        self.demand = demand


HEAD = NodeResources("head", 0, 0, 4.0)
SHARED = TEXT + "resources: {cpus: 2, gpus: 0.5}\n"


def test_a_cluster_that_starts_is_waited_for() -> None:
    engine = Growing(HEAD)
    events = list[Event]()
    slept = list[float]()
    assert wait_for_room(
        engine,
        fake_spec(SHARED),
        engine.nodes(),
        300.0,
        events.append,
        sleep=slept.append,
    )
    assert len(slept) == 2
    (message,) = events
    assert isinstance(message, Message)
    assert "waiting up to 300 s" in message.text
    assert engine.demand == {Resources(2.0, 0.5): 4}
    engine = Growing(HEAD)
    with pytest.raises(UserError, match="more than any node has"):
        wait_for_room(
            engine, fake_spec(), engine.nodes(), 1.0, events.append, sleep=slept.append
        )
    assert engine.looks == 2


@pytest.mark.parametrize("needs_gpus", [False, True])
def test_a_sweep_that_needs_gpus_waits_for_them(needs_gpus: bool) -> None:
    engine = Growing(NodeResources("cpus", 8, 0, 32.0))
    slept = list[float]()
    found = wait_for_room(
        engine,
        fake_spec(SHARED),
        engine.nodes(),
        300.0,
        lambda event: None,
        needs_gpus=needs_gpus,
        sleep=slept.append,
    )
    assert found == needs_gpus
    assert engine.demand == ({Resources(2.0, 0.5): 4} if needs_gpus else {})


def test_several_gpus_are_whole() -> None:
    with pytest.raises(
        UserError,
        match=r"whole GPUs or on a part of one: give e\.g\. 2, 1 or 0\.5; got 1\.5",
    ):
        fake_spec(TEXT + "resources: {gpus: 1.5}\n")
    spec = fake_spec(TEXT + "resources: {gpus: 2}\n")
    searches = plan_searches(spec, dict.fromkeys(spec.tasks, ""), gpus=True)
    assert {(plan.resources.gpus, plan.resources.ranks) for plan in searches} == {
        (2.0, 2)
    }
    on_cpus = replace(searches[0], resources=Resources())
    assert searches[0].trial({}, 1, "search").key == on_cpus.trial({}, 1, "search").key
    small = NodeResources("n", 8, 1, 8.0)
    large = NodeResources("m", 8, 2, 8.0)
    problem = placement_problem(searches[0].resources, [small])
    assert problem is not None
    assert "1 CPUs, 2 GPUs, 0 GiB, more than any node has (n: 8 CPUs, 1 GPUs" in problem
    assert placement_problem(searches[0].resources, [small, large]) is None
