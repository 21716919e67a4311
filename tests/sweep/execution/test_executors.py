"""The executors on a real Ray cluster on this machine: the same records, whatever dies in between."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from orca_ray.adapted import load
from orca_ray.errors import UserError
from orca_ray.protocol import KeepModels
from orca_ray.results import requests
from orca_ray.results.lease import Lease
from orca_ray.results.record import Status
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.execution import driver
from orca_ray.sweep.execution.driver import make_executor, run_sweep
from orca_ray.sweep.execution.events import Event, SweepStarted, TrialFinished
from orca_ray.sweep.execution.executors.ray import placement, working_in
from orca_ray.sweep.execution.messages import Assignment
from orca_ray.sweep.execution.models import best_of
from orca_ray.sweep.planning.loading import load_spec
from orca_ray.sweep.planning.searches import Resources
from tests import session
from tests.session import new_home
from tests.sweep.fakes import fake_searches, waiting_requests
from tests.sweep.real import TEXT, alive, tiny_spec, tiny_text


@pytest.fixture(scope="module")
def inline(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Records of the tiny sweep in one process, by trial key; its alignments are its own."""
    store = ResultsStore(tmp_path_factory.mktemp("inline") / "results", create=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORCA_RAY_HOME", str(new_home(tmp_path_factory.mktemp("home"))))
        summary = run_sweep(tiny_spec(session.folder()), store, executor="inline")
    assert summary.planned == summary.ran == 10
    return facts(store)


def facts(store: ResultsStore, sweep: str = "tiny/full") -> dict[str, dict[str, Any]]:
    """Return what is equal in every run of a sweep, by trial key: columns of its record, and its artefacts."""
    artefacts = store.artefacts(sweep=sweep)
    return {
        key: {**record.reproducible(), "artefacts": artefacts[artefacts["trial_key"] == key].to_dict("list")}
        for key, record in store.load(sweep).items()
    }


@pytest.fixture
def one_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Ray start one worker: each costs five seconds of CPU time for its imports."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})


@pytest.mark.ray
@pytest.mark.slow
def test_a_request_stops_ray_and_the_sweep_goes_on(
    inline: dict[str, dict[str, Any]],
    ray_cluster: session.RayCluster,
    own_home: Path,
    store: ResultsStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = tiny_spec(session.folder())

    def ask(event: Event) -> None:
        if isinstance(event, TrialFinished) and not waiting_requests(store, spec.sweep_id):
            requests.write(store.folder, spec.sweep_id, requests.Request("stop"))
            time.sleep(1)  # until the thread of the lease has read it

    monkeypatch.setattr(driver, "Lease", partial(Lease, renew_seconds=0.2))
    summary = run_sweep(spec, store, address=ray_cluster.address, listener=ask, checkpoint_seconds=0.0)
    assert summary.interrupted
    assert 0 < summary.ran < 10
    again = run_sweep(spec, store, executor="inline")
    assert again.ran == 10 - summary.ran
    assert facts(store) == inline


@pytest.mark.ray
@pytest.mark.slow
def test_ray_gives_the_same_records_although_a_worker_is_lost(
    inline: dict[str, dict[str, Any]], one_cpu: None, own_home: Path, store: ResultsStore
) -> None:
    """The killed worker is replaced, and its trial goes on."""
    killed: list[int] = []
    events: list[Event] = []

    def kill_a_worker(event: Event) -> None:
        events.append(event)
        if type(event).__name__ == "TrialProgress" and not killed:
            busy = [p for p in psutil.Process().children(recursive=True) if "orca_" in title(p) and alive(p)]
            if busy:
                killed.append(busy[0].pid)
                busy[0].kill()

    spec = tiny_spec(session.folder())
    summary = run_sweep(
        spec, store, executor="ray", listener=kill_a_worker, checkpoint_seconds=0.0, keep_models=KeepModels.BEST
    )
    assert killed, "no worker was found to kill"
    assert not summary.interrupted
    assert not summary.failed
    assert facts(store) == inline
    assert max(record.attempts for record in store.load("tiny/full").values()) == 2
    assert any(isinstance(event, SweepStarted) and "local Ray cluster" in event.where for event in events)
    assert run_sweep(spec, store, executor="inline").up_to_date
    confirmed = store.select({"phase": ["confirm"]})
    assert summary.models.keys() == {record["task"] for record in inline.values()}
    for task, folder in summary.models.items():  # workers wrote them
        best = best_of([record for record in confirmed if record.task == task])
        assert best is not None
        assert load(folder, device="cpu").config.trial == Path(folder).name == best.trial_key
    assert not (Path(store.uri) / "checkpoints").exists()
    assert all(not child.name().startswith("raylet") for child in psutil.Process().children(recursive=True))


DRIVER = """
import sys, time
from pathlib import Path
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.execution.driver import run_sweep
from orca_ray.sweep.planning.loading import load_spec

finished = 0

def tell(event):
    global finished
    print(type(event).__name__, flush=True)
    finished += type(event).__name__ == "TrialFinished"
    if type(event).__name__ == "TrialProgress":
        time.sleep(0.1 if finished < 2 else 0.5)  # or the sweep ends before the test interrupts it

summary = run_sweep(load_spec(sys.argv[1]), ResultsStore(sys.argv[2], create=True), executor="inline",
                    listener=tell, checkpoint_seconds=0.0)
print("INTERRUPTED" if summary.interrupted else "DONE", summary.ran, flush=True)
"""


class Driver:
    """A sweep in a process of its own, to be killed."""

    def __init__(self, sweep: Path, results: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(sweep), str(results)],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        self._lines: Iterator[str] = iter(self.process.stdout)

    def wait_for(self, word: str, count: int) -> None:
        for line in self._lines:
            count -= line.startswith(word)
            if count == 0:
                return
        raise AssertionError(f"the driver ended before {word}")

    def end(self) -> str:
        last = ""
        for line in self._lines:
            last = line
        self.process.wait()
        return last.strip()


@pytest.fixture
def sweep_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(tiny_text(session.folder()))
    return path


@pytest.mark.slow
def test_sigkill_then_ctrl_c_then_the_same_sweep_again(
    inline: dict[str, dict[str, Any]], tmp_path: Path, sweep_file: Path
) -> None:
    """Finished trials never run again, interrupted ones resume, and the records are those of an undisturbed sweep.

    ``tests/cluster/test_fault_runs.py`` does the same to drivers with a Ray cluster.
    """
    first = Driver(sweep_file, tmp_path / "results")
    first.wait_for("TrialFinished", 3)
    first.wait_for("TrialProgress", 2)
    first.process.kill()
    first.end()
    store = ResultsStore(tmp_path / "results")
    kept = store.load("tiny/full")
    assert 1 <= len(kept) < 10  # records of the last two seconds may wait: outcome files bring them back
    second = Driver(sweep_file, tmp_path / "results")
    second.wait_for("TrialFinished", 2)
    second.wait_for("TrialProgress", 2)
    os.kill(second.process.pid, signal.SIGINT)
    assert second.end().startswith("INTERRUPTED")
    ran = len(store.load("tiny/full"))
    assert len(kept) + 2 <= ran <= 10
    assert run_sweep(load_spec(sweep_file), store, executor="inline").ran == 10 - ran
    assert facts(store) == inline
    rows = store.records(sweep="tiny/full")
    assert len(rows) == rows["trial_key"].nunique() == 10
    for key, record in kept.items():
        assert store.load("tiny/full")[key].finished_at == record.finished_at, "a finished trial ran again"


def title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.exhaustive
def test_an_error_of_the_driver_ends_the_sweep_and_is_told(
    one_cpu: None, own_home: Path, store: ResultsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise UserError("no space left on the disk")

    monkeypatch.setattr(store, "append", full)
    with pytest.raises(UserError, match="no space left"):
        run_sweep(tiny_spec(session.folder()), store)


@pytest.mark.slow
def test_failed_trials_do_not_stop_the_others(own_home: Path, store: ResultsStore) -> None:
    text = TEXT.replace("refine.dropout: 0.1", "refine.dropout: 0.1\n  refine.clip: 0.0").replace(
        "budgets:", "per_method:\n  nft: {settings: {refine.learning_rate: 1e+30}, space: {}}\nbudgets:"
    )
    text = text.replace("space: {refine.learning_rate: {log_uniform: [1e-5, 1e-2]}}", "space: {}")
    spec = tiny_spec(session.folder(), text)
    summary = run_sweep(spec, store, executor="inline")
    assert summary.statuses[Status.FAILED_NAN] >= 1
    assert summary.statuses[Status.COMPLETED] >= 3
    assert summary.unfinished == ("pocket/wdbc nft: every search trial failed",)


def test_resources_of_a_trial_become_a_placement_group() -> None:
    trial = replace(next(iter(fake_searches())).trial({}, 1, "confirm"), resources=Resources(2.0, 0.25, 1.5))
    order = Assignment(trial=trial)
    group = placement({"assignment": order.to_json()})
    assert group.bundles == [{"CPU": 2.0, "GPU": 0.25, "memory": 1.5 * 2**30}]


def test_a_trial_that_fits_nowhere_is_refused_before_it_waits(store: ResultsStore) -> None:
    spec = tiny_spec(session.folder(), TEXT + "resources: {cpus: 9999}\n")
    with pytest.raises(UserError, match="more than any node has"):
        run_sweep(spec, store, executor="inline")


@pytest.mark.ray
def test_unreachable_clusters_and_misspelt_executors() -> None:
    with (
        pytest.raises(UserError, match=r"cannot reach a Ray cluster at '127\.0\.0\.1:1'"),
        make_executor("ray") as engine,
    ):
        engine.open("127.0.0.1:1")
    with pytest.raises(UserError, match="Did you mean 'inline'"):
        make_executor("inlin")


def test_the_driver_outlives_its_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = tmp_path / "job"
    job.mkdir()
    monkeypatch.chdir(job)
    with working_in(str(tmp_path)):
        job.rmdir()
        assert Path.cwd() == tmp_path
    with pytest.raises(FileNotFoundError):
        Path.cwd()  # back where it was, and nothing was raised on the way
