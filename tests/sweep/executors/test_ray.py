"""The executors on a real Ray cluster on this machine: the same records, whatever hangs
or dies in between.
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
from orca_ray.results.record import Status
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
)
from orca_ray.sweep.run.executor import ExecutorOptions
from orca_ray.sweep.worker.models import best_of
from tests import session
from tests.session import new_home
from tests.sweep import fakes
from tests.sweep.fakes import fake_searches, new_controller
from tests.sweep.real import facts, tiny_spec
from tests.sweep.slow_sweep import slow_sweep

Facts = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def inline(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    """Records of the tiny sweep in one process, by trial key.

    Its alignments are its own.
    """
    store = ResultsStore(tmp_path_factory.mktemp("inline") / "results", create=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORCA_RAY_HOME", str(new_home(tmp_path_factory.mktemp("home"))))
        summary = run_sweep(
            tiny_spec(session.folder()), store, executor=InlineExecutor()
        )
    assert summary.planned == summary.ran == 10
    return facts(store)


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
    """Meanwhile the working directory is deleted, as Ray may do with that of a
    submitted job.
    """
    spec = tiny_spec(session.folder())
    job = tmp_path / "job"
    job.mkdir()
    monkeypatch.chdir(job)

    def ask(event: Event) -> None:
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
        listener=ask,
        checkpoint_seconds=0.0,
    )
    monkeypatch.chdir(tmp_path)
    assert summary.interrupted
    assert 0 < summary.ran < 10
    again = run_sweep(spec, store, executor=InlineExecutor())
    assert again.ran == 10 - summary.ran
    assert facts(store) == inline


@pytest.mark.ray
@pytest.mark.slow
def test_ray_gives_the_same_records_although_a_worker_is_lost(
    inline: Facts, one_cpu: None, own_home: Path, store: ResultsStore
) -> None:
    """The killed worker is replaced, and its trial goes on."""
    import ray

    killed: list[int] = []
    events: list[Event] = []
    sessions: list[Path] = []

    def kill_a_worker(event: Event) -> None:
        events.append(event)
        if isinstance(event, SweepStarted):
            sessions.append(
                Path(ray._private.worker._global_node.get_session_dir_path())
            )
        if type(event).__name__ == "TrialProgress" and not killed:
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.NoSuchProcess):  # it has just ended
                    if (
                        not killed
                        and process.status() != psutil.STATUS_ZOMBIE
                        and "orca_" in process.name()
                    ):
                        killed.append(process.pid)
                        process.kill()

    spec = tiny_spec(session.folder())
    summary = run_sweep(
        spec,
        store,
        executor=RayExecutor(),
        listener=kill_a_worker,
        checkpoint_seconds=0.0,
        keep_models=KeepModels.BEST,
    )
    assert killed, "no worker was found to kill"
    assert [folder.exists() for folder in sessions] == [False]
    assert not summary.interrupted
    assert not summary.failed
    assert facts(store) == inline
    assert max(record.attempts for record in store.load("tiny/full").values()) == 2
    assert any(
        isinstance(event, SweepStarted) and "local Ray cluster" in event.where
        for event in events
    )
    assert run_sweep(spec, store, executor=InlineExecutor()).up_to_date
    confirmed = store.select({"phase": ["confirm"]})
    assert summary.models.keys() == {record["task"] for record in inline.values()}
    for task, folder in summary.models.items():  # workers wrote them
        best = best_of([record for record in confirmed if record.task == task])
        assert best is not None
        assert (
            load(folder, device="cpu").config.trial
            == Path(folder).name
            == best.trial_key
        )
    assert not (Path(store.uri) / "checkpoints").exists()
    assert all(
        not child.name().startswith("raylet")
        for child in psutil.Process().children(recursive=True)
    )


@pytest.mark.slow
def test_sigkill_then_ctrl_c_then_the_same_sweep_again(tmp_path: Path) -> None:
    """Of 24 trials of 6 epochs, 4 fail.

    Each is stored once, and none that has ended runs again.

    Outcome files bring back the records that were not written yet.
    ``tests/cluster/test_fault_runs.py`` does the same to drivers with a Ray cluster.
    """
    path = tmp_path / "results"
    first = slow_sweep(path, 0.01)
    while (
        first.poll() is None and len(list((path / "checkpoints").glob("*.outcome"))) < 3
    ):
        time.sleep(0.002)
    first.kill()
    first.communicate(timeout=60)
    ended = {
        file.name.partition(".")[0] for file in (path / "checkpoints").glob("*.outcome")
    }
    kept = ResultsStore(path).load("fake/full")
    assert ended - set(kept), (
        "no trial had ended without a record: the test shows nothing"
    )
    second = slow_sweep(path, 0.05)  # the signal must come while a trial runs
    while (
        second.poll() is None
        and len(ResultsStore(path).load("fake/full")) < len(kept) + 4
    ):
        time.sleep(0.05)
    second.send_signal(signal.SIGINT)
    second.communicate(timeout=60)
    assert second.returncode == 130
    third = slow_sweep(path, 0.0)
    third.communicate(timeout=120)
    assert third.returncode == 1  # some trials failed
    frame = ResultsStore(path).records()
    records = ResultsStore(path).load("fake/full")
    assert sorted(frame["status"].value_counts().items()) == [
        ("completed", 20),
        ("failed_user", 4),
    ]
    assert frame["trial_key"].is_unique
    assert {key: records[key].finished_at for key in kept} == {
        key: each.finished_at for key, each in kept.items()
    }
    assert all(frame.loc[frame["status"] == "completed", "epochs"] == 6)
    assert len(ResultsStore(path).curves()) == 20 * 6
    assert not list((path / "checkpoints").glob("*.*"))


def test_resources_of_a_trial_become_a_placement_group() -> None:
    trial = replace(
        next(iter(fake_searches())).trial({}, 1, "confirm"),
        resources=Resources(2.0, 0.25, 1.5),
    )
    group = trial_bundle({"trial": trial.to_json()})
    assert group.bundles == [{"CPU": 2.0, "GPU": 0.25, "memory": 1.5 * 2**30}]


TEXT = fakes.TEXT.replace(
    "search_trials: 4, confirm_seeds: [1, 2]",
    "search_trials: 0, confirm_seeds: [1, 2, 3]",
)


def path_with_a_space(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let Python lie in such a path."""
    (environment := folder / "an environment").symlink_to(
        Path(sys.executable).parents[1]
    )
    monkeypatch.setattr(
        sys, "executable", str(environment / "bin" / Path(sys.executable).name)
    )


