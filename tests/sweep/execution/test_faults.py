"""Faults on a real Ray cluster: a worker hangs, a node is bad, the driver loses its raylet or the GCS."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from orca_ray.results.record import Status
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.execution.conductor import Conductor
from orca_ray.sweep.execution.driver import run_sweep
from orca_ray.sweep.execution.events import Event, Message
from orca_ray.sweep.execution.executors.base import RunOptions
from orca_ray.sweep.execution.executors.heartbeats import TimeLimits
from orca_ray.sweep.execution.worker_settings import WorkerSettings, passed_environment
from orca_ray.sweep.planning.loading import load_spec
from tests.sweep import fakes, real
from tests.sweep.fakes import fake_searches, fake_spec
from tests.sweep.real import alive, tiny_text

pytestmark = [pytest.mark.ray, pytest.mark.slow]

TEXT = fakes.TEXT.replace("search_trials: 4, confirm_seeds: [1, 2]", "search_trials: 0, confirm_seeds: [1, 2, 3]")

SLOW = real.TEXT.replace(
    "search_trials: 3, confirm_seeds: [1, 2]", "search_trials: 0, confirm_seeds: [1, 2, 3, 4, 5, 6]"
)
SLOW = SLOW.replace("[orca, nft]", "[nft]").replace("refine.epochs: 3", "refine.epochs: 60")


def fake_actors(monkeypatch: pytest.MonkeyPatch, fault: str, where: str = "step") -> None:
    """Replace the trials of workers by arithmetic. The method ``fault`` of the actor runs before each step or setup."""
    import ray

    from orca_ray.sweep.execution.executors import trainable

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.cloudpickle.register_pickle_by_value(fakes)

    class FakeActor(trainable.TrialActor):
        def setup(self, config: dict[str, Any]) -> None:
            super().setup(config)
            if where == "setup":
                getattr(self, fault)()
            self._reports = fakes.fake_reports(self._runner.trial)

        def step(self) -> dict[str, Any]:
            if where == "step":
                getattr(self, fault)()
            report = next(self._reports)
            return {"report": report.to_json(), "done": report.done, "node": self._node}

        def hang_once(self) -> None:
            marker = Path(os.environ["ORCA_TEST_MARKER"])
            if not marker.exists():
                marker.touch()
                time.sleep(600)

        def wait(self) -> None:
            time.sleep(600)

        def fail_on_the_bad_node(self) -> None:
            if self._node == Path(os.environ["ORCA_TEST_MARKER"]).read_text():
                raise OSError("the disk of this node is broken")
            time.sleep(0.3)

    def make_trainable(name: str, settings: WorkerSettings) -> Any:
        return type(name, (FakeActor,), {"settings": settings})

    monkeypatch.setattr(trainable, "make_trainable", make_trainable)


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ORCA_RAY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ORCA_TEST_MARKER", str(tmp_path / "marker"))
    return tmp_path / "marker"


def settings(conductor_folder: Path, hang_seconds: float = 1800.0) -> WorkerSettings:
    uri, environment = str(conductor_folder / "results"), passed_environment()
    return WorkerSettings(uri, time=TimeLimits(heartbeat=hang_seconds), environment=environment)


def fake_conductor(folder: Path, events: list[Event]) -> Conductor:
    store = ResultsStore(folder / "results", create=True)
    return Conductor(fake_searches(fake_spec(TEXT)), store, executor="ray", listener=events.append)


@pytest.mark.parametrize(("where", "told"), [("step", "the worker hangs"), ("setup", "lost (")])
def test_a_hung_worker_is_killed_and_its_trial_runs_again(
    tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch, where: str, told: str
) -> None:
    from orca_ray.sweep.execution.executors.ray import RayExecutor

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    fake_actors(monkeypatch, "hang_once", where)
    events: list[Event] = []
    conductor = fake_conductor(tmp_path, events)
    with RayExecutor() as engine:
        engine.open("local")
        assert not engine.run(conductor, settings(tmp_path, 3.0), RunOptions(TimeLimits(heartbeat=3.0)))
    summary = conductor.summary()
    assert summary.statuses[Status.COMPLETED] == summary.planned == 12
    assert any(isinstance(event, Message) and told in event.text for event in events)


def test_a_bad_node_is_quarantined(tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.cluster_utils import Cluster

    from orca_ray.sweep.execution.executors.ray import RayExecutor

    fake_actors(monkeypatch, "fail_on_the_bad_node")
    events: list[Event] = []
    conductor = fake_conductor(tmp_path, events)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    bad = cluster.add_node(num_cpus=1)
    marker.write_text(bad.node_id)
    try:
        with RayExecutor() as engine:
            engine.open(cluster.address)
            engine.run(conductor, settings(tmp_path), RunOptions())
    finally:
        cluster.shutdown()
    summary = conductor.summary()
    assert summary.statuses[Status.COMPLETED] == summary.planned
    assert list(conductor.failures.quarantined) == [bad.node_id]
    assert "the disk of this node is broken" in summary.quarantined[0]


def test_a_worker_that_the_memory_monitor_kills_is_out_of_memory(
    tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orca_ray.sweep.execution.executors.ray import RayExecutor

    monkeypatch.setenv("RAY_memory_usage_threshold", "0.01")  # Ray kills every worker, whatever it uses
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "250")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    fake_actors(monkeypatch, "wait")
    spec = fake_spec(TEXT.replace("[1, 2, 3]", "[1]").replace("[nft, orca]", "[nft]").replace("pocket/digits, ", ""))
    store = ResultsStore(tmp_path / "results", create=True)
    conductor = Conductor(fake_searches(spec), store, executor="ray")
    with RayExecutor() as engine:
        engine.open("local")
        engine.run(conductor, settings(tmp_path), RunOptions())
    (record,) = conductor.summary().failed
    assert (record.status, record.attempts) == (Status.FAILED_OOM, 4)
    assert "memory" in (record.error or "")


@pytest.mark.parametrize("service", ["raylet", "gcs_server"])
def test_a_lost_cluster_ends_the_driver_and_the_same_command_continues(tmp_path: Path, service: str) -> None:
    sweep, results = tmp_path / "tiny.yaml", tmp_path / "results"
    sweep.write_text(tiny_text(tmp_path, SLOW))
    code = "import os, sys; os.sched_getaffinity = lambda _: {0}; from orca_ray.cli.main import entry; entry()"
    environment = {**os.environ, "ORCA_RAY_HOME": str(tmp_path / "home")}
    driver = subprocess.Popen(
        [sys.executable, "-c", code, "run", str(sweep), "--results", str(results)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while len(list(results.glob("records/*.parquet"))) < 1:
            assert time.monotonic() < deadline
            assert driver.poll() is None, driver.communicate()[1]
            time.sleep(0.2)
        family = psutil.Process(driver.pid).children(recursive=True)
        next(process for process in family if process.name().startswith(service)).kill()
        begin = time.monotonic()
        _, told = driver.communicate(timeout=60)
        assert time.monotonic() - begin < 30
        assert driver.returncode == 75, told
        assert "does not answer any more" in told
        assert "the same command continues it" in told
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and any(alive(process) for process in family):
            time.sleep(0.5)
        assert not [process for process in family if alive(process)]
    finally:
        driver.kill()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORCA_RAY_HOME", str(tmp_path / "home"))
        summary = run_sweep(load_spec(sweep), str(results), executor="inline")
    assert summary.statuses[Status.COMPLETED] == summary.planned == 6
    assert summary.finished_before >= 1
