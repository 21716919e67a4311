"""Trials of a worker.

Checkpoints and outcomes: versions, foreign files, deletion, and a disk that is nearly
full.
"""

import dataclasses
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from orca_ray.errors import UserError
from orca_ray.methods.reports import EpochProgress, Outcome
from orca_ray.options import KeepModels
from orca_ray.results.folder import open_folder
from orca_ray.results.record import Status
from orca_ray.sweep.executors.trainable import TrialActor, make_trainable
from orca_ray.sweep.messages.causes import StagingError, classify
from orca_ray.sweep.messages.report import TrialReport
from orca_ray.sweep.messages.settings import WorkerSettings
from orca_ray.sweep.plan.schema import Scalar
from orca_ray.sweep.plan.searches import SearchPlan, plan_searches
from orca_ray.sweep.plan.trial_spec import Resources, TrialSpec
from orca_ray.sweep.worker import checkpoints, staging
from orca_ray.sweep.worker.checkpoints import Checkpoints
from orca_ray.sweep.worker.runner import PAPER_NOTE, TrialRunner
from orca_ray.sweep.worker.staging_items import StagingRequest
from orca_ray.tasks.registry import get_task
from orca_ray.training.numerics import NotFiniteError
from orca_ray.training.refine import RefineLoop
from tests import session
from tests.results.test_s3 import server, uri  # noqa: F401 (fixtures)
from tests.sweep.real import make_tiny_spec


@pytest.fixture(scope="module")
def plans(module_home: Path) -> dict[str, SearchPlan]:
    spec = make_tiny_spec(session.folder())
    fingerprint = get_task("pocket/wdbc").prepare().fingerprint
    return {
        plan.method: plan
        for plan in plan_searches(spec, {"pocket/wdbc": fingerprint}, gpus=False)
    }


def runner_of(trial: TrialSpec, store: Path, **settings: Any) -> TrialRunner:
    return TrialRunner(trial, WorkerSettings(str(store), **settings))


def finish(runner: TrialRunner) -> tuple[list[EpochProgress], TrialReport]:
    points: list[EpochProgress] = []
    while True:
        report = runner.step()
        points += report.progress
        if report.done:
            return points, report


def facts(points: Sequence[EpochProgress]) -> list[EpochProgress]:
    return [dataclasses.replace(point, seconds=0.0) for point in points]


def outcome_of(report: TrialReport) -> Outcome:
    assert report.outcome is not None, report
    return report.outcome


def scores(report: TrialReport) -> tuple[float | None, float | None, int | None]:
    assert report.status is Status.COMPLETED, report
    outcome = outcome_of(report)
    return outcome.validation_score, outcome.test_score, outcome.best_epoch


def test_every_report_tells_what_the_trial_has_come_to(
    plans: dict[str, SearchPlan], tmp_path: Path
) -> None:
    plan = plans["orca"]
    for trial in (plan.trial({}, 1, "search"), plan.trial({}, 1, "confirm")):
        (tmp_path / trial.phase).mkdir()
        runner = runner_of(trial, tmp_path / trial.phase)
        assert runner.step().progress == (), "data are staged first"
        reports = [runner.step() for _ in range(5)]
        assert [(p.stage, p.epoch) for each in reports for p in each.progress] == [
            ("align", 1),
            ("align", 2),
            ("refine", 1),
            ("refine", 2),
            ("refine", 3),
        ]
        outcomes = [outcome_of(report) for report in reports]
        assert [outcome.epochs for outcome in outcomes] == [0, 0, 1, 2, 3]
        assert all(outcome.num_parameters > 0 for outcome in outcomes)
        assert outcomes[1].distance_after is not None
        assert (outcomes[-1].test_score is not None) is (trial.phase == "confirm")
        assert TrialReport.from_json(reports[-1].to_json()) == reports[-1]


