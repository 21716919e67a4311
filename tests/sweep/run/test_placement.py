"""Placement on clusters that change, and GPU shares by measured memory."""

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Literal

import pytest

from benchmarks import bench_gpus
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
from orca_ray.sweep.run.controller import SweepController
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
SEARCHES = [
    ("pocket/digits", "nft"),
    ("pocket/digits", "orca"),
    ("pocket/wdbc", "nft"),
    ("pocket/wdbc", "orca"),
]
"""Task and method of each search of the fake sweep."""


class Cluster:
    """Nodes that a test changes, and a clock."""

    def __init__(self, *nodes: NodeResources) -> None:
        self.nodes = list(nodes)
        self.now = 0.0

    def make_placement(
        self, request: GpuRequest, quarantined: dict[str, str] | None = None
    ) -> Placement:
        requests = dict.fromkeys(SEARCHES, request)
        return Placement(
            lambda: self.nodes,
            requests,
            quarantined=quarantined or {},
            clock=lambda: self.now,
        )


@pytest.fixture
def trial() -> TrialSpec:
    return fake_searches()[0].trial({}, 1, "confirm")


def make_report(
    trial: TrialSpec, peak_mib: float, status: Status | None = None
) -> TrialReport:
    """Return a report of a trial with a peak of memory on a card of 16 GiB."""
    outcome = replace(fake_outcome(trial, 1), peak_memory_mib=peak_mib)
    return TrialReport(
        outcome=outcome,
        worker=Worker(device="card", device_memory_mib=16384.0),
        status=status,
    )


def plan_gpus(placement: Placement, trial: TrialSpec) -> float:
    """Return the GPUs of the first attempt at a trial."""
    return placement.resources(trial, FailuresOfTrial()).gpus


@pytest.mark.parametrize(
    ("wanted", "num_slots"),
    [
        (Resources(1, 0.25), 8),
        (Resources(2, 1), 2),
        (Resources(1, 0.1), 8),
        (Resources(1, 0, 20.0), 3),
    ],
)
def test_a_node_has_slots_by_its_scarcest_resource(
    wanted: Resources, num_slots: int
) -> None:
    assert wanted.slots_on(GPU_NODE) == num_slots


def test_a_share_of_a_gpu_lies_on_one_card() -> None:
    assert Resources(1, 0.3).slots_on(NodeResources("n", 100, 2, 64.0)) == 6
    assert Resources(1, 0.5).slots_on(CPU_NODE) == 0


@pytest.mark.parametrize(("num_gpus", "num_slots"), [(1, 0), (2, 1), (3, 1), (8, 4)])
def test_trials_of_two_gpus_have_whole_gpus(num_gpus: int, num_slots: int) -> None:
    node = NodeResources("n", 8, num_gpus, 8.0)
    assert Resources(1, 2.0).slots_on(node) == num_slots


def test_gpus_that_join_later_are_used(trial: TrialSpec) -> None:
    cluster = Cluster(CPU_NODE)
    placement = cluster.make_placement(GpuRequest(0.5))
    assert plan_gpus(placement, trial) == 0.0
    cluster.nodes = [CPU_NODE, GPU_NODE]
    cluster.now += 6
    assert plan_gpus(placement, trial) == 0.5
    cluster.nodes = [CPU_NODE]
    cluster.now += 6
    gpus = plan_gpus(placement, trial)
    assert gpus == 0.5, "it waits for the next GPU, not for days on a CPU"


def test_required_gpus_are_waited_for(trial: TrialSpec) -> None:
    placement = Cluster(CPU_NODE).make_placement(GpuRequest(0.5, required=True))
    assert plan_gpus(placement, trial) == 0.5


def test_as_many_trials_are_handed_out_as_fit() -> None:
    placement = Cluster(CPU_NODE, GPU_NODE).make_placement(GpuRequest(1.0))
    small = Resources(1)
    large = Resources(1, 1.0)
    assert placement.admits(small, Counter({small: 18}))
    assert not placement.admits(small, Counter({small: 19}))
    assert not placement.admits(large, Counter({large: 3}))


def test_trials_of_a_whole_gpu_neither_block_smaller_ones_nor_wait_for_ever() -> None:
    placement = Cluster(CPU_NODE, GPU_NODE).make_placement(GpuRequest(1.0))
    small = Resources(1)
    large = Resources(1, 1.0)
    handed_out = Counter({large: 3})
    assert placement.admits(small, handed_out)
    waiting_for_long = {large}
    assert not placement.admits(small, handed_out, waiting_for_long)
    fits_nowhere = Resources(1, 9.0)
    assert placement.admits(small, Counter(), {fits_nowhere})


