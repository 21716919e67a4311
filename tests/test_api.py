"""An adaptation within a time, without Ray: folds, the model of all parts, limits of
the model, and continuing.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from unittest import mock

import numpy as np
import pandas as pd
import pytest

from orca_ray.api import AdaptationSweep, adapt, as_task
from orca_ray.cli.app import run
from orca_ray.errors import UserError
from orca_ray.methods.registry import get_method
from orca_ray.predictor import Predictor
from orca_ray.process import NodeResources
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.run.events import Summary
from orca_ray.tasks.task import Task
from tests.results.factories import make_record

N = 240


def table(seed: int = 0, size: int = N) -> tuple[pd.DataFrame, np.ndarray]:
    """Return rows of which two columns say the class, three times out of four."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(size, 4))
    noise = random.normal(scale=0.7, size=size)
    return pd.DataFrame(x, columns=list("abcd")), np.where(
        x[:, 0] + x[:, 1] + noise > 0, "yes", "no"
    )


def adaptation(task: Task, folder: Path, **options: object) -> AdaptationSweep:
    given = {
        "methods": ["gradient_boosting"],
        "minutes": 0.1,
        "executor": "inline",
        **options,
    }
    return AdaptationSweep(task=task, results=str(folder / "results"), **given)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Ran:
    """An adaptation that has run."""

    task: Task
    folder: Path
    summary: Summary
    seconds: float


