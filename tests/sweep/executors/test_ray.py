"""The executors on a real Ray cluster of this machine.

Records are the same whatever hangs or dies in between.
"""

import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import psutil
import pytest

from orca_ray.errors import ClusterLostError, UserError
from orca_ray.options import KeepModels
from orca_ray.predictor import load
from orca_ray.results import live
from orca_ray.results.lease import Lease
from orca_ray.results.record import Record, Status
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.executors.inline import InlineExecutor
from orca_ray.sweep.executors.ray import RayExecutor, trial_bundle
from orca_ray.sweep.messages.settings import TimeLimits, WorkerSettings
from orca_ray.sweep.plan.trial_spec import Resources
from orca_ray.sweep.run import driver
from orca_ray.sweep.run.driver import run_sweep
from orca_ray.sweep.run.events import (
    Event,
    Message,
    Summary,
    SweepStarted,
    TrialFinished,
    TrialProgress,
)
from orca_ray.sweep.run.executor import ExecutorOptions
from orca_ray.sweep.worker.models import best_of
from tests import session
from tests.session import new_home
from tests.sweep import fakes
from tests.sweep.fakes import fake_searches, new_controller
from tests.sweep.real import make_tiny_spec, read_facts
from tests.sweep.slow_sweep import start_slow_sweep

