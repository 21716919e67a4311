"""MLflow and Weights & Biases, by their own libraries and without a network."""

import json
import os
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from orca_ray.errors import UserError
from orca_ray.methods.options import Scalar
from orca_ray.methods.reports import EpochProgress
from orca_ray.results.record import Record, Status
from orca_ray.sweep.run import events
from orca_ray.sweep.trackers.base import Tracking, open_tracker
from orca_ray.sweep.trackers.mlflow import MLflowTracker
from tests.sweep.trackers.shown import Shown, ShownRun

SETTINGS: dict[str, Scalar] = {
    "refine.learning_rate": 1e-3,
    "refine.optimizer": "adamw",
}
NOW = datetime(2026, 1, 1, tzinfo=UTC)
RECORD = Record(
    trial_key="0123456789abcdef",
    sweep="fake/full",
    benchmark="pocket",
    task="pocket/digits",
    method="nft",
    body="vit-s14",
    phase="confirm",
    protocol="held-out",
    seed=1,
    hyperparameters=json.dumps(SETTINGS),
    data_fingerprint="f",
    metric="error",
    status=Status.COMPLETED,
    validation_score=0.25,
    test_score=0.5,
    best_epoch=4,
    epochs=4,
    distance_before=None,
    distance_after=None,
    num_parameters=9,
    num_trainable=3,
    wall_seconds=2.0,
    align_seconds=0.0,
    refine_seconds=1.0,
    evaluate_seconds=1.0,
    peak_memory_mib=None,
    executor="inline",
    node="here",
    device="cpu",
    started_at=NOW,
    finished_at=NOW,
    attempts=2,
    error=None,
    version="0",
    torch_version="0",
)


def send_events(option: str, epochs: int, *, ends: bool) -> None:
    """Send the events of an attempt at the trial of `RECORD`, which may not end."""
    about = RECORD.trial_key, RECORD.task, RECORD.method
    with Tracking([option]) as listener:
        listener(events.SweepStarted(RECORD.sweep, "here", ()))
        listener(events.TrialStarted(*about, RECORD.phase, RECORD.seed, SETTINGS))
        for epoch in range(1, epochs + 1):
            point = EpochProgress(
                stage="refine",
                epoch=epoch,
                epochs=4,
                loss=2.0 / epoch,
                validation_score=1.0 / epoch,
                seconds=1.0,
            )
            listener(events.TrialProgress(*about, point))
        if ends:
            listener(events.TrialFinished(RECORD, 0))


def read_mlflow(place: Path) -> Shown:
    """Read the runs of a directory or a database of MLflow."""
    from mlflow import MlflowClient

    uri = place.as_uri() if place.is_dir() else f"sqlite:///{place}"
    client = MlflowClient(uri)
    shown: Shown = {}
    experiment = client.get_experiment_by_name("fake/full")
    for mlflow_run in client.search_runs([experiment.experiment_id]):
        tags = dict(mlflow_run.data.tags)
        run = shown.setdefault(tags["orca_ray.trial_key"], ShownRun())
        run.tags = {name: tags[name] for name in ("task", "method", "phase", "seed")}
        run.settings = dict(mlflow_run.data.params)
        run.status = tags.get("status", "")
        assert (mlflow_run.info.status == "KILLED") == (not run.status)
        for name, value in mlflow_run.data.metrics.items():
            if "/" not in name:
                run.final[name] = value
                continue
            for point in client.get_metric_history(mlflow_run.info.run_id, name):
                run.add_point(name, point.step, point.value)
    return shown


def read_wandb(place: Path) -> Shown:
    """Read the runs of a directory of Weights & Biases."""
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record as Entry

    # A process writes the files; it has written all of them when it has ended.
    wandb.teardown()

    shown: Shown = {}
    logs = place.glob("wandb/offline-run-*/run-*.wandb")
    for path in sorted(logs, key=lambda path: path.stat().st_mtime_ns):
        run = shown.setdefault(path.stem.removeprefix("run-"), ShownRun())
        for data in read_leveldb(path.read_bytes()):
            add_wandb_entry(run, Entry.FromString(data))
    return shown