@pytest.fixture(scope="module")
def ran(module_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("adapted")
    started = time.monotonic()
    task = as_task(table(), {"name": "toy"})
    summary = adaptation(task, folder, minutes=0.2).run()
    return Ran(task, folder, summary, time.monotonic() - started)


def test_an_adaptation_uses_its_time_and_reports_what_new_rows_confirm(
    ran: Ran, tmp_path: Path
) -> None:
    assert 5 < ran.seconds < 20
    assert not ran.summary.interrupted
    assert ran.summary.ran >= 5
    report = adaptation(ran.task, ran.folder).save(tmp_path / "model")
    assert (report.metric, report.num_holdout) == ("error", 36)
    assert report.num_folds >= 4, "on a busy machine, a leader may lack its last fold"
    assert 204 * min(report.num_folds / 5, 1) == pytest.approx(
        report.num_samples, abs=2
    )
    assert report.low <= report.score <= report.high
    assert report.holdout is not None
    model = Predictor.load(tmp_path / "model")
    x, y = table(seed=1, size=2000)
    assert model.evaluate(x, y)["error"] == pytest.approx(report.score, abs=0.08)
    np.testing.assert_allclose(model.predict_proba(x[:50]).sum(axis=1), 1, rtol=1e-5)
    assert model.config.report["score"] == report.score
    assert min(report.size_mb, report.latency_ms) > 0.01
    assert [row["method"] for row in report.standings] == ["gradient_boosting"]
    seconds, scores = zip(*report.curve, strict=True)
    assert sorted(seconds) == list(seconds)
    assert sorted(scores, reverse=True) == list(scores)


def test_one_cpu_needs_no_cluster_for_some_minutes(
    ran: Ran, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        AdaptationSweep,
        "_race",
        race := mock.Mock(**{"return_value.interrupted": False}),
    )
    monkeypatch.setattr(
        "orca_ray.sweep.executors.ray.RayExecutor.open_early", mock.Mock()
    )
    for cpus, minutes, memory in ((1, 2, 8.0), (2, 2, 8.0), (1, 20, 8.0), (2, 20, 1.0)):
        node = NodeResources("n", cpus, 0, memory)
        monkeypatch.setattr("orca_ray.api.this_node", mock.Mock(return_value=node))
        adaptation(
            ran.task,
            ran.folder,
            methods=["linear", "cnn"],
            minutes=minutes,
            executor="ray",
        ).run()
    inline = [call.args[2] == "inline" for call in race.call_args_list]
    assert inline == [
        True,
        True,
        False,
        True,
        False,
        True,
    ], "else the fitted methods run alone while Ray starts"


@pytest.mark.usefixtures("module_home")
def test_trials_on_gpus_get_a_whole_body(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies = []
    cut = "minilm-l6:layers=4"
    csv = tmp_path / "t.csv"
    frame = table()[0]
    frame.assign(label=table()[1]).to_csv(csv, index=False)
    monkeypatch.setattr(
        AdaptationSweep,
        "run",
        lambda sweep: bodies.append(sweep.spec().body(sweep.task.name, "nft")),
    )
    task = as_task(table(), {"name": "toy"})
    for address, gpus in (("", 0), ("", 1), ("head:6379", 1)):
        node = NodeResources("n", 8.0, gpus, 64.0)
        cluster = mock.MagicMock(
            **{"return_value.__enter__.return_value.open.return_value": [node]}
        )
        monkeypatch.setattr(
            "orca_ray.sweep.executors.this_node", lambda node=node: node
        )
        monkeypatch.setattr("orca_ray.sweep.executors.make_executor", cluster)
        monkeypatch.setenv("RAY_ADDRESS", address)
        for data, body in ((csv, ""), (table(), ""), (table(), cut), (task, "")):
            with pytest.raises(UserError, match="no trial"):
                adapt(data, results=str(tmp_path / "results"), body=body)
        assert (
            run(["adapt", str(csv), "--quiet", "--results", str(tmp_path / "results")])
            == 2
        )
        assert cluster.called == bool(address)
    assert bodies == [
        *5 * [cut],
        *2 * ["minilm-l6", "minilm-l6", cut, cut, "minilm-l6"],
    ]


def test_trials_of_another_body_are_not_judged(
    ran: Ran, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {
        body: make_record(body=body)
        for body in ("minilm-l6", "none", "minilm-l6:layers=4")
    }
    monkeypatch.setattr(ResultsStore, "load", lambda store, sweep: found)
    monkeypatch.setattr("orca_ray.api.Judge", judge := mock.Mock())
    for body in ("minilm-l6", ""):
        adaptation(ran.task, ran.folder, body=body).judge()
    judged = [[record.body for record in call.args[2]] for call in judge.call_args_list]
    assert judged == [["minilm-l6", "none"], ["none", "minilm-l6:layers=4"]]


def test_a_model_is_of_all_samples_or_of_the_folds(
    ran: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adaptation(ran.task, ran.folder, single=True).save(tmp_path / "model")
    given = Predictor.load(tmp_path / "model").config.hyperparameters
    epochs = median(
        each.best_epoch or 0
        for each in adaptation(ran.task, ran.folder).judge().leader.records.values()
    )
    assert (
        given["data.fold"],
        given["refine.epochs"],
        given.get("boosting.copies"),
    ) == (-1, round(epochs), None)
    adaptation(ran.task, ran.folder).save(tmp_path / "model")
    config = Predictor.load(tmp_path / "model").config
    copies = {
        (each.hyperparameters["boosting.copies"], each.test_score)
        for each in config.members or [config]
    }
    assert copies == {(5, None)}, "they have seen the test samples"
    monkeypatch.setattr(
        "orca_ray.api.get_method", lambda name: replace(get_method(name), refits=False)
    )
    for single in (False, True):
        adaptation(ran.task, ran.folder, single=single).save(tmp_path / "model")
        assert (len(Predictor.load(tmp_path / "model").members) == 1) == single


def test_a_limit_that_no_model_keeps_is_refused_with_what_there_is(
    ran: Ran, tmp_path: Path
) -> None:
    with pytest.raises(
        UserError,
        match=(
            r"no model of own/toy-\w+ has at most 1e-06 MB .* the smallest has .* raise"
        ),
    ):
        adaptation(ran.task, ran.folder, max_size=1e-6).save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_more_minutes_continue_and_nothing_runs_twice(ran: Ran) -> None:
    more = adaptation(ran.task, ran.folder)
    before = set(ResultsStore(more.results).load(more.spec().sweep_id))
    summary = more.run()
    after = set(ResultsStore(more.results).load(more.spec().sweep_id))
    assert before < after
    assert summary.ran == len(after - before)
