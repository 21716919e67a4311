"""An adaptation within a time, without Ray.

Tested are folds, the model of all parts, limits of the model, and continuing.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pandas as pd
import pytest

from orca_ray.adaptation.adapt import adapt, as_task
from orca_ray.adaptation.sweep import AdaptationSweep
from orca_ray.cli.app import run
from orca_ray.errors import RayStartError, UserError
from orca_ray.methods.registry import get_method
from orca_ray.methods.stages.forest import ForestStage
from orca_ray.predictor import Predictor
from orca_ray.process import NodeResources, note_progress
from orca_ray.results.record import Record
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.executors.ray import RayExecutor
from orca_ray.sweep.run.events import Event, Message, Summary
from orca_ray.tasks.task import Task
from tests.results.factories import make_record

NUM_ROWS = 240
NUM_FOLDS = 5
"""Number of folds of one division; so few rows have two."""


def draw_table(seed: int = 0, size: int = NUM_ROWS) -> tuple[pd.DataFrame, np.ndarray]:
    """Return rows and classes; two columns give the class of three rows in four."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(size, 4))
    noise = random.normal(scale=0.7, size=size)
    labels = np.where(x[:, 0] + x[:, 1] + noise > 0, "yes", "no")
    return pd.DataFrame(x, columns=list("abcd")), labels


def make_adaptation(task: Task, folder: Path, **options: object) -> AdaptationSweep:
    """Return an adaptation with more time than its few configurations need."""
    given = {
        "methods": ["gradient_boosting"],
        "minutes": 10,
        "executor": "inline",
        **options,
    }
    return AdaptationSweep(task=task, results=str(folder / "results"), **given)  # type: ignore[arg-type]


