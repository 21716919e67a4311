"""Trackers: the same sweep in each, by its own library without a network; and one that fails disturbs nothing."""

import json
import logging
import os
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from orca_ray.errors import UserError
from orca_ray.methods.reports import EpochProgress
from orca_ray.results.record import Record
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.plan.spec import Overrides
from orca_ray.sweep.run import events
from orca_ray.sweep.trackers import base as tracking
from orca_ray.sweep.trackers.base import Run, Tracker, TrackerKind, Tracking, all_trackers, open_tracker
from orca_ray.sweep.trackers.mlflow import MLflowTracker
from tests.sweep.fakes import new_controller, play, take

Shown = dict[str, "ShownRun"]


@dataclass
class ShownRun:
    """What a tracker shows of a run, read back from its files."""

    tags: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    curves: dict[str, dict[int, float]] = field(default_factory=dict)
    final: dict[str, float] = field(default_factory=dict)
    status: str = ""

    def point(self, name: str, step: int, value: float) -> None:
        self.curves.setdefault(name, {})[step] = value


def sweep(store: Path, option: str, most: int | None = None) -> list[Record]:
    """Play a sweep of one task and one method, with a trial of which two epochs are reported before it is killed."""
    chosen = Overrides(tasks=("pocket/digits",), methods=("nft",))
    with Tracking([option]) as listener:
        controller = new_controller(ResultsStore(store, create=True), overrides=chosen, listener=listener)
        listener(events.SweepStarted(controller.sweep, "here", controller.searches.rows()))
        play(controller, most)
        if most is not None:
            trial = take(controller)
            controller.started(trial.key)
            points = [EpochProgress(stage="refine", epoch=epoch, epochs=6, validation_score=9.0) for epoch in (1, 2)]
            controller.report(trial.key, points)
    return list(ResultsStore(store).load(controller.sweep).values())


def of_tensorboard(place: Path) -> Shown:
    from tensorboardX.proto.event_pb2 import Event

    shown: Shown = {}
    for path in sorted(place.rglob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime_ns):
        assert path.parent.parent == place / "fake/full/pocket/digits/nft"
        run = shown.setdefault(path.parent.name, ShownRun())
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event, data = Event.FromString(data[12 : 12 + length]), data[16 + length :]
            if event.HasField("session_log") and event.session_log.status == 1:  # START: drops what has these steps
                run.curves = {name: {s: v for s, v in c.items() if s < event.step} for name, c in run.curves.items()}
            for value in event.summary.value:
                _tensorboard_value(run, event.step, value)
    return shown


def _tensorboard_value(run: ShownRun, step: int, value: Any) -> None:
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

    plugin = value.metadata.plugin_data
    if plugin.plugin_name == "hparams":
        found = HParamsPluginData.FromString(plugin.content).session_start_info.hparams
        run.settings.update({name: str(each.string_value or each.number_value) for name, each in found.items()})
        run.tags = {name: run.settings[name] for name in ("task", "method", "phase", "seed") if name in run.settings}
        run.status = run.settings.get("status", "")
    elif value.tag.startswith("final/"):
        run.final[value.tag.removeprefix("final/")] = value.simple_value
    elif value.HasField("simple_value"):
        run.point(value.tag, step, value.simple_value)


def of_mlflow(place: Path) -> Shown:
    from mlflow import MlflowClient

    uri = place.as_uri() if place.is_dir() else f"sqlite:///{place}"
    client = MlflowClient(uri)
    shown: Shown = {}
    experiment = client.get_experiment_by_name("fake/full")
    for found in client.search_runs([experiment.experiment_id]):
        tags = dict(found.data.tags)
        run = shown.setdefault(tags["orca_ray.trial_key"], ShownRun())
        run.tags = {name: tags[name] for name in ("task", "method", "phase", "seed")}
        run.settings, run.status = dict(found.data.params), tags.get("status", "")
        assert (found.info.status == "KILLED") == (not run.status)
        for name, value in found.data.metrics.items():
            if "/" not in name:
                run.final[name] = value
                continue
            for point in client.get_metric_history(found.info.run_id, name):
                run.point(name, point.step, point.value)
    return shown


def of_wandb(place: Path) -> Shown:
    from wandb.proto.wandb_internal_pb2 import Record as Entry

    shown: Shown = {}
    for path in sorted(place.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime_ns):
        run = shown.setdefault(path.stem.removeprefix("run-"), ShownRun())
        for data in leveldb_entries(path.read_bytes()):
            _wandb_entry(run, Entry.FromString(data))
    return shown


def leveldb_entries(data: bytes) -> Iterator[bytes]:
    """Yield the entries of a log in LevelDB's format, whose first block starts with a header of 7 bytes."""
    at, parts = 7, b""
    while at < len(data):
        if 32768 - at % 32768 < 7:  # the end of a block is filled with zeros
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole entry, or the last part of one
            yield parts
            parts = b""


def _wandb_entry(run: ShownRun, entry: Any) -> None:
    values = {"/".join([*item.nested_key]) or item.key: json.loads(item.value_json) for item in entry.history.item}
    for stage in {name.partition("/")[0] for name in values if name.endswith("/epoch")}:
        for name, value in values.items():
            if name.startswith(f"{stage}/") and not name.endswith("/epoch"):
                run.point(name, int(values[f"{stage}/epoch"]), value)
    if entry.HasField("run"):
        assert (entry.run.project, entry.run.run_group) == ("mine", "fake/full")
        run.tags = dict(tag.split(": ") for tag in entry.run.tags)
        run.settings = {item.key: str(json.loads(item.value_json)) for item in entry.run.config.update}
    for item in entry.summary.update:
        value = json.loads(item.value_json)
        if item.key == "status":
            run.status = value
        elif isinstance(value, float | int):
            run.final[item.key] = value


