"""The methods that an adaptation compares by default, and those that it leaves out."""

import importlib.util
import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import orca_ray
from orca_ray.api import AdaptationSweep, usual_methods
from orca_ray.cli.app import run
from orca_ray.data.rows import Target
from orca_ray.errors import UserError
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.plan.spec import SweepSpec
from orca_ray.sweep.run.events import Summary
from orca_ray.tasks.task import Task
from orca_ray.testing.trials import CLASSES, make_task
from tests.results.factories import make_record

TABLE = replace(make_task(CLASSES, (1, 4)), domain="tabular")
SERIES = replace(make_task(CLASSES), domain="time series")
INSTALL = "gradient_boosting is not compared: it needs the package lightgbm: pip install 'orca-ray[trees]'"


@pytest.fixture
def without_lightgbm(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.delitem(sys.modules, "lightgbm", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "lightgbm" else find_spec(name))


@pytest.mark.parametrize(
    ("task", "baseline"),
    [
        (TABLE, "gradient_boosting"),
        (SERIES, "minirocket"),
        (make_task(Target("dense", shape=(8, 8)), (2, 8, 8)), "fno"),
        (replace(make_task(CLASSES, (3, 8, 8)), domain="image"), "cnn"),
    ],
)
def test_the_usual_baseline_is_compared(task: Task, baseline: str) -> None:
    assert usual_methods(task) == dict.fromkeys(("orca_guarded", "orca", "nft", "linear_probe", "scratch", baseline))


@pytest.mark.usefixtures("without_lightgbm")
def test_a_baseline_whose_package_is_missing_is_left_out() -> None:
    assert AdaptationSweep(task=TABLE).left_out() == [INSTALL]
    assert AdaptationSweep(task=TABLE, methods=["nft"]).left_out() == []


def test_a_baseline_that_cannot_adapt_to_the_task_is_left_out() -> None:
    why = "its kernels have 9 positions, and the series of this task have 5"
    short = AdaptationSweep(task=replace(SERIES, input_shape=(2, 5)))
    assert short.left_out() == [f"minirocket is not compared: {why}"]


@pytest.mark.usefixtures("without_lightgbm")
def test_what_is_left_out_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ORCA_RAY_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    y = np.arange(60) % 2
    table = pd.DataFrame({"a": np.random.default_rng(0).normal(size=60), "kind": y})
    table.to_csv("t.csv", index=False)
    assert run(["adapt", "t.csv", "--target", "kind", "--dry-run"]) == 0
    printed = capfd.readouterr().out.splitlines()
    Path("t.html").write_text("mine")
    assert run(["adapt", "t.csv", "--target", "kind", "--dry-run"]) == 2
    assert "t.html, where the page is written, has other content: move it, or give --name" in capfd.readouterr().err
    assert printed.count(INSTALL) == 1
    assert not any("gradient_boosting:" in line for line in printed)
    monkeypatch.setattr(AdaptationSweep, "run", lambda self: None)
    with caplog.at_level(logging.WARNING), pytest.raises(UserError, match="no results"):
        orca_ray.adapt((table[["a"]], y), results=str(tmp_path / "results"))
    assert INSTALL in caplog.messages


S3 = "s3://bucket/results?region=eu"


@pytest.mark.parametrize(
    ("given", "shared"),
    [
        ({"address": "auto", "results": S3}, "s3://bucket/results/staged?region=eu"),
        ({"address": "auto", "results": "gs://bucket/results/"}, "gs://bucket/results/staged"),
        ({"address": "auto", "results": S3, "staging": "s3://bucket/other"}, "s3://bucket/other"),
        ({"address": "auto", "results": "results"}, None),
        ({"address": "auto", "results": "results", "staging": "/shared"}, "/shared"),
        ({"results": S3}, None),
        ({"address": "auto", "results": S3, "executor": "inline"}, None),
    ],
)
def test_nodes_of_a_cluster_get_the_data_through_the_store(
    given: dict[str, str], shared: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert AdaptationSweep(task=TABLE, **given).shared == shared  # type: ignore[arg-type]
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    joined = replace(AdaptationSweep(task=TABLE, **given), address=None)  # type: ignore[arg-type]
    assert joined.shared == ("s3://bucket/results/staged?region=eu" if given == {"results": S3} else shared)


@pytest.mark.parametrize(
    ("interrupted", "rounds"),
    [
        (False, [(0, (1,)), (4, (1, 2, 3))]),  # 6 trials of each method take 12 of 20 minutes; 10 would take them all
        (True, [(0, (1,))]),
    ],
)
def test_the_second_round_is_the_largest_that_fits(
    interrupted: bool, rounds: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, ran = ResultsStore(tmp_path / "results", create=True), list[Any]()

    def run_round(spec: SweepSpec, *_: Any, **__: Any) -> Summary:
        ran.append((spec.budget.search_trials, tuple(spec.confirm_seeds)))
        store.append([make_record(name, sweep=spec.sweep_id, method=name) for name in ("nft", "scratch")])
        return Summary(spec.sweep_id, 2, 0, 2, {}, interrupted=interrupted, seconds=120)

    monkeypatch.setattr("orca_ray.api.run_sweep", run_round)
    monkeypatch.setenv("ORCA_RAY_HOME", str(tmp_path / "home"))
    task = Task.from_arrays(np.random.default_rng(0).normal(size=(60, 2)), np.arange(60) % 2)
    sweep = AdaptationSweep(task=task, methods=["nft", "scratch"], minutes=20, results=store.uri)
    assert (sweep.run().interrupted, ran) == (interrupted, rounds)
