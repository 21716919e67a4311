"""A node that joins a Ray cluster while a sweep runs stages its data outside of its trials' time limit."""

import os
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orca_ray.results.record import Status
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.execution.conductor import Conductor
from orca_ray.sweep.execution.events import Event, TrialFinished
from orca_ray.sweep.execution.executors.base import RunOptions
from orca_ray.sweep.execution.executors.heartbeats import TimeLimits
from orca_ray.sweep.execution.messages import TrialReport, Worker
from orca_ray.sweep.execution.worker_settings import WorkerSettings, passed_environment
from orca_ray.sweep.planning.searches import TrialSpec
from tests.cluster.processes import running
from tests.sweep import fakes
from tests.sweep.fakes import fake_searches, fake_spec

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.exhaustive]

SEEDS = list(range(1, 6))
TEXT = fakes.TEXT.replace("search_trials: 4, confirm_seeds: [1, 2]", f"search_trials: 0, confirm_seeds: {SEEDS}")
LIMIT_SECONDS, STAGING_SECONDS, EPOCH_SECONDS = 8.0, 10.0, 0.1


class FakeRunner:
    """Stands in for `TrialRunner`: staging takes long on the late node, and scores are arithmetic.

    In the directory ``staging``, a node has a file when it begins, and another one when it has staged.
    """

    def __init__(self, trial: TrialSpec, store: str, node: str) -> None:
        self.trial, self._reports, self._node = trial, fakes.fake_reports(trial), node
        self._folder = Path(store).parent / "staging"
        self._staged = self._folder / f"{node}.staged"

    def stage(self) -> TrialReport:
        first, _ = self._nodes()
        while self._node == first and not self._nodes()[1]:
            # Else Tune would give actors of this node to the trials whose own actors start on the late one.
            time.sleep(0.1)
        if not self._staged.exists():
            self._folder.mkdir(exist_ok=True)
            self._staged.with_suffix(".begun").touch()
            time.sleep(STAGING_SECONDS if first else 0)
            self._staged.touch()
        return TrialReport(worker=Worker(node=self._node))

    def step(self) -> TrialReport:
        time.sleep(EPOCH_SECONDS)
        return replace(next(self._reports), worker=Worker(node=self._node))

    def _nodes(self) -> tuple[str, str]:
        """Return the first and the late node; empty before they have begun."""
        begun = sorted(self._folder.glob("*.begun"), key=lambda path: path.stat().st_mtime_ns)
        first, late = [*(path.stem for path in begun), "", ""][:2]
        return first, late

    def close(self) -> None:
        pass

    def interrupt(self) -> None:
        pass


def test_the_first_trial_of_a_late_node_has_its_whole_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray
    from ray.cluster_utils import Cluster

    from orca_ray.sweep.execution.executors import trainable
    from orca_ray.sweep.execution.executors.ray import RayExecutor

    monkeypatch.setenv("ORCA_RAY_HOME", str(tmp_path / "home"))
    for module in (sys.modules[__name__], fakes):
        ray.cloudpickle.register_pickle_by_value(module)

    class FakeActor(trainable.TrialActor):
        def setup(self, config: dict[str, Any]) -> None:
            super().setup(config)
            self._runner: Any = FakeRunner(self._runner.trial, self.settings.store, self._node)

    def make_trainable(name: str, settings: WorkerSettings) -> type[FakeActor]:
        return type(name, (FakeActor,), {"settings": settings})

    monkeypatch.setattr(trainable, "make_trainable", make_trainable)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    join = [
        str(Path(sys.executable).parent / "ray"),
        "start",
        "--block",
        f"--address={cluster.address}",
        "--num-cpus=1",
    ]
    finished: list[float] = []

    def listen(event: Event) -> None:
        if isinstance(event, TrialFinished):
            finished.append(time.time())
            if len(finished) == 1:
                nodes.enter_context(running(join, dict(os.environ), tmp_path / "log"))

    store = ResultsStore(tmp_path / "results", create=True)
    conductor = Conductor(fake_searches(fake_spec(TEXT)), store, executor="ray", listener=listen)
    settings = WorkerSettings(store.uri, time=TimeLimits(heartbeat=8.0), environment=passed_environment())
    with ExitStack() as nodes, RayExecutor() as engine:
        nodes.callback(cluster.shutdown)
        engine.open(cluster.address)
        assert not engine.run(conductor, settings, RunOptions(TimeLimits(trial=LIMIT_SECONDS)))
    conductor.close()
    _, late = sorted((tmp_path / "staging").glob("*.staged"), key=lambda path: path.stat().st_mtime)
    staged = late.stat().st_mtime
    records = store.load("fake/full").values()
    assert {(r.status, r.attempts) for r in records if r.node == late.stem} == {(Status.COMPLETED, 1)}
    assert [at for at in finished if staged - STAGING_SECONDS < at < staged], "trials of staged tasks run meanwhile"