def take_all(controller: SweepController) -> list[TrialSpec]:
    """Take trials until there is no room for another."""
    return list(iter(controller.next_trial, None))


def test_trials_start_together_and_pass_one_that_waits(store: ResultsStore) -> None:
    controller = new_controller(store, text=f"{TEXT}parallel: 1\n")
    gpus = {"pocket/wdbc": GpuRequest(1.0), "pocket/digits": GpuRequest(0.0)}
    requests = {(task, method): gpus[task] for task, method in SEARCHES}
    node = NodeResources("n", 4, 1, 8.0, "n")
    controller.placement = Placement(lambda: [node], requests)
    counts = Counter(trial.resources.gpus for trial in take_all(controller))
    assert counts[1.0] == 2, "one runs, one waits"
    assert counts[0.0] == 2, "the searches of the other task go on"
    assert controller.demand()[Resources(1, 1.0)] > 0


def test_gpus_of_the_command_line_are_required() -> None:
    search, *_ = fake_searches()
    assert _gpu_request(search, 0.5) == GpuRequest(0.5, required=True)


@pytest.mark.parametrize("given", ["auto", None])
def test_other_gpu_shares_are_measured(given: Literal["auto"] | None) -> None:
    search, *_ = fake_searches()
    assert _gpu_request(search, given).measured


def test_a_deterministic_search_runs_one_trial_after_the_other() -> None:
    usual, *_ = fake_searches()
    assert usual.most_at_once == math.inf
    overrides = Overrides(deterministic=True, seeds=1)
    deterministic, *_ = fake_searches(fake_spec(overrides=overrides))
    assert deterministic.most_at_once == 1


def test_a_search_without_room_suggests_nothing(store: ResultsStore) -> None:
    controller = new_controller(store)
    requests = dict.fromkeys(SEARCHES, GpuRequest(0.0))
    node = NodeResources("n", 2, 0, 8.0, "n")
    controller.placement = Placement(lambda: [node], requests)
    trials = take_all(controller)
    controller.close()
    assert len(trials) == 3, "two run, one follows"
    assert len(store.journal(controller.sweep)) == 3
    searches = {(trial.task, trial.method) for trial in trials}
    assert len(searches) == 3, "the duration of each search is measured first"


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
    requests = dict.fromkeys(SEARCHES, GpuRequest(0.0))
    node = NodeResources("n", 2, 0, 8.0, "n")
    controller.placement = Placement(lambda: [node], requests)
    assert len(take_all(controller)) == num_started


def test_the_share_follows_the_measured_peak(trial: TrialSpec) -> None:
    node = replace(GPU_NODE, cpus=32)
    placement = Cluster(node).make_placement(GpuRequest(1.0, measured=True))
    on_gpu = replace(trial, resources=Resources(1, 1.0))
    assert plan_gpus(placement, trial) == 1.0, "nothing is known"
    placement.learn(on_gpu, make_report(trial, 1000.0))
    assert plan_gpus(placement, trial) == 0.125
    placement.learn(on_gpu, make_report(trial, 2500.0))
    gpus = plan_gpus(placement, trial)
    assert gpus == 0.25, "1.2 times 2500 MiB and a context are more than 2 GiB"
    larger_batches = {**trial.hyperparameters, "refine.batch_size": 4096}
    another_workload = replace(trial, hyperparameters=larger_batches)
    assert plan_gpus(placement, another_workload) == 1.0
    assert plan_gpus(placement, replace(trial, deterministic=True)) == 1.0


@pytest.mark.parametrize(
    ("cpus", "planned", "gets"),
    [
        (8, Resources(1, 0.25), Resources(1, 1.0)),
        (16, Resources(1, 0.25), Resources(1, 0.5)),
        (12, Resources(1, 0.1), Resources(1, 1.0)),
        (32, Resources(1, 0.25), Resources(1, 0.25)),
        (16, Resources(2, 0.5), Resources(2, 1.0)),
        (8, Resources(2, 0.5), Resources(1, 1.0)),
        (4, Resources(1, 0.25), Resources(1, 1.0)),
        (8, Resources(4, 2.0), Resources(2, 2.0)),
        (64, Resources(1, 0.25, 4.0), Resources(1, 0.5, 4.0)),
    ],
)
def test_a_share_grows_until_no_gpu_idles(
    trial: TrialSpec, cpus: int, planned: Resources, gets: Resources
) -> None:
    node = NodeResources("n", cpus, 8, 64.0, "n")
    placement = Cluster(node).make_placement(GpuRequest(planned.gpus))
    asked = replace(trial, resources=planned)
    assert placement.resources(asked, FailuresOfTrial()) == gets


