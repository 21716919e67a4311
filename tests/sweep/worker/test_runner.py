"""Trials of a worker, and their files: checkpoints and outcomes."""

import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
from orca_ray.sweep.plan.trial_spec import Phase, Resources, TrialSpec
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


def make_runner(trial: TrialSpec, store: Path, **settings: Any) -> TrialRunner:
    """Return the runner of a trial; ``settings`` are those of its worker."""
    return TrialRunner(trial, WorkerSettings(str(store), **settings))


def finish(runner: TrialRunner) -> tuple[list[EpochProgress], TrialReport]:
    """Run a trial to its end, and return its epochs and its last report."""
    points: list[EpochProgress] = []
    while True:
        report = runner.step()
        points += report.progress
        if report.done:
            return points, report


def drop_seconds(points: Sequence[EpochProgress]) -> list[EpochProgress]:
    """Return epochs without their durations, which differ from run to run."""
    return [replace(point, seconds=0.0) for point in points]


def get_outcome(report: TrialReport) -> Outcome:
    assert report.outcome is not None, report
    return report.outcome


@dataclass(frozen=True)
class Scores:
    """Scores of a completed trial."""

    validation: float | None
    test: float | None
    best_epoch: int | None


def get_scores(report: TrialReport) -> Scores:
    """Return the scores in the last report of a trial, which must have completed."""
    assert report.status is Status.COMPLETED, report
    outcome = get_outcome(report)
    return Scores(outcome.validation_score, outcome.test_score, outcome.best_epoch)


@pytest.mark.parametrize("phase", ["search", "confirm"])
def test_every_report_has_the_outcome_so_far(
    plans: dict[str, SearchPlan], tmp_path: Path, phase: Phase
) -> None:
    runner = make_runner(plans["orca"].trial({}, 1, phase), tmp_path)
    assert runner.step().progress == (), "data are staged first"
    reports = [runner.step() for _ in range(5)]
    points = [point for report in reports for point in report.progress]
    assert [(point.stage, point.epoch) for point in points] == [
        ("align", 1),
        ("align", 2),
        ("refine", 1),
        ("refine", 2),
        ("refine", 3),
    ]
    outcomes = [get_outcome(report) for report in reports]
    assert [outcome.epochs for outcome in outcomes] == [0, 0, 1, 2, 3]
    assert all(outcome.num_parameters > 0 for outcome in outcomes)
    assert outcomes[1].distance_after is not None
    has_test_score = outcomes[-1].test_score is not None
    assert has_test_score is (phase == "confirm")
    assert TrialReport.from_json(reports[-1].to_json()) == reports[-1]


def make_actor(store: Path) -> TrialActor:
    """Return an actor that Ray Tune has not initialised."""
    actor = TrialActor.__new__(make_trainable("Actor", WorkerSettings(str(store))))
    actor._trial_info = None  # Tune's initialiser would set it
    return actor