def test_the_first_report_of_an_actor_says_that_data_are_staged(
    plans: dict[str, SearchPlan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time limit of a trial counts from it on, so that a node that has just joined
    may stage for long.
    """
    asked: list[StagingRequest] = []
    monkeypatch.setattr(staging, "stage", lambda request, _: asked.append(request))
    trial = plans["nft"].trial({}, 1, "confirm")
    actor = TrialActor.__new__(make_trainable("Actor", WorkerSettings(str(tmp_path))))
    actor._trial_info = None
    actor.setup({"trial": trial.to_json()})
    monkeypatch.setattr(staging, "_staged", set())
    report = TrialReport.from_json(actor.step()["report"])
    assert asked == [StagingRequest.of_trial(trial)]
    assert report.progress == ()
    assert report.outcome is None
    assert report.status is None
    assert report.worker.node
    points, _ = finish(actor._runner)
    assert [point.epoch for point in points] == [1, 2, 3]
    assert len(asked) == 1, "it is staged by then"
    actor.reset_config(
        {"trial": dataclasses.replace(trial, data_fingerprint="0" * 16).to_json()}
    )
    with pytest.raises(StagingError):
        actor.step()


def test_under_the_paper_protocol_epochs_are_selected_on_test(
    plans: dict[str, SearchPlan], tmp_path: Path
) -> None:
    held_out = plans["nft"].trial({}, 1, "confirm")
    _, report = finish(
        runner_of(dataclasses.replace(held_out, protocol="paper"), tmp_path)
    )
    validation, test, _ = scores(report)
    assert validation == test
    assert PAPER_NOTE in str(outcome_of(report).notes)
    assert "; " not in PAPER_NOTE  # which parts the sentences of a record's notes
    validation, test, _ = scores(finish(runner_of(held_out, tmp_path))[1])
    assert validation != test


@pytest.fixture(scope="module")
def whole(
    plans: dict[str, SearchPlan], tmp_path_factory: pytest.TempPathFactory
) -> tuple[TrialSpec, Any, Any]:
    """A trial, the epochs of its run without an interruption, and its scores."""
    trial = plans["orca"].trial({"refine.batch_size": 16}, 1, "confirm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(
            "ORCA_RAY_HOME", str(session.new_home(tmp_path_factory.mktemp("home")))
        )
        points, report = finish(runner_of(trial, tmp_path_factory.mktemp("results")))
    return trial, facts(points), scores(report)


@pytest.mark.slow
def test_a_trial_that_is_killed_within_an_epoch_resumes_there(
    whole: tuple[TrialSpec, Any, Any],
    own_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Checkpoints are written by time, also between the steps of an epoch.

    The kill is in the first refine epoch.
    """
    trial, *expected = whole
    saves = list[int]()
    steps = list[int]()
    save = Checkpoints.save
    update = RefineLoop._update

    class Killed(BaseException):
        pass

    def save_and_die(*arguments: Any) -> None:
        save(*arguments)
        saves.append(1)
        if len(saves) == 9:
            raise Killed

    def count_steps(loop: RefineLoop, learning_rate: float) -> None:
        steps.append(1)
        update(loop, learning_rate)

    first = runner_of(trial, tmp_path, checkpoint_seconds=0.0)
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_and_die)
        with pytest.raises(Killed):
            finish(first)
    monkeypatch.setattr(RefineLoop, "_update", count_steps)
    points, report = finish(runner_of(trial, tmp_path))
    assert [facts(points), scores(report)] == expected
    whole_steps = trial.epochs * -(-len(get_task("pocket/wdbc").prepare().train) // 16)
    assert len(steps) == whole_steps - 7, "steps before the kill were repeated"


def test_an_ended_trial_whose_record_was_lost_is_not_run_again(
    plans: dict[str, SearchPlan], tmp_path: Path
) -> None:
    trial = plans["nft"].trial({}, 1, "confirm")
    points, report = finish(runner_of(trial, tmp_path))
    again, last = finish(runner_of(trial, tmp_path))
    assert facts(again) == facts(points)
    assert last.outcome == report.outcome


def test_a_trial_starts_from_the_model_of_another(
    plans: dict[str, SearchPlan], tmp_path: Path
) -> None:
    def run(**values: Scalar) -> TrialReport:
        trial = plans["nft"].trial(
            {"refine.epochs": 1, "refine.warmup_epochs": 0, **values}, 1, "confirm"
        )
        return finish(runner_of(trial, tmp_path, keep_models=KeepModels.ALL))[1]

    first = plans["nft"].trial({"refine.epochs": 4}, 1, "confirm")
    _, before = finish(runner_of(first, tmp_path, keep_models=KeepModels.ALL))
    still: dict[str, Scalar] = {"refine.learning_rate": 1e-9}
    after = run(**still, **{"refine.start": first.key})
    assert outcome_of(after).test_score == outcome_of(before).test_score
    assert outcome_of(run(**still)).test_score != outcome_of(before).test_score
    missing = run(**still, **{"refine.start": "0" * 20})
    assert missing.status is Status.FAILED_USER
    assert "is not in the results store" in str(missing.error)


@pytest.mark.slow
def test_a_warm_actor_scores_like_a_fresh_one(
    plans: dict[str, SearchPlan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deterministic trials, after an equal one that ran with two threads."""

    def run(actor: TrialActor) -> tuple[float | None, float | None, int | None]:
        while not (report := TrialReport.from_json(actor.step()["report"])).done:
            pass
        return scores(report)

    usual = [
        plans["orca"].trial({}, 1, "confirm"),
        plans["nft"].trial({}, 2, "confirm"),
    ]
    earlier, *_ = usual = [
        dataclasses.replace(trial, resources=Resources(cpus=2.0)) for trial in usual
    ]
    trials = [dataclasses.replace(trial, deterministic=True) for trial in usual]
    monkeypatch.setenv("ORCA_RAY_HOME", str(session.new_home(tmp_path / "home")))
    (tmp_path / "warm").mkdir()
    warm = TrialActor.__new__(
        make_trainable("Actor", WorkerSettings(str(tmp_path / "warm")))
    )
    warm._trial_info = None  # the attribute that its __init__ would set
    warm.setup({"trial": earlier.to_json()})
    run(warm)
    found = []
    for trial in trials:
        assert warm.reset_config({"trial": trial.to_json()})
        found.append(run(warm))
    monkeypatch.setenv(
        "ORCA_RAY_HOME", str(session.new_home(tmp_path / "another"))
    )  # without these alignments
    assert found == [scores(finish(runner_of(trial, tmp_path))[1]) for trial in trials]


@pytest.mark.slow
def test_bad_trials_end_in_a_status_and_say_why(
    plans: dict[str, SearchPlan], tmp_path: Path
) -> None:
    good = plans["nft"].trial({}, 1, "search")
    report = runner_of(
        dataclasses.replace(good, data_fingerprint="0" * 16), tmp_path
    ).step()
    assert report.status is Status.LOST  # the node's failure, not the trial's
    assert "data prepare pocket/wdbc" in str(report.error)
    assert report.outcome is None
    _, report = finish(
        runner_of(dataclasses.replace(good, body="/no/such/body"), tmp_path)
    )
    assert report.status is Status.FAILED_USER
    diverging = plans["nft"].trial(
        {"refine.learning_rate": 1e30, "refine.clip": 0.0}, 1, "search"
    )
    _, report = finish(runner_of(diverging, tmp_path))
    assert report.status is Status.FAILED_NAN
    assert outcome_of(report).num_parameters > 0


def test_classification() -> None:
    allocator = RuntimeError(
        "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"
    )
    errors = [
        torch.OutOfMemoryError("cuda"),
        MemoryError(),
        allocator,
        NotFiniteError("loss"),
        UserError("x"),
    ]
    expected = [
        *[Status.FAILED_OOM] * 3,
        Status.FAILED_NAN,
        Status.FAILED_USER,
        Status.FAILED_CODE,
    ]
    assert [classify(error) for error in (*errors, RuntimeError("x"))] == expected


def test_a_trial_whose_state_cannot_be_kept_completes_all_the_same(
    plans: dict[str, SearchPlan], tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    runner = runner_of(
        plans["nft"].trial({}, 1, "confirm"), blocked, checkpoint_seconds=0.0
    )
    scores(finish(runner)[1])


KEY = "0123456789abcdef0123"
OTHER = "f" * 20
POINT = EpochProgress(
    stage="refine",
    epoch=1,
    epochs=2,
    loss=1.0,
    validation_score=0.5,
    learning_rate=1e-3,
    seconds=0.1,
)
RUNNING = TrialReport(progress=(POINT,))
ENDED = TrialReport(progress=(POINT,), status=Status.COMPLETED)


def writes(content: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(content)

    return write


def restored(store: Checkpoints, key: str = KEY) -> bytes | None:
    found: list[bytes] = []

    def read(path: Path) -> bool:
        found.append(path.read_bytes())
        return True

    return found[0] if store.restore(key, read) == RUNNING else None


@pytest.mark.parametrize(
    "place", ["a directory", pytest.param("S3", marks=pytest.mark.slow)]
)
def test_state_and_outcome_come_back(
    tmp_path: Path, place: str, request: pytest.FixtureRequest
) -> None:
    where = str(tmp_path) if place == "a directory" else request.getfixturevalue("uri")
    # several parts of an upload
    store = Checkpoints(where)
    state = b"weights\n" * 3_000_000
    assert restored(store) is None
    assert store.outcome(KEY) is None
    store.save(KEY, RUNNING, writes(state))
    store.save_outcome(OTHER, ENDED)
    again = Checkpoints(where)
    assert restored(again) == state
    assert again.outcome(OTHER) == ENDED
    assert again.restore(KEY, lambda path: False) is None, (
        "a state that is not accepted counts as missing"
    )
    again.remove(KEY)
    assert open_folder(where).names("checkpoints", hidden=True) == [f"{OTHER}.outcome"]


def test_files_of_another_version_or_trial_are_never_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Checkpoints(tmp_path)
    store.save(KEY, RUNNING, writes(b"weights"))
    store.save_outcome(KEY, ENDED)
    for name, value in {"__version__": "99.0", "SCHEMA": 99}.items():
        with monkeypatch.context() as patch:
            patch.setattr(checkpoints, name, value)
            assert restored(store) is None
            assert store.outcome(KEY) is None, name
    files = {path: path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()}
    for path, content in files.items():
        path.with_stem(OTHER).write_bytes(content)
    assert restored(store, OTHER) is None
    assert store.outcome(OTHER) is None, "files of another trial"
    for length, end in ((50, b""), (0, b"[1]\n")):  # torn files, and foreign ones
        for path, content in files.items():
            path.write_bytes(content[:length] + end)
        assert restored(store) is None
        assert store.outcome(KEY) is None, length


def test_removing_takes_all_files_of_a_trial_and_no_others(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path)
    store.remove(KEY)  # there is no directory yet
    for key in (KEY, OTHER):
        store.save(key, RUNNING, writes(b"weights"))
        store.save_outcome(key, ENDED)
    directory = tmp_path / "checkpoints"
    for name in (
        f"{KEY}.pt",
        f"{KEY}.curve.json",
        f".tmp-{'0' * 32}-{KEY}.state",
    ):  # of earlier versions, of a kill
        (directory / name).touch()
    store.remove(KEY)
    store.remove_directory()
    assert sorted(path.name for path in directory.iterdir()) == [
        f"{OTHER}.outcome",
        f"{OTHER}.state",
    ]
    store.remove(KEY, OTHER)
    store.remove_directory()
    assert not directory.exists()


def test_a_nearly_full_disk_keeps_room_for_records_and_states_of_running_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Checkpoints(tmp_path)
    keys = [f"{number:020x}" for number in range(4)]
    for key in keys:
        store.save(key, RUNNING, writes(b"weights"))
    store.save_outcome(keys[1], ENDED)
    directory = tmp_path / "checkpoints"
    os.utime(directory / f"{keys[2]}.state", (0, 0))
    usage = shutil.disk_usage(tmp_path)
    found = iter([2**31 - 1] * 3)
    monkeypatch.setattr(
        shutil, "disk_usage", lambda _: usage._replace(free=next(found, 2**40))
    )
    with pytest.raises(
        UserError, match=r"2\.0 GiB free, less than the 2 GiB that are kept for records"
    ):
        store.save(keys[3], RUNNING, writes(b"new"))
    assert sorted(path.name for path in directory.glob("*.state")) == [
        f"{keys[0]}.state",
        f"{keys[3]}.state",
    ]
    assert restored(store, keys[3]) == b"weights"
    store.save(keys[3], RUNNING, writes(b"new"))
    assert restored(store, keys[3]) == b"new"