def test_the_node_with_the_fewest_cpus_a_gpu_decides(trial: TrialSpec) -> None:
    nodes = [NodeResources(f"n{cpus}", cpus, 8, 64.0, f"{cpus}") for cpus in (64, 8)]
    placement = Cluster(*nodes).make_placement(GpuRequest(0.25))
    assert plan_gpus(placement, trial) == 1.0


def test_shares_of_the_command_line_and_of_deterministic_trials_are_kept(
    trial: TrialSpec,
) -> None:
    cluster = Cluster(NodeResources("n", 8, 8, 64.0, "n"))
    required = cluster.make_placement(GpuRequest(0.25, required=True))
    assert plan_gpus(required, trial) == 0.25
    usual = cluster.make_placement(GpuRequest(0.25))
    assert plan_gpus(usual, replace(trial, deterministic=True)) == 0.25


@pytest.mark.parametrize(
    ("node", "request_", "sentence"),
    [
        (NodeResources("n", 8, 8, 64.0), GpuRequest(0.25), "8 CPUs feed 8 of 8 GPUs"),
        (
            NodeResources("n", 4, 8, 64.0),
            GpuRequest(0.25),
            "4 CPUs feed 4 of 8 GPUs: ask for 8 CPUs a node (SLURM: --cpus-per-task=8)",
        ),
        (
            NodeResources("n", 8, 8, 64.0),
            GpuRequest(0.25, required=True),
            "8 CPUs feed 2 of 8 GPUs: ask for 32 CPUs a node"
            " (SLURM: --cpus-per-task=32)",
        ),
        (CPU_NODE, GpuRequest(0.25), ""),
    ],
)
def test_a_sweep_says_how_many_gpus_its_cpus_feed(
    trial: TrialSpec, node: NodeResources, request_: GpuRequest, sentence: str
) -> None:
    assert Cluster(node).make_placement(request_).feeding([trial]) == sentence


def test_nodes_of_one_kind_are_named_once(trial: TrialSpec) -> None:
    nodes = [NodeResources(f"n{k}", 8, 8, 64.0, f"{k}") for k in range(3)]
    asked = replace(trial, resources=Resources(1, 0.25, 16.0))
    sentence = Cluster(*nodes).make_placement(GpuRequest(0.25)).feeding([asked])
    assert sentence == (
        "on each of 3 nodes, 8 CPUs feed 4 of 8 GPUs: ask for 128 GiB of memory a node"
    )


def test_a_trial_without_a_gpu_leaves_the_cpus_that_gpus_need() -> None:
    node = NodeResources("n", 16, 8, 64.0, "n")
    placement = Cluster(node).make_placement(GpuRequest(1.0))
    small = Resources(1)
    large = Resources(1, 1.0)
    assert placement.admits(small, Counter({large: 10, small: 7}))
    assert not placement.admits(small, Counter({large: 10, small: 8}))
    assert placement.admits(small, Counter({large: 10, small: 8}), reserves=False)
    assert placement.admits(small, Counter({large: 2, small: 13}))
    assert not placement.admits(small, Counter({large: 2, small: 14}))
    assert placement.admits(large, Counter({small: 16}))


def test_trials_on_gpus_come_first_and_the_others_in_their_turn(
    store: ResultsStore,
) -> None:
    controller = new_controller(store)
    now = [0.0]
    controller.failures.now = lambda: now[0]
    gpus = {"orca": GpuRequest(1.0), "nft": GpuRequest(0.0)}
    requests = {(task, method): gpus[method] for task, method in SEARCHES}
    node = NodeResources("n", 2, 2, 8.0, "n")
    controller.placement = Placement(lambda: [node], requests)
    first = take_all(controller)
    assert {trial.method for trial in first} == {"orca"}
    for trial in first[:2]:
        controller.started(trial.key)
    now[0] = 301.0
    [overlooked] = take_all(controller)
    assert overlooked.method == "nft"


def test_fitted_methods_need_no_gpu_unless_their_block_asks_for_one() -> None:
    text = TEXT.replace("[nft, orca]", "[nft, forest, linear]").replace(
        "settings: {", "per_method: {linear: {resources: {gpus: 1}}}\nsettings: {"
    )
    spec = fake_spec(text)
    plans = plan_searches(spec, dict.fromkeys(spec.tasks, ""), gpus=True)
    gpus = {plan.method: plan.resources.gpus for plan in plans}
    assert gpus == {"nft": 1.0, "forest": 0.0, "linear": 1.0}
    [forest] = [plan for plan in plans[:3] if plan.method == "forest"]
    assert _gpu_request(forest, 0.5).gpus == 0.0