def test_the_first_report_of_an_actor_says_that_data_are_staged(
    plans: dict[str, SearchPlan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time limit of a trial begins there: a new node may stage for long."""
    asked: list[StagingRequest] = []
    monkeypatch.setattr(staging, "stage", lambda request, _: asked.append(request))
    trial = plans["nft"].trial({}, 1, "confirm")
    actor = make_actor(tmp_path)
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
    assert len(asked) == 1, "the data are staged once"
    of_other_data = replace(trial, data_fingerprint="0" * 16)
    actor.reset_config({"trial": of_other_data.to_json()})
    with pytest.raises(StagingError):
        actor.step()


def test_under_the_paper_protocol_epochs_are_selected_on_test(
    plans: dict[str, SearchPlan], tmp_path: Path
) -> None:
    trial = plans["nft"].trial({}, 1, "confirm")
    _, report = finish(make_runner(replace(trial, protocol="paper"), tmp_path))
    scores = get_scores(report)
    assert scores.validation == scores.test
    assert PAPER_NOTE in str(get_outcome(report).notes)
    assert "; " not in PAPER_NOTE, "it separates the notes of a record"


def test_under_the_held_out_protocol_epochs_are_selected_on_validation(
    plans: dict[str, SearchPlan], tmp_path: Path
) -> None:
    trial = plans["nft"].trial({}, 1, "confirm")
    _, report = finish(make_runner(trial, tmp_path))
    scores = get_scores(report)
    assert scores.validation != scores.test


@dataclass(frozen=True)
class WholeRun:
    """A trial that ran without an interruption."""

    trial: TrialSpec
    points: list[EpochProgress]
    scores: Scores


@pytest.fixture(scope="module")
def whole(
    plans: dict[str, SearchPlan], tmp_path_factory: pytest.TempPathFactory
) -> WholeRun:
    trial = plans["orca"].trial({"refine.batch_size": 16}, 1, "confirm")
    home = session.new_home(tmp_path_factory.mktemp("home"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORCA_RAY_HOME", str(home))
        points, report = finish(make_runner(trial, tmp_path_factory.mktemp("results")))
    return WholeRun(trial, drop_seconds(points), get_scores(report))


@pytest.mark.slow
def test_a_trial_that_is_killed_within_an_epoch_resumes_there(
    whole: WholeRun,
    own_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kill is in the first refine epoch, after a checkpoint within it."""
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

    first = make_runner(whole.trial, tmp_path, checkpoint_seconds=0.0)
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_and_die)
        with pytest.raises(Killed):
            finish(first)
    monkeypatch.setattr(RefineLoop, "_update", count_steps)
    points, report = finish(make_runner(whole.trial, tmp_path))
    assert drop_seconds(points) == whole.points
    assert get_scores(report) == whole.scores
    num_samples = len(get_task("pocket/wdbc").prepare().train)
    steps_of_epoch = math.ceil(num_samples / 16)
    steps_of_trial = whole.trial.epochs * steps_of_epoch
    assert len(steps) == steps_of_trial - 7, "steps before the kill are not repeated"


def test_an_ended_trial_whose_record_was_lost_is_not_run_again(
    plans: dict[str, SearchPlan], tmp_path: Path
) -> None:
    trial = plans["nft"].trial({}, 1, "confirm")
    points, report = finish(make_runner(trial, tmp_path))
    again, last = finish(make_runner(trial, tmp_path))
    assert drop_seconds(again) == drop_seconds(points)
    assert last.outcome == report.outcome


def test_a_trial_starts_from_the_model_of_another(
    plans: dict[str, SearchPlan], tmp_path: Path
) -> None:
    def run(**values: Scalar) -> TrialReport:
        """Run a trial that hardly changes its network."""
        short: dict[str, Scalar] = {
            "refine.epochs": 1,
            "refine.warmup_epochs": 0,
            "refine.learning_rate": 1e-9,
        }
        trial = plans["nft"].trial({**short, **values}, 1, "confirm")
        _, report = finish(make_runner(trial, tmp_path, keep_models=KeepModels.ALL))
        return report

    first = plans["nft"].trial({"refine.epochs": 4}, 1, "confirm")
    _, before = finish(make_runner(first, tmp_path, keep_models=KeepModels.ALL))
    score_before = get_outcome(before).test_score
    continued = run(**{"refine.start": first.key})
    assert get_outcome(continued).test_score == score_before
    from_the_body = run()
    assert get_outcome(from_the_body).test_score != score_before
    missing = run(**{"refine.start": "0" * 20})
    assert missing.status is Status.FAILED_USER
    assert "is not in the results store" in str(missing.error)


@pytest.mark.slow
def test_a_warm_actor_scores_like_a_fresh_one(
    plans: dict[str, SearchPlan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trials are deterministic; before them, the actor ran with two threads."""

    def run(actor: TrialActor) -> Scores:
        report = TrialReport.from_json(actor.step()["report"])
        while not report.done:
            report = TrialReport.from_json(actor.step()["report"])
        return get_scores(report)

    two_threads = Resources(cpus=2.0)
    usual = [
        replace(plans["orca"].trial({}, 1, "confirm"), resources=two_threads),
        replace(plans["nft"].trial({}, 2, "confirm"), resources=two_threads),
    ]
    deterministic = [replace(trial, deterministic=True) for trial in usual]
    monkeypatch.setenv("ORCA_RAY_HOME", str(session.new_home(tmp_path / "home")))
    (tmp_path / "warm").mkdir()
    warm = make_actor(tmp_path / "warm")
    warm.setup({"trial": usual[0].to_json()})
    run(warm)
    warm_scores = []
    for trial in deterministic:
        assert warm.reset_config({"trial": trial.to_json()})
        warm_scores.append(run(warm))
    home_without_alignments = session.new_home(tmp_path / "another")
    monkeypatch.setenv("ORCA_RAY_HOME", str(home_without_alignments))
    for trial, scores in zip(deterministic, warm_scores, strict=True):
        _, report = finish(make_runner(trial, tmp_path))
        assert get_scores(report) == scores


@pytest.mark.slow
def test_a_trial_of_other_data_is_lost_and_not_failed(
    plans: dict[str, SearchPlan], tmp_path: Path
) -> None:
    good = plans["nft"].trial({}, 1, "search")
    report = make_runner(replace(good, data_fingerprint="0" * 16), tmp_path).step()
    assert report.status is Status.LOST, "it is a failure of the node"
    assert "data prepare pocket/wdbc" in str(report.error)
    assert report.outcome is None


@pytest.mark.slow
def test_a_trial_without_its_body_fails(
    plans: dict[str, SearchPlan], tmp_path: Path
) -> None:
    good = plans["nft"].trial({}, 1, "search")
    _, report = finish(make_runner(replace(good, body="/no/such/body"), tmp_path))
    assert report.status is Status.FAILED_USER


@pytest.mark.slow
def test_a_trial_that_diverges_fails_with_an_outcome(
    plans: dict[str, SearchPlan], tmp_path: Path
) -> None:
    values: dict[str, Scalar] = {"refine.learning_rate": 1e30, "refine.clip": 0.0}
    diverging = plans["nft"].trial(values, 1, "search")
    _, report = finish(make_runner(diverging, tmp_path))
    assert report.status is Status.FAILED_NAN
    assert get_outcome(report).num_parameters > 0


ALLOCATION = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"
)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (torch.OutOfMemoryError("cuda"), Status.FAILED_OOM),
        (MemoryError(), Status.FAILED_OOM),
        (ALLOCATION, Status.FAILED_OOM),
        (NotFiniteError("loss"), Status.FAILED_NAN),
        (UserError("x"), Status.FAILED_USER),
        (RuntimeError("x"), Status.FAILED_CODE),
    ],
)
def test_an_error_has_a_status(error: Exception, status: Status) -> None:
    assert classify(error) is status


def test_a_trial_whose_state_cannot_be_kept_completes_all_the_same(
    plans: dict[str, SearchPlan], tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    runner = make_runner(
        plans["nft"].trial({}, 1, "confirm"), blocked, checkpoint_seconds=0.0
    )
    get_scores(finish(runner)[1])


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


def make_writer(content: bytes) -> Callable[[Path], None]:
    """Return a function that writes a state to a path."""

    def write(path: Path) -> None:
        path.write_bytes(content)

    return write


def restore(store: Checkpoints, key: str = KEY) -> bytes | None:
    """Return the state of a running trial, or None if it has no checkpoint."""
    states: list[bytes] = []

    def read(path: Path) -> bool:
        states.append(path.read_bytes())
        return True

    report = store.restore(key, read)
    if report != RUNNING:
        return None
    [state] = states
    return state


@pytest.mark.parametrize(
    "place", ["a directory", pytest.param("S3", marks=pytest.mark.slow)]
)
def test_state_and_outcome_come_back(
    tmp_path: Path, place: str, request: pytest.FixtureRequest
) -> None:
    where = str(tmp_path) if place == "a directory" else request.getfixturevalue("uri")
    store = Checkpoints(where)
    state = b"weights\n" * 3_000_000  # an upload of several parts
    assert restore(store) is None
    assert store.outcome(KEY) is None
    store.save(KEY, RUNNING, make_writer(state))
    store.save_outcome(OTHER, ENDED)
    again = Checkpoints(where)
    assert restore(again) == state
    assert again.outcome(OTHER) == ENDED
    refused = again.restore(KEY, lambda path: False)
    assert refused is None, "a state that is not accepted counts as missing"
    again.remove(KEY)
    assert open_folder(where).names("checkpoints", hidden=True) == [f"{OTHER}.outcome"]


@pytest.fixture
def store(tmp_path: Path) -> Checkpoints:
    """Checkpoints with a state and an outcome of the trial `KEY`."""
    checkpoints_of_trial = Checkpoints(tmp_path)
    checkpoints_of_trial.save(KEY, RUNNING, make_writer(b"weights"))
    checkpoints_of_trial.save_outcome(KEY, ENDED)
    return checkpoints_of_trial


@pytest.mark.parametrize(("name", "value"), [("__version__", "99.0"), ("SCHEMA", 99)])
def test_files_of_another_version_are_never_taken(
    store: Checkpoints, name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, name, value)
    assert restore(store) is None
    assert store.outcome(KEY) is None


def test_files_of_another_trial_are_never_taken(
    store: Checkpoints, tmp_path: Path
) -> None:
    for path in list((tmp_path / "checkpoints").iterdir()):
        path.rename(path.with_stem(OTHER))
    assert restore(store, OTHER) is None
    assert store.outcome(OTHER) is None


@pytest.mark.parametrize(("length", "end"), [(50, b""), (0, b"[1]\n")])
def test_torn_and_foreign_files_are_never_taken(
    store: Checkpoints, tmp_path: Path, length: int, end: bytes
) -> None:
    for path in (tmp_path / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:length] + end)
    assert restore(store) is None
    assert store.outcome(KEY) is None


def test_a_first_line_without_end_is_not_taken(
    store: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "_MOST_HEADER_BYTES", 100)
    for path in (tmp_path / "checkpoints").iterdir():
        path.write_bytes(b"[]," * 1000)
    assert restore(store) is None
    assert store.outcome(KEY) is None


def list_names(directory: Path, pattern: str = "*") -> list[str]:
    """Return the sorted names of the files in a directory."""
    return sorted(path.name for path in directory.glob(pattern))


def test_removing_takes_all_files_of_a_trial_and_no_others(
    store: Checkpoints, tmp_path: Path
) -> None:
    store.save(OTHER, RUNNING, make_writer(b"weights"))
    store.save_outcome(OTHER, ENDED)
    directory = tmp_path / "checkpoints"
    for name_of_earlier_version in (f"{KEY}.pt", f"{KEY}.curve.json"):
        (directory / name_of_earlier_version).touch()
    left_by_a_kill = directory / f".tmp-{'0' * 32}-{KEY}.state"
    left_by_a_kill.touch()
    store.remove(KEY)
    store.remove_directory()
    assert list_names(directory) == [f"{OTHER}.outcome", f"{OTHER}.state"]
    store.remove(KEY, OTHER)
    store.remove_directory()
    assert not directory.exists()


def test_nothing_is_removed_from_a_store_without_checkpoints(tmp_path: Path) -> None:
    Checkpoints(tmp_path).remove(KEY)
    assert not (tmp_path / "checkpoints").exists()


def test_a_nearly_full_disk_keeps_room_for_records_and_states_of_running_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """States of ended trials and old states are deleted for a new one."""
    store = Checkpoints(tmp_path)
    running, ended, abandoned, growing = (f"{number:020x}" for number in range(4))
    for key in (running, ended, abandoned, growing):
        store.save(key, RUNNING, make_writer(b"weights"))
    store.save_outcome(ended, ENDED)
    directory = tmp_path / "checkpoints"
    os.utime(directory / f"{abandoned}.state", (0, 0))
    usage = shutil.disk_usage(tmp_path)
    free_bytes = iter([2**31 - 1] * 3)
    room_later = 2**40
    monkeypatch.setattr(
        shutil,
        "disk_usage",
        lambda path: usage._replace(free=next(free_bytes, room_later)),
    )
    message = r"2\.0 GiB free, less than the 2 GiB that are kept for records"
    with pytest.raises(UserError, match=message):
        store.save(growing, RUNNING, make_writer(b"new"))
    assert list_names(directory, "*.state") == [f"{running}.state", f"{growing}.state"]
    assert restore(store, growing) == b"weights"
    store.save(growing, RUNNING, make_writer(b"new"))
    assert restore(store, growing) == b"new"
