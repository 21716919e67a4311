"""What the sweep does inside Ray Tune: which trial runs next, and causes of failures.

Also the private interfaces of Ray that the sweep uses.
"""

import inspect
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import ray
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayActorError, RayTaskError
from ray.tune.experiment import Trial

from benchmarks import bench_cluster
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.executors import liveness, ray_private
from orca_ray.sweep.executors.liveness import Deadlines
from orca_ray.sweep.executors.tune_adapter import (
    TuneScheduler,
    TuneSearcher,
    failure_of,
)
from orca_ray.sweep.messages.causes import Cause
from orca_ray.sweep.messages.settings import TimeLimits
from orca_ray.sweep.plan.trial_spec import Resources
from orca_ray.sweep.run.placement import Placement
from tests import session
from tests.sweep.fakes import TEXT, new_controller


class Slots(Placement):
    """Room for some trials, whatever they need."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._count = count

    def capacity(self, wanted: Resources) -> int:
        return self._count


@dataclass
class TuneTrial:
    """What the scheduler reads of a trial of Tune."""

    trial_id: str
    status: str
    temporary_state: Any = field(
        default_factory=lambda: SimpleNamespace(ray_actor=None)
    )


STATUSES = {"r": "RUNNING", "p": "PENDING"}
"""Statuses of trials by their letter in a test."""


class Tune:
    """A searcher with the trials that it has given to Tune.

    ``statuses`` has one letter of `STATUSES` for each trial.
    """

    def __init__(
        self, store: ResultsStore, slots: int, statuses: str, text: str = TEXT
    ) -> None:
        self.now = 0.0
        controller = new_controller(store, text=text)
        controller.placement = Slots(slots)
        limits = TimeLimits(heartbeat=60.0)
        self.deadlines = Deadlines(
            limits, read=lambda name: ("", 0), clock=lambda: self.now
        )
        self.searcher = TuneSearcher(controller, self.deadlines)
        self.trials = [
            TuneTrial(f"t{number}", STATUSES[letter])
            for number, letter in enumerate(statuses)
        ]
        for trial in self.trials:
            assert isinstance(self.searcher.suggest(trial.trial_id), dict)

    def get_live_trials(self) -> list[TuneTrial]:
        return self.trials[::-1]  # Tune has them in a set, without an order

    def choose(self) -> str | None:
        """Return the id of the trial that gets the next free actor."""
        trial = TuneScheduler(self.searcher).choose_trial_to_run(self)
        return None if trial is None else str(trial.trial_id)


@pytest.mark.parametrize(
    ("slots", "statuses", "chosen"),
    [
        (4, "rrrp", "t3"),  # an actor has just become free
        (4, "rrrrpp", "t4"),  # the oldest first, if no actor is starting
        (4, "ppprp", "t2"),  # two actors are starting, for the two oldest
        (4, "ppppp", "t3"),
        # Both have an actor that starts: the older one loses nothing.
        (4, "rpp", "t2"),
        (0, "rpp", "t1"),  # the nodes are gone
        (4, "rr", None),
    ],
)
def test_a_free_actor_goes_to_the_oldest_trial_without_a_starting_one(
    slots: int, statuses: str, chosen: str | None, store: ResultsStore
) -> None:
    assert Tune(store, slots, statuses).choose() == chosen


def test_a_worker_that_hangs_before_its_next_trial_starts_is_noticed(
    store: ResultsStore,
) -> None:
    tune = Tune(store, 4, "rp")
    actor_that_never_answers = object()
    tune.trials[1].temporary_state.ray_actor = actor_that_never_answers
    for seconds in (0.0, 20.0, 40.0, 60.0, 80.0, 100.0):
        tune.now = seconds
        tune.choose()
        exceeded = tune.deadlines.exceeded()
    assert list(exceeded) == ["t1"]


def count_calls_of_step(store: ResultsStore, num_workers: int) -> int:
    """Return the number of function calls of a step in which no worker is free."""
    text = TEXT.replace("search_trials: 4", f"search_trials: {num_workers}")
    tune = Tune(store, num_workers, "r" * num_workers + "pp", text)
    profile = mock.Mock()
    with mock.patch.object(Slots, "admits", return_value=False):
        sys.setprofile(profile)
        assert tune.searcher.suggest("next") is None
        assert tune.choose() == f"t{num_workers}"
        sys.setprofile(None)
    events = [call.args[1] for call in profile.call_args_list]
    return events.count("call")


def test_a_step_of_tune_takes_as_many_calls_with_ten_times_as_many_workers(
    tmp_path: Path,
) -> None:
    few = count_calls_of_step(ResultsStore(tmp_path / "few", create=True), 40)
    many = count_calls_of_step(ResultsStore(tmp_path / "many", create=True), 400)
    assert many <= few + 20


def test_workers_that_fail_hang_and_get_lost_with_their_nodes_change_no_record() -> (
    None
):
    counts = bench_cluster.check(median=60.0, limits=TimeLimits(heartbeat=180.0))
    assert counts.pop("trials") == 300
    each_fault = {"dead node", "hang", "preempted", "process", "silent node"}
    assert counts.keys() == each_fault


OOM_KILLER = (
    "Worker exit type: SYSTEM_ERROR. Possible reasons: (1) killed by the OOM killer due"
    " to high memory usage"
)
ERROR_OF_CODE = RayTaskError("step", "Traceback ...\nKeyError: 'x'", KeyError("x"))
ERROR_OF_MEMORY = RayTaskError("step", "Traceback ...\nMemoryError", MemoryError())


@pytest.mark.parametrize(
    ("error", "text", "cause"),
    [
        (RayActorError(preempted=True), "", Cause.PREEMPTED),
        (OutOfMemoryError("killed"), "", Cause.MEMORY),
        (None, "Task was killed due to the node running low on memory.", Cause.MEMORY),
        (ERROR_OF_CODE, "", Cause.CODE),
        (ERROR_OF_MEMORY, "", Cause.MEMORY),
        (ActorDiedError(ERROR_OF_CODE), "", Cause.CODE),  # the worker cannot be built
        (ActorDiedError(), OOM_KILLER, Cause.LOST),
    ],
)
def test_an_exception_of_ray_has_a_cause(
    error: Exception | None, text: str, cause: Cause
) -> None:
    failure = failure_of(error, text, "node")
    assert failure.cause == cause
    assert failure.reason == text or str(error).strip()
    assert failure.node == "node"


def test_submit_refuses_files_that_ray_would_refuse_after_packing_them() -> None:
    assert ray_private.max_package_bytes() == 512 * 2**20


def test_trials_in_a_container_reserve_no_more_memory_than_it_has() -> None:
    [name] = ray_private.memory_option(2**30)
    is_taken = f'kwargs.pop("{name}", None)' in inspect.getsource(ray.init)
    assert is_taken, "ray.init raises for any other argument"


def test_a_worker_that_hangs_is_killed_by_its_actor_of_tune() -> None:
    trial = Trial("any", stub=True)
    assert ray_private.actor_of(trial) is None
    actor = object()
    trial.temporary_state.ray_actor = actor
    assert ray_private.actor_of(trial) is actor


def test_ended_trials_keep_no_results_in_the_driver() -> None:
    trial = Trial(
        "any", stub=True, config={"trial": "{}"}, evaluated_params={"trial": "{}"}
    )
    trial.run_metadata.update_metric("report", 1.0, step=1)
    trial.run_metadata.last_result = {"report": "{}", "training_iteration": 1}
    ray_private.forget_results(trial)
    assert trial.last_result["done"]
    assert "report" not in trial.last_result
    assert trial.config == {}
    assert trial.evaluated_params == {}
    assert trial.metric_analysis == {}
    assert trial.run_metadata.metric_n_steps == {}


@pytest.mark.ray
@pytest.mark.slow
def test_the_driver_reads_heartbeats_of_workers_that_have_ended(
    ray_cluster: session.RayCluster,
) -> None:
    ray.init(address=ray_cluster.address, log_to_driver=False)

    @ray.remote(num_cpus=0)  # type: ignore[untyped-decorator]  # ray is untyped
    def beat(count: int) -> None:
        ray_private.key_value_store("put", "trial", f"node {count}".encode())

    assert liveness.read_heartbeat("trial") == ("", -1)
    for count in (1, 2):
        ray.get(beat.remote(count))
        assert liveness.read_heartbeat("trial") == ("node", count)
    ray_private.key_value_store("del", "trial")
    assert liveness.read_heartbeat("trial") == ("", -1)
