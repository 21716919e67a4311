"""Faults on a real Ray cluster: a worker hangs, or is killed by Ray's memory monitor."""

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from orca_ray.results.record import Status
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.executors.base import ExecutorOptions
from orca_ray.sweep.executors.liveness import TimeLimits
from orca_ray.sweep.run.events import Event, Message, Summary
from orca_ray.sweep.run.messages import WorkerSettings
from tests.sweep import fakes
from tests.sweep.fakes import new_controller

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.exhaustive]

TEXT = fakes.TEXT.replace("search_trials: 4, confirm_seeds: [1, 2]", "search_trials: 0, confirm_seeds: [1, 2, 3]")


def fake_actors(monkeypatch: pytest.MonkeyPatch, fault: str, where: str = "step") -> None:
    """Replace the trials of workers by arithmetic. The method ``fault`` of the actor runs before each step or setup."""
    import ray

    from orca_ray.sweep.executors import trainable

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

    def make_trainable(name: str, settings: WorkerSettings) -> Any:
        return type(name, (FakeActor,), {"settings": settings})

    monkeypatch.setattr(trainable, "make_trainable", make_trainable)


@pytest.fixture(autouse=True)
def one_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCA_RAY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ORCA_TEST_MARKER", str(tmp_path / "marker"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})


def run(store: ResultsStore, text: str, hang_seconds: float, events: list[Event]) -> Summary:
    """Run a sweep of fake actors on a Ray cluster of its own."""
    from orca_ray.sweep.executors.ray import RayExecutor

    controller, limits = new_controller(store, text=text, listener=events.append), TimeLimits(heartbeat=hang_seconds)
    with RayExecutor() as engine:
        engine.open("local")
        settings = WorkerSettings(store.uri, time=limits)
        engine.run(controller, settings, ExecutorOptions(limits))
    return controller.summary()


@pytest.mark.parametrize(("where", "expected"), [("step", "the worker hangs"), ("setup", "lost (")])
def test_a_hung_worker_is_killed_and_its_trial_runs_again(
    store: ResultsStore, monkeypatch: pytest.MonkeyPatch, where: str, expected: str
) -> None:
    fake_actors(monkeypatch, "hang_once", where)
    events: list[Event] = []
    summary = run(store, TEXT, 3.0, events)
    assert summary.statuses[Status.COMPLETED] == summary.planned == 12
    assert any(isinstance(event, Message) and expected in event.text for event in events)


def test_a_worker_that_the_memory_monitor_kills_is_out_of_memory(
    store: ResultsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.01")  # Ray kills every worker, whatever it uses
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "250")
    fake_actors(monkeypatch, "wait")
    text = TEXT.replace("[1, 2, 3]", "[1]").replace("[nft, orca]", "[nft]").replace("pocket/digits, ", "")
    (record,) = run(store, text, 1800.0, []).failed
    assert (record.status, record.attempts) == (Status.FAILED_OOM, 4)
    assert "memory" in (record.error or "")