def read_leveldb(data: bytes) -> Iterator[bytes]:
    """Yield the entries of a log in LevelDB's format, after its header of 7 bytes.

    A block ends with zeros where no header of 7 bytes fits.
    """
    position = 7
    entry = b""
    while position < len(data):
        left_in_block = 32768 - position % 32768
        if left_in_block < 7:
            position += left_in_block
            continue
        length, kind = struct.unpack("<HB", data[position + 4 : position + 7])
        position += 7
        entry += data[position : position + length]
        position += length
        if kind in (1, 4):  # a whole entry, or the last part of one
            yield entry
            entry = b""


def add_wandb_entry(run: ShownRun, entry: Any) -> None:
    add_wandb_history(run, entry)
    if entry.HasField("run"):
        assert entry.run.project == "mine"
        assert entry.run.run_group == "fake/full"
        run.tags = dict(tag.split(": ") for tag in entry.run.tags)
        run.settings = {
            item.key: str(json.loads(item.value_json))
            for item in entry.run.config.update
        }
    for item in entry.summary.update:
        value = json.loads(item.value_json)
        if item.key == "status":
            run.status = value
        elif isinstance(value, float | int):
            run.final[item.key] = value


def add_wandb_history(run: ShownRun, entry: Any) -> None:
    """Add the points of an epoch; their step is the value ``STAGE/epoch``."""
    values = {}
    for item in entry.history.item:
        name = "/".join(item.nested_key) if item.nested_key else item.key
        values[name] = json.loads(item.value_json)
    for name, value in values.items():
        stage, _, quantity = name.partition("/")
        if quantity and quantity != "epoch":
            run.add_point(name, int(values[f"{stage}/epoch"]), value)


CASES: dict[str, tuple[str, Callable[[Path], Shown]]] = {
    "mlflow in a directory": ("mlflow:{place}", read_mlflow),
    "mlflow in a database": ("mlflow:sqlite:///{place}", read_mlflow),
    "wandb": ("wandb:mine", read_wandb),
}
"""Option of a tracker, and how to read what it wrote."""


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No tracker may reach a server, or read what this machine's user has set up."""
    for name in [*os.environ]:
        if name.startswith(("WANDB_", "MLFLOW_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "shown"))
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        yield
        if "wandb" in sys.modules:
            # Its process has the environment of the test that started it.
            sys.modules["wandb"].teardown()
        proxy.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody has connected
            proxy.accept()
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith("track-")]


def test_runs_that_are_open_at_the_end_are_killed_in_mlflow(tmp_path: Path) -> None:
    tracker = MLflowTracker(f"sqlite:///{tmp_path}/mlflow.db")
    tracker._client = Mock()
    tracker._run_ids = {"key": "identity"}
    tracker.close()
    tracker._client.set_terminated.assert_called_once_with("identity", "KILLED")


@pytest.mark.parametrize("name", CASES)
def test_an_interrupted_trial_is_shown_as_one_run(name: str, tmp_path: Path) -> None:
    target, read = CASES[name]
    place = tmp_path / "shown"
    if name == "mlflow in a database":
        pytest.importorskip("sqlalchemy")
        place = place.with_suffix(".db")
    else:
        place.mkdir()
    option = target.format(place=place)
    send_events(option, 2, ends=False)
    [run] = read(place).values()
    assert run.status == ""
    assert list(run.curves["refine/validation_score"]) == [1, 2]
    send_events(option, 4, ends=True)
    [(key, run)] = read(place).items()
    assert key == RECORD.trial_key
    assert run.status == "completed"
    assert run.tags == {
        "task": "pocket/digits",
        "method": "nft",
        "phase": "confirm",
        "seed": "1",
    }
    for setting, value in SETTINGS.items():
        assert run.settings[setting] == str(value)
    scores = {1: 1.0, 2: 1 / 2, 3: 1 / 3, 4: 1 / 4}
    losses = {1: 2.0, 2: 2 / 2, 3: 2 / 3, 4: 2 / 4}
    assert run.curves["refine/validation_score"] == pytest.approx(scores)
    assert run.curves["refine/loss"] == pytest.approx(losses)
    expected = {"validation_score": 0.25, "test_score": 0.5, "epochs": 4, "attempts": 2}
    assert expected.items() <= run.final.items()


def test_wandb_without_a_key_is_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    monkeypatch.setattr(wandb, "setup", lambda: Mock(settings=Mock(mode="online")))
    monkeypatch.setattr(wandb, "login", lambda prompt: False)
    with pytest.raises(UserError, match="no API key on this machine"):
        open_tracker("wandb")