CASES: dict[str, tuple[str, str, Callable[[Path], Shown]]] = {
    "tensorboard": ("tensorboardX", "tensorboard:{place}", of_tensorboard),
    "mlflow in a directory": ("mlflow", "mlflow:{place}", of_mlflow),
    "mlflow in a database": ("mlflow", "mlflow:sqlite:///{place}", of_mlflow),
    "wandb": ("wandb", "wandb:mine", of_wandb),
}
"""Module of a tracker, its option, and how to read what it wrote."""


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No tracker may connect to a server, or read what this machine's user has set up."""
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
            sys.modules["wandb"].teardown()  # its process has the environment of the test that started it
        proxy.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody has connected
            proxy.accept()
    assert [each for each in threading.enumerate() if each.name.startswith("track-")] == []


def test_runs_that_are_open_at_the_end_are_killed_in_mlflow(tmp_path: Path) -> None:
    tracker = MLflowTracker(f"sqlite:///{tmp_path}/mlflow.db")
    tracker._client, tracker._open = Mock(), {"key": "identity"}
    tracker.close()
    tracker._client.set_terminated.assert_called_once_with("identity", "KILLED")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["tensorboard", *(pytest.param(name, marks=pytest.mark.exhaustive) for name in list(CASES)[1:])]
)
def test_an_interrupted_sweep_is_shown_as_one_run_per_trial(name: str, tmp_path: Path) -> None:
    (module, target, read), place = CASES[name], tmp_path / "shown"
    pytest.importorskip(module)
    if name == "mlflow in a database":
        pytest.importorskip("sqlalchemy")
    else:
        place.mkdir()
    option = target.format(place=place)
    assert len(sweep(tmp_path / "store", option, most=2)) == 2
    assert sorted(run.status for run in read(place).values()) == ["", "completed", "completed"]
    records = {record.trial_key: record for record in sweep(tmp_path / "store", option)}
    assert len(records) == 6

    shown = read(place)
    assert shown.keys() == records.keys()
    for key, record in records.items():
        agree(shown[key], record)


def agree(run: ShownRun, record: Record) -> None:
    assert run.tags == {name: str(getattr(record, name)) for name in ("task", "method", "phase", "seed")}
    assert run.status == record.status.value
    wanted = json.loads(record.hyperparameters)
    assert wanted.keys() <= run.settings.keys()
    assert float(run.settings["refine.learning_rate"]) == pytest.approx(wanted["refine.learning_rate"])
    curve = run.curves["refine/validation_score"]
    assert list(curve) == list(range(1, record.epochs + 1))
    assert min(curve.values()) == run.final["validation_score"] == pytest.approx(record.validation_score)
    assert run.curves["refine/learning_rate"][1] == pytest.approx(1e-3)
    assert run.curves["refine/loss"][1] == 1.0
    assert run.final["epochs"] == record.epochs
    assert ("test_score" in run.final) == (record.test_score is not None)
    assert run.final.get("test_score", 0.0) == pytest.approx(record.test_score or 0.0)


class Broken(Tracker):
    """Fails when a run starts, as one whose server cannot be reached."""

    def start(self, run: Run) -> None:
        raise ConnectionError("cannot reach https://me:secret@tracker.example\nsecond line")

    def log(self, key: str, progress: EpochProgress) -> None:
        raise AssertionError("called after a failure")

    finish = log  # type: ignore[assignment]

    def close(self) -> None:
        raise OSError("also broken")


class Slow(Broken):
    """Waits for ever."""

    def start(self, run: Run) -> None:
        RELEASE.wait()


RELEASE = threading.Event()


@pytest.fixture
def kinds(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    RELEASE.clear()
    made = {name: TrackerKind(name, "PLACE", "json", lambda target, kind=kind: kind()) for name, kind in (  # type: ignore[misc]
        ("broken", Broken), ("slow", Slow))}  # fmt: skip
    monkeypatch.setattr(tracking, "all_trackers", lambda: made)
    monkeypatch.setattr(tracking, "CLOSE_SECONDS", 0.2)
    yield
    RELEASE.set()
    for thread in threading.enumerate():
        if thread.name.startswith("track-"):
            thread.join(10)


@pytest.mark.parametrize(
    ("option", "expected"),
    [("broken", "ConnectionError: cannot reach https://tracker.example"), ("slow", "made no progress")],
)
def test_a_tracker_that_fails_warns_once_and_disturbs_nothing(
    option: str, expected: str, kinds: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        records = sweep(tmp_path / "store", option)
    assert len(records) == 6
    [warning] = [entry.getMessage() for entry in caplog.records]
    assert expected in warning
    assert "secret" not in warning
    assert "second line" not in warning


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("tensorbord", "unknown tracker 'tensorbord'. Did you mean 'tensorboard'?"),
        ("tensorboard:", "names no DIR: give tensorboard:DIR, or tensorboard alone"),
        ("tensorboard:a-file", "is a file"),
        ("absent", "needs the package no_such_package: pip install 'orca-ray[absent]'"),
    ],
)
def test_a_bad_option_is_a_user_error(option: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a-file").touch()
    absent = TrackerKind("absent", "PLACE", "no_such_package", lambda target: Broken())
    known = {**all_trackers(), "absent": absent}
    monkeypatch.setattr(tracking, "all_trackers", lambda: known)
    with pytest.raises(UserError) as caught:
        open_tracker(option)
    assert expected in str(caught.value)
