"""Trackers: a sweep in TensorBoard, and trackers that fail."""

import json
import logging
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orca_ray.errors import UserError
from orca_ray.methods.reports import EpochProgress
from orca_ray.results.record import Record
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.plan.spec import Overrides
from orca_ray.sweep.run import events
from orca_ray.sweep.trackers import base as tracking
from orca_ray.sweep.trackers.base import (
    Run,
    Tracker,
    TrackerKind,
    Tracking,
    all_trackers,
    open_tracker,
)
from tests.sweep.fakes import new_controller, play, take
from tests.sweep.trackers.shown import Shown, ShownRun


def run_tracked(store: Path, option: str, most: int | None = None) -> list[Record]:
    """Run a sweep of one task and one method, and return its records.

    With ``most``, one more trial is killed after its second epoch.
    """
    chosen = Overrides(tasks=("pocket/digits",), methods=("nft",))
    with Tracking([option]) as listener:
        controller = new_controller(
            ResultsStore(store, create=True), overrides=chosen, listener=listener
        )
        listener(
            events.SweepStarted(controller.sweep, "here", controller.searches.rows())
        )
        play(controller, most)
        if most is not None:
            trial = take(controller)
            controller.started(trial.key)
            points = [
                EpochProgress(
                    stage="refine", epoch=epoch, epochs=6, validation_score=9.0
                )
                for epoch in (1, 2)
            ]
            controller.report(trial.key, points)
    return list(ResultsStore(store).load(controller.sweep).values())


START_OF_SESSION = 1
"""Status of a session that begins: it drops what has its step or a later one."""


def read_tensorboard(place: Path) -> Shown:
    """Read the runs in a directory of TensorBoard."""
    shown: Shown = {}
    files = place.rglob("events.out.tfevents.*")
    for path in sorted(files, key=lambda path: path.stat().st_mtime_ns):
        assert path.parent.parent == place / "fake/full/pocket/digits/nft"
        run = shown.setdefault(path.parent.name, ShownRun())
        for event in _read_events(path.read_bytes()):
            if event.session_log.status == START_OF_SESSION:
                _drop_steps(run, event.step)
            for value in event.summary.value:
                _add_value(run, event.step, value)
    return shown


def _read_events(data: bytes) -> Iterator[Any]:
    from tensorboardX.proto.event_pb2 import Event

    while data:
        [length] = struct.unpack("<Q", data[:8])
        yield Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]


def _drop_steps(run: ShownRun, first: int) -> None:
    for name, curve in run.curves.items():
        run.curves[name] = {
            step: value for step, value in curve.items() if step < first
        }


def _add_value(run: ShownRun, step: int, value: Any) -> None:
    if value.metadata.plugin_data.plugin_name == "hparams":
        _add_settings(run, value.metadata.plugin_data.content)
    elif value.tag.startswith("final/"):
        run.final[value.tag.removeprefix("final/")] = value.simple_value
    elif value.HasField("simple_value"):
        run.add_point(value.tag, step, value.simple_value)


def _add_settings(run: ShownRun, content: bytes) -> None:
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

    settings = HParamsPluginData.FromString(content).session_start_info.hparams
    for name, value in settings.items():
        run.settings[name] = str(value.string_value or value.number_value)
    for name in ("task", "method", "phase", "seed"):
        if name in run.settings:
            run.tags[name] = run.settings[name]
    run.status = run.settings.get("status", "")


@pytest.fixture(autouse=True)
def no_thread_is_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith("track-")]


@pytest.mark.slow
def test_an_interrupted_sweep_is_shown_as_one_run_per_trial(tmp_path: Path) -> None:
    place = tmp_path / "shown"
    place.mkdir()
    option = f"tensorboard:{place}"
    store = tmp_path / "store"
    assert len(run_tracked(store, option, most=2)) == 2
    statuses = [run.status for run in read_tensorboard(place).values()]
    assert sorted(statuses) == ["", "completed", "completed"]

    records = {record.trial_key: record for record in run_tracked(store, option)}
    assert len(records) == 6
    shown = read_tensorboard(place)
    assert shown.keys() == records.keys()
    for key, record in records.items():
        assert_agrees(shown[key], record)


def assert_agrees(run: ShownRun, record: Record) -> None:
    """Check that a run shows what its record says."""
    assert run.tags == {
        "task": record.task,
        "method": record.method,
        "phase": record.phase,
        "seed": str(record.seed),
    }
    assert run.status == record.status.value
    settings = json.loads(record.hyperparameters)
    assert settings.keys() <= run.settings.keys()
    rate = float(run.settings["refine.learning_rate"])
    assert rate == pytest.approx(settings["refine.learning_rate"])
    curve = run.curves["refine/validation_score"]
    assert list(curve) == list(range(1, record.epochs + 1))
    assert run.final["validation_score"] == min(curve.values())
    assert min(curve.values()) == pytest.approx(record.validation_score)
    assert run.curves["refine/learning_rate"][1] == pytest.approx(1e-3)
    assert run.curves["refine/loss"][1] == 1.0
    assert run.final["epochs"] == record.epochs
    if record.test_score is None:
        assert "test_score" not in run.final
    else:
        assert run.final["test_score"] == pytest.approx(record.test_score)


class Broken(Tracker):
    """Tracker that fails when a run starts, as if no server could be reached."""

    def start(self, run: Run) -> None:
        raise ConnectionError(
            "cannot reach https://me:secret@tracker.example\nsecond line"
        )

    def log(self, key: str, progress: EpochProgress) -> None:
        raise AssertionError("called after a failure")

    finish = log  # type: ignore[assignment]

    def close(self) -> None:
        raise OSError("also broken")


class Slow(Broken):
    """Tracker that waits until the test has ended."""

    def start(self, run: Run) -> None:
        RELEASE.wait()


RELEASE = threading.Event()


@pytest.fixture
def kinds(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Replace the trackers by one that fails and one that waits."""
    RELEASE.clear()
    replaced = {
        "broken": TrackerKind("broken", "PLACE", "json", lambda target: Broken()),
        "slow": TrackerKind("slow", "PLACE", "json", lambda target: Slow()),
    }
    monkeypatch.setattr(tracking, "all_trackers", lambda: replaced)
    monkeypatch.setattr(tracking, "CLOSE_SECONDS", 0.2)
    yield
    RELEASE.set()
    for thread in threading.enumerate():
        if thread.name.startswith("track-"):
            thread.join(10)


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("broken", "ConnectionError: cannot reach https://tracker.example"),
        ("slow", "made no progress"),
    ],
)
def test_a_tracker_that_fails_warns_once_and_disturbs_nothing(
    option: str,
    expected: str,
    kinds: None,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        records = run_tracked(tmp_path / "store", option)
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
def test_a_bad_option_is_a_user_error(
    option: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("a-file").touch()
    absent = TrackerKind("absent", "PLACE", "no_such_package", lambda target: Broken())
    known = {**all_trackers(), "absent": absent}
    monkeypatch.setattr(tracking, "all_trackers", lambda: known)
    with pytest.raises(UserError) as caught:
        open_tracker(option)
    assert expected in str(caught.value)