Facts = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def inline(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    """Records of the tiny sweep in one process, by trial key.

    The sweep has a cache of its own, so no alignment is reused.
    """
    store = ResultsStore(tmp_path_factory.mktemp("inline") / "results", create=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORCA_RAY_HOME", str(new_home(tmp_path_factory.mktemp("home"))))
        summary = run_sweep(
            make_tiny_spec(session.folder()), store, executor=InlineExecutor()
        )
    assert summary.planned == summary.ran == 10
    return read_facts(store)


@pytest.fixture
def one_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Ray start one worker: each costs five seconds of CPU time for its imports."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("own_home")
def test_a_request_stops_ray_and_the_sweep_goes_on(
    inline: Facts,
    ray_cluster: session.RayCluster,
    tmp_path: Path,
    store: ResultsStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The working directory is deleted meanwhile, as Ray may do after a job."""
    spec = make_tiny_spec(session.folder())
    job = tmp_path / "job"
    job.mkdir()
    monkeypatch.chdir(job)

    def request_stop(event: Event) -> None:
        if isinstance(event, TrialFinished) and job.exists():
            job.rmdir()
            live.write_request(store.folder, spec.sweep_id, live.Request("stop"))
            time.sleep(1)  # until the thread of the lease has read it

    monkeypatch.setattr(driver, "Lease", partial(Lease, renew_seconds=0.2))
    summary = run_sweep(
        spec,
        store,
        executor=RayExecutor(),
        address=ray_cluster.address,
        listener=request_stop,
        checkpoint_seconds=0.0,
    )
    monkeypatch.chdir(tmp_path)
    assert summary.interrupted
    assert 0 < summary.ran < 10
    again = run_sweep(spec, store, executor=InlineExecutor())
    assert again.ran == 10 - summary.ran
    assert read_facts(store) == inline


@pytest.mark.ray
@pytest.mark.slow
def test_ray_gives_the_same_records_although_a_worker_is_lost(
    inline: Facts, one_cpu: None, own_home: Path, store: ResultsStore
) -> None:
    """The killed worker is replaced, and its trial goes on."""
    import ray

    fault = WorkerFault()
    events: list[Event] = []
    sessions: list[Path] = []

    def listen(event: Event) -> None:
        events.append(event)
        if isinstance(event, SweepStarted):
            node = ray._private.worker._global_node
            sessions.append(Path(node.get_session_dir_path()))
        if isinstance(event, TrialProgress):
            fault.kill_once()

    summary = run_sweep(
        make_tiny_spec(session.folder()),
        store,
        executor=RayExecutor(),
        listener=listen,
        checkpoint_seconds=0.0,
        keep_models=KeepModels.BEST,
    )
    assert fault.killed is not None, "no worker was found to kill"
    assert [folder.exists() for folder in sessions] == [False]
    assert not summary.interrupted
    assert not summary.failed
    assert read_facts(store) == inline
    assert max(record.attempts for record in store.load("tiny/full").values()) == 2
    [place] = [event.where for event in events if isinstance(event, SweepStarted)]
    assert "local Ray cluster" in place
    again = run_sweep(
        make_tiny_spec(session.folder()), store, executor=InlineExecutor()
    )
    assert again.up_to_date
    assert_models_are_the_best(summary, store)
    assert not (Path(store.uri) / "checkpoints").exists()
    children = psutil.Process().children(recursive=True)
    assert not [child for child in children if child.name().startswith("raylet")]


class WorkerFault:
    """Kills one worker of Ray."""

    killed: psutil.Process | None = None

    def kill_once(self) -> None:
        """Kill a living worker, unless one was killed before."""
        if self.killed is not None:
            return
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # it has just ended
                is_zombie = process.status() == psutil.STATUS_ZOMBIE
                if "orca_" in process.name() and not is_zombie:
                    process.kill()
                    self.killed = process
                    return


def assert_models_are_the_best(summary: Summary, store: ResultsStore) -> None:
    """Check that the workers wrote the best model of each task."""
    confirmed = store.select({"phase": ["confirm"]})
    assert summary.models.keys() == {record.task for record in confirmed}
    for task, folder in summary.models.items():
        best = best_of([record for record in confirmed if record.task == task])
        assert best is not None
        assert Path(folder).name == best.trial_key
        assert load(folder, device="cpu").config.trial == best.trial_key


def read_records(path: Path) -> dict[str, Record]:
    """Return the records of the slow sweep in the store at ``path``, by trial key."""
    return ResultsStore(path).load("fake/full")


def find_outcomes(path: Path) -> list[Path]:
    """Return the outcome files of trials that have ended."""
    return list((path / "checkpoints").glob("*.outcome"))


@pytest.mark.slow
def test_sigkill_then_ctrl_c_then_the_same_sweep_again(tmp_path: Path) -> None:
    """Each of 24 trials is stored once, and none that has ended runs again.

    4 trials fail. Outcome files bring back records that were not written yet.
    ``tests/cluster/test_fault_runs.py`` does the same to drivers with a Ray cluster.
    """
    path = tmp_path / "results"
    first = start_slow_sweep(path, 0.01)
    while first.poll() is None and len(find_outcomes(path)) < 3:
        time.sleep(0.002)
    first.kill()
    first.communicate(timeout=60)
    ended = {file.name.partition(".")[0] for file in find_outcomes(path)}
    kept = read_records(path)
    assert ended - set(kept), "no trial ended without a record: the test shows nothing"

    second = start_slow_sweep(path, 0.05)  # the signal must come while a trial runs
    while second.poll() is None and len(read_records(path)) < len(kept) + 4:
        time.sleep(0.05)
    second.send_signal(signal.SIGINT)
    second.communicate(timeout=60)
    assert second.returncode == 130

    third = start_slow_sweep(path, 0.0)
    third.communicate(timeout=120)
    assert third.returncode == 1, "some trials failed"
    frame = ResultsStore(path).records()
    counts = frame["status"].value_counts().to_dict()
    assert counts == {"completed": 20, "failed_user": 4}
    assert frame["trial_key"].is_unique
    records = read_records(path)
    for key, record in kept.items():
        assert records[key].finished_at == record.finished_at
    assert all(frame.loc[frame["status"] == "completed", "epochs"] == 6)
    assert len(ResultsStore(path).curves()) == 20 * 6
    assert not list((path / "checkpoints").glob("*.*"))


def test_resources_of_a_trial_become_a_placement_group() -> None:
    plan, *_ = fake_searches()
    resources = Resources(2.0, 0.25, 1.5)
    trial = replace(plan.trial({}, 1, "confirm"), resources=resources)
    group = trial_bundle({"trial": trial.to_json()})
    assert group.bundles == [{"CPU": 2.0, "GPU": 0.25, "memory": 1.5 * 2**30}]


TEXT = fakes.TEXT.replace(
    "search_trials: 4, confirm_seeds: [1, 2]",
    "search_trials: 0, confirm_seeds: [1, 2, 3]",
)


def move_python_below_a_space(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let the path of Python have a space."""
    environment = folder / "an environment"
    environment.symlink_to(Path(sys.executable).parents[1])
    python = environment / "bin" / Path(sys.executable).name
    monkeypatch.setattr(sys, "executable", str(python))


def replace_actors(monkeypatch: pytest.MonkeyPatch, marker: Path, fault: str) -> None:
    """Replace the trials of workers by arithmetic.

    ``fault`` is "setup" if the first worker hangs, "step" if every worker hangs.
    """
    import ray

    from orca_ray.sweep.executors import trainable

    move_python_below_a_space(monkeypatch, marker.parent)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.cloudpickle.register_pickle_by_value(fakes)

    class FakeActor(trainable.TrialActor):
        def setup(self, config: dict[str, Any]) -> None:
            super().setup(config)
            if fault == "setup" and not marker.exists():
                marker.touch()
                time.sleep(600)
            self._reports = fakes.fake_reports(self._runner.trial)

        def step(self) -> dict[str, Any]:
            if fault == "step":
                time.sleep(600)
            report = next(self._reports)
            return {"report": report.to_json(), "done": report.done, "node": self._node}

    def make_trainable(name: str, settings: WorkerSettings) -> Any:
        return type(name, (FakeActor,), {"settings": settings})

    monkeypatch.setattr(trainable, "make_trainable", make_trainable)


def test_a_local_cluster_without_memory_is_a_user_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("orca_ray.process.allowed_memory", lambda: 2**30)
    message = r": 1\.0 GiB of memory are .*needs 1\.5 GiB .*--executor inline"
    with pytest.raises(UserError, match=message):
        RayExecutor().open("local")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (Exception("The node timed out."), "The node timed out"),
        (OSError(30, "Read-only file system", "/home/me/.ray"), r".*'/home/me/\.ray'"),
    ],
)
def test_a_local_cluster_that_cannot_start_is_a_user_error(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RayExecutor, "_init", Mock(side_effect=error))
    with pytest.raises(UserError, match=f"Ray cannot start on this machine: {message}"):
        RayExecutor().open("local")


def run_fake_actors(
    store: ResultsStore, text: str, hang_seconds: float, events: list[Event]
) -> Summary:
    """Run a sweep of fake actors on a new Ray cluster of this machine."""
    controller = new_controller(store, text=text, listener=events.append)
    limits = TimeLimits(heartbeat=hang_seconds)
    with RayExecutor() as engine:
        engine.open("local")
        settings = WorkerSettings(store.uri, time=limits)
        engine.run(controller, settings, ExecutorOptions(limits))
    return controller.summary()


def test_a_cluster_without_nodes_is_lost_before_anything_is_staged(
    store: ResultsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.nodes", list)
    with pytest.raises(ClusterLostError, match="no node of the Ray cluster"):
        RayExecutor().stager([], WorkerSettings(store.uri), print)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.usefixtures("one_cpu", "own_home")
def test_a_joined_cluster_whose_workers_do_not_start_is_lost(
    store: ResultsStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import ray

    move_python_below_a_space(monkeypatch, tmp_path)
    monkeypatch.setattr("shlex.quote", str)  # what lets workers start there
    monkeypatch.setattr("orca_ray.sweep.worker.ray_stager.NOTICE_SECONDS", 1.0)
    events: list[Event] = []
    spec = make_tiny_spec(session.folder())
    limits = ExecutorOptions(TimeLimits(heartbeat=6.0))
    with RayExecutor() as engine:
        engine.open("local")
        address = ray.get_runtime_context().gcs_address
        message = r"no worker .* in 0\.1 min: Ray cluster at .*, 1 CPUs free"
        with pytest.raises(ClusterLostError, match=message):
            run_sweep(
                spec,
                store,
                executor=RayExecutor(),
                address=address,
                listener=events.append,
                options=limits,
            )
    texts = [event.text for event in events if isinstance(event, Message)]
    [notice] = [text for text in texts if "waiting up to 0.1 min" in text]
    assert Path(notice.split()[-1]).name == "logs"


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.usefixtures("one_cpu", "empty_home")
def test_a_worker_that_hangs_before_its_first_report_is_killed_and_its_trial_runs_again(
    store: ResultsStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One that hangs later is a fault in ``tests/cluster/test_fault_runs.py``."""
    replace_actors(monkeypatch, tmp_path / "marker", "setup")
    events: list[Event] = []
    summary = run_fake_actors(store, TEXT, 3.0, events)
    assert summary.statuses[Status.COMPLETED] == summary.planned == 12
    texts = [event.text for event in events if isinstance(event, Message)]
    assert any("lost (" in text for text in texts)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.usefixtures("one_cpu", "empty_home")
def test_a_worker_that_the_memory_monitor_kills_is_out_of_memory(
    store: ResultsStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Ray kills every worker, whatever it uses.
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.01")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "250")
    replace_actors(monkeypatch, tmp_path / "marker", "step")
    text = TEXT.replace("[1, 2, 3]", "[1]")
    text = text.replace("[nft, orca]", "[nft]")
    text = text.replace("pocket/digits, ", "")
    [record] = run_fake_actors(store, text, 1800.0, []).failed
    assert record.status == Status.FAILED_OOM
    assert record.attempts == 4
    assert "memory" in (record.error or "")