def fake_actors(monkeypatch: pytest.MonkeyPatch, marker: Path, fault: str) -> None:
    """Replace workers' trials by arithmetic.

    ``fault`` is "setup" if the first one hangs, "step" if each hangs.
    """
    import ray

    from orca_ray.sweep.executors import trainable

    path_with_a_space(monkeypatch, marker.parent)
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


def test_a_cluster_that_cannot_start_here_is_sought_nowhere_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("orca_ray.process.allowed_memory", lambda: 2**30)
    with pytest.raises(
        UserError,
        match=r": 1\.0 GiB of memory are .*needs 1\.5 GiB .*--executor inline",
    ):
        RayExecutor().open("local")
    late = Exception("The node timed out.")
    closed = OSError(30, "Read-only file system", "/home/me/.ray")
    for error, said in ((late, "The node timed out"), (closed, r".*'/home/me/\.ray'")):
        monkeypatch.setattr(RayExecutor, "_init", Mock(side_effect=error))
        with pytest.raises(
            UserError, match="Ray cannot start on this machine: " + said
        ):
            RayExecutor().open("local")


def run(
    store: ResultsStore, text: str, hang_seconds: float, events: list[Event]
) -> Summary:
    """Run a sweep of fake actors on a Ray cluster of its own."""
    controller = new_controller(store, text=text, listener=events.append)
    limits = TimeLimits(heartbeat=hang_seconds)
    with RayExecutor() as engine:
        engine.open("local")
        settings = WorkerSettings(store.uri, time=limits)
        engine.run(controller, settings, ExecutorOptions(limits))
    return controller.summary()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.usefixtures("one_cpu", "own_home")
def test_a_joined_cluster_whose_workers_do_not_start_is_lost(
    store: ResultsStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import ray

    path_with_a_space(monkeypatch, tmp_path)
    monkeypatch.setattr("shlex.quote", str)  # what lets workers start there
    monkeypatch.setattr("orca_ray.sweep.worker.ray_stager.NOTICE_SECONDS", 1.0)
    events: list[Event] = []
    spec = tiny_spec(session.folder())
    limits = ExecutorOptions(TimeLimits(heartbeat=6.0))
    with RayExecutor() as engine:
        engine.open("local")
        address = ray.get_runtime_context().gcs_address
        with pytest.raises(
            ClusterLostError,
            match=r"no worker .* in 0\.1 minutes: Ray cluster at .*, 1 CPUs free",
        ):
            run_sweep(
                spec,
                store,
                executor=RayExecutor(),
                address=address,
                listener=events.append,
                options=limits,
            )
    [text] = [
        each.text
        for each in events
        if isinstance(each, Message) and "waiting up to 0.1 minutes" in each.text
    ]
    assert Path(text.split()[-1]).name == "logs"


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.usefixtures("one_cpu", "empty_home")
def test_a_worker_that_hangs_before_its_first_report_is_killed_and_its_trial_runs_again(
    store: ResultsStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One that hangs later is a fault in ``tests/cluster/test_fault_runs.py``."""
    fake_actors(monkeypatch, tmp_path / "marker", "setup")
    events: list[Event] = []
    summary = run(store, TEXT, 3.0, events)
    assert summary.statuses[Status.COMPLETED] == summary.planned == 12
    assert any(
        isinstance(event, Message) and "lost (" in event.text for event in events
    )


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.usefixtures("one_cpu", "empty_home")
def test_a_worker_that_the_memory_monitor_kills_is_out_of_memory(
    store: ResultsStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(
        "RAY_memory_usage_threshold", "0.01"
    )  # Ray kills every worker, whatever it uses
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "250")
    fake_actors(monkeypatch, tmp_path / "marker", "step")
    text = (
        TEXT.replace("[1, 2, 3]", "[1]")
        .replace("[nft, orca]", "[nft]")
        .replace("pocket/digits, ", "")
    )
    (record,) = run(store, text, 1800.0, []).failed
    assert (record.status, record.attempts) == (Status.FAILED_OOM, 4)
    assert "memory" in (record.error or "")
