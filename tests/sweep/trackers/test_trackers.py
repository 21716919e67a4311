"""Trackers: a sweep in TensorBoard, read by its own library.

And a tracker that fails disturbs nothing.
"""

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


def sweep(store: Path, option: str, most: int | None = None) -> list[Record]:
    """Play a sweep of one task and one method, with a trial of which two epochs are
    reported before it is killed.
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


def of_tensorboard(place: Path) -> Shown:
    from tensorboardX.proto.event_pb2 import Event

    shown: Shown = {}
    for path in sorted(
        place.rglob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime_ns
    ):
        assert path.parent.parent == place / "fake/full/pocket/digits/nft"
        run = shown.setdefault(path.parent.name, ShownRun())
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            if (
                event.HasField("session_log") and event.session_log.status == 1
            ):  # START: drops what has these steps
                run.curves = {
                    name: {s: v for s, v in c.items() if s < event.step}
                    for name, c in run.curves.items()
                }
            for value in event.summary.value:
                _tensorboard_value(run, event.step, value)
    return shown


def _tensorboard_value(run: ShownRun, step: int, value: Any) -> None:
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

    plugin = value.metadata.plugin_data
    if plugin.plugin_name == "hparams":
        found = HParamsPluginData.FromString(plugin.content).session_start_info.hparams
        run.settings.update(
            {
                name: str(each.string_value or each.number_value)
                for name, each in found.items()
            }
        )
        run.tags = {
            name: run.settings[name]
            for name in ("task", "method", "phase", "seed")
            if name in run.settings
        }
        run.status = run.settings.get("status", "")
    elif value.tag.startswith("final/"):
        run.final[value.tag.removeprefix("final/")] = value.simple_value
    elif value.HasField("simple_value"):
        run.add_point(value.tag, step, value.simple_value)


@pytest.fixture(autouse=True)
def no_thread_is_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    assert [
        each for each in threading.enumerate() if each.name.startswith("track-")
    ] == []


@pytest.mark.slow
def test_an_interrupted_sweep_is_shown_as_one_run_per_trial(tmp_path: Path) -> None:
    place = tmp_path / "shown"
    option = f"tensorboard:{place}"
    place.mkdir()
    assert len(sweep(tmp_path / "store", option, most=2)) == 2
    assert sorted(run.status for run in of_tensorboard(place).values()) == [
        "",
        "completed",
        "completed",
    ]
    records = {record.trial_key: record for record in sweep(tmp_path / "store", option)}
    assert len(records) == 6

    shown = of_tensorboard(place)
    assert shown.keys() == records.keys()
    for key, record in records.items():
        agree(shown[key], record)


def agree(run: ShownRun, record: Record) -> None:
    assert run.tags == {
        name: str(getattr(record, name)) for name in ("task", "method", "phase", "seed")
    }
    assert run.status == record.status.value
    wanted = json.loads(record.hyperparameters)
    assert wanted.keys() <= run.settings.keys()
    assert float(run.settings["refine.learning_rate"]) == pytest.approx(
        wanted["refine.learning_rate"]
    )
    curve = run.curves["refine/validation_score"]
    assert list(curve) == list(range(1, record.epochs + 1))
    assert (
        min(curve.values())
        == run.final["validation_score"]
        == pytest.approx(record.validation_score)
    )
    assert run.curves["refine/learning_rate"][1] == pytest.approx(1e-3)
    assert run.curves["refine/loss"][1] == 1.0
    assert run.final["epochs"] == record.epochs
    assert ("test_score" in run.final) == (record.test_score is not None)
    assert run.final.get("test_score", 0.0) == pytest.approx(record.test_score or 0.0)


class Broken(Tracker):
    """Fails when a run starts, as one whose server cannot be reached."""

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
    """Waits for ever."""

    def start(self, run: Run) -> None:
        RELEASE.wait()


RELEASE = threading.Event()


@pytest.fixture
def kinds(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    RELEASE.clear()
    made = {
        name: TrackerKind(name, "PLACE", "json", lambda target, kind=kind: kind())  # type: ignore[misc]
        for name, kind in (("broken", Broken), ("slow", Slow))
    }
    monkeypatch.setattr(tracking, "all_trackers", lambda: made)
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