def limit_variants(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let each method have few variants, so that a search ends before its time."""
    monkeypatch.setattr("orca_ray.adaptation.variants.MOST_VARIANTS", number)


@dataclass(frozen=True)
class FinishedAdaptation:
    """An adaptation that has run."""

    task: Task
    folder: Path
    summary: Summary


@pytest.fixture(scope="module")
def finished(
    module_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> FinishedAdaptation:
    folder = tmp_path_factory.mktemp("adapted")
    task = as_task(draw_table(), {"name": "toy"})
    with pytest.MonkeyPatch.context() as monkeypatch:
        limit_variants(monkeypatch, 1)
        summary = make_adaptation(task, folder).run()
    return FinishedAdaptation(task, folder, summary)


def test_the_report_says_what_new_rows_confirm(
    finished: FinishedAdaptation, tmp_path: Path
) -> None:
    assert not finished.summary.interrupted
    assert finished.summary.ran >= NUM_FOLDS
    report = make_adaptation(finished.task, finished.folder).save(tmp_path / "model")
    assert report.metric == "error"
    assert report.num_holdout == 36
    assert report.num_folds >= NUM_FOLDS
    assert report.num_samples == NUM_ROWS - 36
    assert report.low <= report.score <= report.high
    assert report.holdout is not None
    model = Predictor.load(tmp_path / "model")
    x, y = draw_table(seed=1, size=2000)
    assert model.evaluate(x, y)["error"] == pytest.approx(report.score, abs=0.08)
    np.testing.assert_allclose(model.predict_proba(x[:50]).sum(axis=1), 1, rtol=1e-5)
    assert model.config.report["score"] == report.score
    known = y[:, None] == np.asarray(model.label_names)
    assert (model.predict_sets(x, 0.9) & known).any(axis=1).mean() > 0.85
    features = report.importance["features"]
    assert {feature["feature"] for feature in features[:2]} == {"a", "b"}
    assert features[1]["importance"] > 0.05 > abs(features[3]["importance"])
    first = model.importance(x, y, repeats=2)[0]
    assert first.feature in ("a", "b")
    assert first.num_repeats == 2
    assert min(report.size_mb, report.latency_ms) > 0.01
    assert [row["method"] for row in report.standings] == ["gradient_boosting"]
    seconds, scores = zip(*report.curve, strict=True)
    assert sorted(seconds) == list(seconds)
    assert sorted(scores, reverse=True) == list(scores)


def test_the_search_leaves_time_for_the_model(
    finished: FinishedAdaptation, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = mock.Mock(**{"return_value.interrupted": False})
    monkeypatch.setattr(AdaptationSweep, "_search", search)
    clock = SimpleNamespace(monotonic=lambda: 1000.0)
    monkeypatch.setattr("orca_ray.adaptation.sweep.time", clock)
    make_adaptation(finished.task, finished.folder, minutes=1).run()
    make_adaptation(finished.task, finished.folder, minutes=0.1).run()
    long_deadline, short_deadline = [call.args[1] for call in search.call_args_list]
    assert 1050 < long_deadline < 1060
    assert 1004 < short_deadline < 1006


@pytest.mark.parametrize(
    ("cpus", "minutes", "memory", "inline"),
    [
        (1, 2, 8.0, [True]),
        (2, 2, 8.0, [True, False]),
        (1, 20, 8.0, [True, False]),
        (2, 20, 1.0, [True]),
    ],
)
def test_one_cpu_needs_no_cluster_for_some_minutes(
    finished: FinishedAdaptation,
    monkeypatch: pytest.MonkeyPatch,
    cpus: int,
    minutes: float,
    memory: float,
    inline: list[bool],
) -> None:
    """In other cases, the fitted methods run alone while Ray starts."""
    search = mock.Mock(**{"return_value.interrupted": False})
    monkeypatch.setattr(AdaptationSweep, "_search", search)
    monkeypatch.setattr(
        "orca_ray.sweep.executors.ray.RayExecutor.open_early", mock.Mock()
    )
    node = NodeResources("n", cpus, 0, memory)
    monkeypatch.setattr(
        "orca_ray.adaptation.sweep.this_node", mock.Mock(return_value=node)
    )
    make_adaptation(
        finished.task,
        finished.folder,
        methods=["linear", "cnn"],
        minutes=minutes,
        executor="ray",
    ).run()
    assert [call.args[2] == "inline" for call in search.call_args_list] == inline


def test_trials_run_here_if_ray_cannot_start(
    finished: FinishedAdaptation, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = mock.Mock(interrupted=False)
    search = mock.Mock(side_effect=[ended, RayStartError("Ray is ill."), ended])
    monkeypatch.setattr(AdaptationSweep, "_search", search)
    monkeypatch.setattr(
        "orca_ray.sweep.executors.ray.RayExecutor.open_early", mock.Mock()
    )
    messages: list[Event] = []
    adaptation = make_adaptation(
        finished.task, finished.folder, methods=["linear", "cnn"], executor="ray"
    )
    replace(adaptation, minutes=20, listener=messages.append).run()
    executors = [call.args[2] for call in search.call_args_list]
    assert executors[0] == executors[2] == "inline"
    assert isinstance(executors[1], RayExecutor)
    [message] = messages
    assert isinstance(message, Message)
    assert message.text == "Ray is ill. All trials run in this process instead."


def test_a_fit_ends_when_the_time_is_over(
    finished: FinishedAdaptation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit_for_minutes(stage: ForestStage, epoch: int) -> None:
        end = time.monotonic() + 120
        while time.monotonic() < end:
            note_progress()

    monkeypatch.setattr(ForestStage, "fit", fit_for_minutes)
    monkeypatch.setattr(
        "orca_ray.adaptation.sweep.seconds_here",
        lambda plans: {(plan.task, plan.method): 0.0 for plan in plans},
    )
    adaptation = make_adaptation(
        finished.task, tmp_path, methods=["linear", "forest"], minutes=0.1
    )
    summary = adaptation.run()
    assert summary.interrupted
    assert summary.time_over
    report = adaptation.save(tmp_path / "model")
    assert [row["method"] for row in report.standings] == ["linear"]


CUT_BODY = "minilm-l6:layers=4"
WHOLE_BODY = "minilm-l6"


@pytest.mark.usefixtures("module_home")
@pytest.mark.parametrize(
    ("address", "gpus", "inferred_body"),
    [("", 0, CUT_BODY), ("", 1, WHOLE_BODY), ("head:6379", 1, WHOLE_BODY)],
)
def test_trials_on_gpus_get_a_whole_body(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    address: str,
    gpus: int,
    inferred_body: str,
) -> None:
    bodies = list[str]()
    monkeypatch.setattr(
        AdaptationSweep,
        "run",
        lambda sweep: bodies.append(sweep.spec().body(sweep.task.name, "nft")),
    )
    node = NodeResources("n", 8.0, gpus, 64.0)
    cluster = mock.MagicMock(
        **{"return_value.__enter__.return_value.open.return_value": [node]}
    )
    monkeypatch.setattr("orca_ray.sweep.executors.this_node", lambda: node)
    monkeypatch.setattr("orca_ray.sweep.executors.make_executor", cluster)
    monkeypatch.setenv("RAY_ADDRESS", address)
    csv = tmp_path / "t.csv"
    frame, labels = draw_table()
    frame.assign(label=labels).to_csv(csv, index=False)
    results = str(tmp_path / "results")
    task = as_task(draw_table(), {"name": "toy"})
    for data, body in (
        (csv, ""),
        (draw_table(), ""),
        (draw_table(), CUT_BODY),
        (task, ""),
    ):
        with pytest.raises(UserError, match="no trial"):
            adapt(data, results=results, body=body)
    command = ["adapt", str(csv), "--quiet", "--results", results]
    assert run(command) == 2
    assert run([*command, "--body", CUT_BODY]) == 2
    assert cluster.called == bool(address)
    assert bodies == [
        inferred_body,
        inferred_body,
        CUT_BODY,
        CUT_BODY,
        inferred_body,
        CUT_BODY,
    ]


@pytest.mark.usefixtures("module_home")
def test_the_command_prints_each_warning_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    frame, labels = draw_table()
    few = frame.assign(label=labels)[:80]
    few.to_csv(tmp_path / "t.csv", index=False)
    summary = mock.Mock(failed=(), interrupted=False)
    sweep = "orca_ray.adaptation.sweep.AdaptationSweep"
    monkeypatch.setattr(f"{sweep}.run", lambda self: summary)
    monkeypatch.setattr(f"{sweep}.save", mock.Mock())
    page = "orca_ray.adaptation.page.adaptation_page"
    monkeypatch.setattr(page, lambda *args, **options: "")
    monkeypatch.chdir(tmp_path)
    assert run(["adapt", "t.csv", "--quiet"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "are few" in line] == [
        f"warning: {len(few)} samples are few: scores will be rough"
    ]


@pytest.mark.parametrize(
    ("body", "judged_bodies"),
    [(WHOLE_BODY, [WHOLE_BODY, "none"]), ("", ["none", CUT_BODY])],
)
def test_trials_of_another_body_are_not_judged(
    finished: FinishedAdaptation,
    monkeypatch: pytest.MonkeyPatch,
    body: str,
    judged_bodies: list[str],
) -> None:
    records: dict[str, Record] = {
        name: make_record(body=name) for name in (WHOLE_BODY, "none", CUT_BODY)
    }
    monkeypatch.setattr(ResultsStore, "load", lambda store, sweep: records)
    judge = mock.Mock()
    monkeypatch.setattr("orca_ray.adaptation.sweep.Judge", judge)
    make_adaptation(finished.task, finished.folder, body=body).judge()
    assert [record.body for record in judge.call_args.args[2]] == judged_bodies


def test_a_single_model_is_of_all_samples(
    finished: FinishedAdaptation, tmp_path: Path
) -> None:
    make_adaptation(finished.task, finished.folder, single=True).save(
        tmp_path / "model"
    )
    values = Predictor.load(tmp_path / "model").config.hyperparameters
    leader = make_adaptation(finished.task, finished.folder).judge().leader
    epochs = median(record.best_epoch or 0 for record in leader.records.values())
    assert values["data.fold"] == -1
    assert values["refine.epochs"] == round(epochs)
    assert values.get("boosting.copies") is None


def test_a_model_of_all_samples_has_copies_of_trees(
    finished: FinishedAdaptation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orca_ray.adaptation.refits.LEAST_OVERRUN", 1000.0)
    make_adaptation(finished.task, finished.folder).save(tmp_path / "model")
    config = Predictor.load(tmp_path / "model").config
    members = config.members if config.members else [config]
    copies = {member.hyperparameters["boosting.copies"] for member in members}
    assert copies == {5}
    assert {member.test_score for member in members} == {None}, (
        "they have seen the test samples"
    )


@pytest.mark.parametrize("single", [False, True])
def test_a_model_that_cannot_be_fitted_again_is_of_the_folds(
    finished: FinishedAdaptation,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    single: bool,
) -> None:
    monkeypatch.setattr(
        "orca_ray.adaptation.refits.get_method",
        lambda name: replace(get_method(name), refits=False),
    )
    make_adaptation(finished.task, finished.folder, single=single).save(
        tmp_path / "model"
    )
    assert (len(Predictor.load(tmp_path / "model").members) == 1) == single


def test_a_limit_that_no_model_keeps_is_refused_with_what_there_is(
    finished: FinishedAdaptation, tmp_path: Path
) -> None:
    sentence = (
        r"no model of own/toy-\w+ has at most 1e-06 MB .* the smallest has .* raise"
    )
    with pytest.raises(UserError, match=sentence):
        make_adaptation(finished.task, finished.folder, max_size=1e-6).save(
            tmp_path / "model"
        )
    assert not (tmp_path / "model").exists()


def test_more_minutes_continue_and_nothing_runs_twice(
    finished: FinishedAdaptation, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_variants(monkeypatch, 2)
    more = make_adaptation(finished.task, finished.folder, minutes=20)
    before = set(ResultsStore(more.results).load(more.spec().sweep_id))
    summary = more.run()
    after = set(ResultsStore(more.results).load(more.spec().sweep_id))
    assert before < after
    assert summary.ran == len(after - before)