def test_a_fixed_share_does_not_follow_the_peak(trial: TrialSpec) -> None:
    placement = Cluster(GPU_NODE).make_placement(GpuRequest(0.5))
    on_gpu = replace(trial, resources=Resources(1, 1.0))
    placement.learn(on_gpu, make_report(trial, 1000.0))
    assert plan_gpus(placement, trial) == 0.5


@pytest.mark.parametrize(("share", "next_share"), [(0.25, 0.5), (1.0, 1.0)])
def test_a_share_that_was_too_small_is_doubled_up_to_a_whole_gpu(
    trial: TrialSpec, share: float, next_share: float
) -> None:
    placement = Cluster(GPU_NODE).make_placement(GpuRequest(0.25))
    on_gpu = replace(trial, resources=Resources(1, share))
    placement.learn(on_gpu, make_report(trial, 4096.0, Status.FAILED_OOM))
    assert plan_gpus(placement, trial) == next_share


def test_known_peaks_come_from_the_store(store: ResultsStore) -> None:
    controller = new_controller(store)
    controller.placement = Cluster(GPU_NODE).make_placement(GpuRequest(1.0))
    ran = take(controller)
    record = controller.ended(ran.key, make_report(ran, 1500.0, Status.COMPLETED))
    assert record is not None
    assert record.gpus == 1.0
    restarted = Cluster(GPU_NODE).make_placement(GpuRequest(1.0, measured=True))
    controller.close()
    restarted.learn_record(store.load("fake/full")[ran.key])
    restarted.learn(ran, TrialReport(worker=Worker(device_memory_mib=16384.0)))
    assert plan_gpus(restarted, ran) == 0.25


TWICE_OUT_OF_MEMORY = FailuresOfTrial(Counter({Cause.MEMORY: 2}))


def test_memory_that_ran_out_twice_is_reserved(trial: TrialSpec) -> None:
    placement = Cluster(CPU_NODE).make_placement(GpuRequest(0.0))
    once_out_of_memory = FailuresOfTrial(Counter({Cause.MEMORY: 1}))
    assert placement.resources(trial, once_out_of_memory).memory_gib == 0.0
    assert placement.resources(trial, TWICE_OUT_OF_MEMORY).memory_gib == 8.0


def test_no_more_memory_is_reserved_than_the_largest_node_has(trial: TrialSpec) -> None:
    reserved = replace(trial, resources=Resources(1, 0, 12.0))
    placement = Cluster(CPU_NODE).make_placement(GpuRequest(0.0))
    assert placement.resources(reserved, TWICE_OUT_OF_MEMORY).memory_gib == 16.0
    without_nodes = Cluster().make_placement(GpuRequest(0.0))
    assert without_nodes.resources(trial, TWICE_OUT_OF_MEMORY).memory_gib == 0.0


def test_quarantined_nodes_get_no_trials_unless_no_other_is_left() -> None:
    cluster = Cluster(CPU_NODE, GPU_NODE)
    wanted = Resources(1)
    quarantined = {CPU_NODE.id: "broken"}
    placement = cluster.make_placement(GpuRequest(0.0), quarantined)
    assert placement.avoided(wanted, FailuresOfTrial()) == [CPU_NODE.id]
    assert not placement.admits(wanted, Counter({wanted: 10}))
    failed_on_the_other = FailuresOfTrial(avoid=frozenset({GPU_NODE.id}))
    assert placement.avoided(wanted, failed_on_the_other) == [CPU_NODE.id]
    cluster.nodes = [CPU_NODE]
    cluster.now = 10.0
    assert placement.avoided(wanted, FailuresOfTrial()) == []
    assert placement.admits(wanted, Counter())
    assert placement.node_name(CPU_NODE.id) == "cpu (cccccccc)"


def test_a_lost_trial_prefers_another_node_if_one_fits() -> None:
    placement = Cluster(CPU_NODE, GPU_NODE).make_placement(GpuRequest(0.0))
    lost_on_cpus = FailuresOfTrial(avoid=frozenset({CPU_NODE.id}))
    assert placement.avoided(Resources(1), lost_on_cpus) == [CPU_NODE.id]
    lost_on_gpus = FailuresOfTrial(avoid=frozenset({GPU_NODE.id}))
    assert placement.avoided(Resources(1, 1.0), lost_on_gpus) == []


