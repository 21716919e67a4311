"""An adaptation within a time, without Ray: folds, the model of all parts, limits of the model, and continuing."""

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from orca_ray.api import AdaptationSweep, as_task
from orca_ray.errors import UserError
from orca_ray.predictor import Predictor
from orca_ray.results.store import ResultsStore
from orca_ray.tasks.task import Task

N = 240


def table(seed: int = 0, size: int = N) -> tuple[pd.DataFrame, np.ndarray]:
    """Return rows of which two columns say the class, three times out of four."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(size, 4))
    noise = random.normal(scale=0.7, size=size)
    return pd.DataFrame(x, columns=list("abcd")), np.where(x[:, 0] + x[:, 1] + noise > 0, "yes", "no")


@pytest.fixture
def task(own_cache: Path) -> Task:
    return as_task(table(), {"name": "toy"})


def adaptation(task: Task, folder: Path, **options: object) -> AdaptationSweep:
    given = {"methods": ["gradient_boosting"], "minutes": 0.3, "executor": "inline", **options}
    return AdaptationSweep(task=task, results=str(folder / "results"), **given)  # type: ignore[arg-type]


def test_an_adaptation_uses_its_time_and_reports_what_new_rows_confirm(task: Task, tmp_path: Path) -> None:
    sweep, started = adaptation(task, tmp_path), time.monotonic()
    summary = sweep.run()
    report = sweep.save(tmp_path / "model")
    assert 5 < time.monotonic() - started < 30
    assert not summary.interrupted
    assert summary.ran > 5, "after the folds, the search goes on"
    assert (report.metric, report.num_samples, report.num_folds) == ("error", 204, 5)
    assert report.low <= report.score <= report.high
    assert report.holdout is not None
    assert report.num_holdout == 36
    model = Predictor.load(tmp_path / "model")
    x, y = table(seed=1, size=2000)
    new = model.evaluate(x, y)["error"]
    assert new == pytest.approx(report.score, abs=0.08)
    assert model.config.report["score"] == report.score
    assert report.size_mb > 0.01
    assert report.latency_ms > 0
    assert [row["method"] for row in report.standings] == ["gradient_boosting"]
    seconds, scores = zip(*report.curve, strict=True)
    assert sorted(seconds) == list(seconds)
    assert sorted(scores, reverse=True) == list(scores)


def test_the_members_are_the_folds_and_single_is_one_network(task: Task, tmp_path: Path) -> None:
    adaptation(task, tmp_path).run()
    for single, count in ((False, 5), (True, 1)):
        sweep = adaptation(task, tmp_path, single=single)
        report = sweep.save(tmp_path / f"model-{single}")
        model = Predictor.load(tmp_path / f"model-{single}")
        assert len(model.members) % 5 == 0 if count == 5 else len(model.members) == 1
        assert report.score == pytest.approx(model.config.report["score"])
    x, _ = table(seed=2, size=50)
    proba = model.predict_proba(x)
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-5)


def test_a_limit_that_no_model_keeps_is_refused_with_what_there_is(task: Task, tmp_path: Path) -> None:
    sweep = adaptation(task, tmp_path, max_size=1e-6)
    sweep.run()
    with pytest.raises(UserError, match=r"no model of own/toy-\w+ has at most 1e-06 MB .* the smallest has .* raise"):
        sweep.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_more_minutes_continue_and_nothing_runs_twice(task: Task, tmp_path: Path) -> None:
    first = adaptation(task, tmp_path, minutes=0.1)
    first.run()
    first.save(tmp_path / "model")
    before = set(ResultsStore(tmp_path / "results").load(first.spec().sweep_id))
    second = adaptation(task, tmp_path, minutes=0.15)
    summary = second.run()
    after = set(ResultsStore(tmp_path / "results").load(first.spec().sweep_id))
    assert before < after
    assert summary.ran == len(after - before)
    assert second.save(tmp_path / "model").num_folds >= 1


def test_without_a_trial_that_ended_there_is_no_model(task: Task, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has ended with a model: run the same command again"):
        adaptation(task, tmp_path).save(tmp_path / "model")