class GrowingCluster(InlineExecutor):
    """A cluster that has a second node from the third look on."""

    grows = True

    def __init__(self, first: NodeResources) -> None:
        self.first = first
        self.num_looks = 0
        self.demand = Counter[Resources]()

    def nodes(self) -> list[NodeResources]:
        self.num_looks += 1
        if self.num_looks < 3:
            return [self.first]
        return [self.first, GPU_NODE]

    def announce(self, demand: object) -> None:
        assert isinstance(demand, Counter)
        self.demand = demand


HEAD = NodeResources("head", 0, 0, 4.0)
SHARED = TEXT + "resources: {cpus: 2, gpus: 0.5}\n"


def test_a_cluster_that_starts_is_waited_for() -> None:
    engine = GrowingCluster(HEAD)
    events = list[Event]()
    pauses = list[float]()
    has_room = wait_for_room(
        engine,
        fake_spec(SHARED),
        engine.nodes(),
        300.0,
        events.append,
        sleep=pauses.append,
    )
    assert has_room
    assert len(pauses) == 2
    [message] = events
    assert isinstance(message, Message)
    assert "waiting up to 300 s" in message.text
    assert engine.demand == {Resources(2.0, 0.5): 4}


def test_a_cluster_that_does_not_start_in_time_is_a_user_error() -> None:
    engine = GrowingCluster(HEAD)
    with pytest.raises(UserError, match="more than any node has"):
        wait_for_room(
            engine,
            fake_spec(),
            engine.nodes(),
            1.0,
            lambda event: None,
            sleep=lambda seconds: None,
        )
    assert engine.num_looks == 2


@pytest.mark.parametrize(
    ("needs_gpus", "demand"), [(False, {}), (True, {Resources(2.0, 0.5): 4})]
)
def test_a_sweep_that_needs_gpus_waits_for_them(
    needs_gpus: bool, demand: dict[Resources, int]
) -> None:
    engine = GrowingCluster(NodeResources("cpus", 8, 0, 32.0))
    has_waited = wait_for_room(
        engine,
        fake_spec(SHARED),
        engine.nodes(),
        300.0,
        lambda event: None,
        needs_gpus=needs_gpus,
        sleep=lambda seconds: None,
    )
    assert has_waited == needs_gpus
    assert engine.demand == demand


def test_several_gpus_are_whole() -> None:
    message = r"whole GPUs or on a part of one: give e\.g\. 2, 1 or 0\.5; got 1\.5"
    with pytest.raises(UserError, match=message):
        fake_spec(TEXT + "resources: {gpus: 1.5}\n")


def plan_on_two_gpus() -> list[SearchPlan]:
    """Return the plans of a sweep whose trials have two GPUs."""
    spec = fake_spec(TEXT + "resources: {gpus: 2}\n")
    return plan_searches(spec, dict.fromkeys(spec.tasks, ""), gpus=True)


def test_a_trial_on_two_gpus_has_two_ranks_and_the_same_key() -> None:
    plan, *_ = plan_on_two_gpus()
    assert plan.resources.gpus == 2.0
    assert plan.resources.ranks == 2
    on_cpus = replace(plan, resources=Resources())
    assert plan.trial({}, 1, "search").key == on_cpus.trial({}, 1, "search").key


def test_a_trial_on_two_gpus_needs_a_node_that_has_both() -> None:
    plan, *_ = plan_on_two_gpus()
    small = NodeResources("n", 8, 1, 8.0)
    large = NodeResources("m", 8, 2, 8.0)
    problem = placement_problem(plan.resources, [small])
    assert problem is not None
    assert "1 CPUs, 2 GPUs, 0 GiB, more than any node has (n: 8 CPUs, 1 GPUs" in problem
    assert placement_problem(plan.resources, [small, large]) is None


@pytest.mark.parametrize(
    ("kind", "cpus", "num_gpus"),
    [
        (bench_gpus.KINDS[0], 8, 8),
        (bench_gpus.KINDS[1], 8, 4),
        (bench_gpus.MIXED, 8, 8),
    ],
)
def test_gpus_are_busy_while_trials_wait_for_them(
    kind: bench_gpus.Kind, cpus: int, num_gpus: int
) -> None:
    node = bench_gpus.node_of(cpus, num_gpus)
    part = bench_gpus.busy_part(kind, [node], trials_a_gpu=6)
    assert part >= bench_gpus.LEAST_BUSY
