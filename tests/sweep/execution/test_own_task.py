"""A sweep over own tasks of every kind of target, and the commands that list and verify data."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orca_ray.results.record import Status
from orca_ray.sweep.plan.loading import parse_spec
from orca_ray.sweep.run.driver import run_sweep
from orca_ray.tasks.task import Task
from tests.sweep.real import TEXT, tiny_text

X = np.random.default_rng(0).normal(size=(60, 2, 20))
Y = np.arange(60) % 3


@pytest.mark.slow
@pytest.mark.parametrize("y", [Y, np.stack([Y == 1, Y < 2], axis=1).astype(float), X[:, 0, 0], X[:, 0]])
def test_a_sweep_trains_on_own_data(y: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCA_RAY_HOME", str(tmp_path / "home"))
    task = Task.from_arrays(X, y)
    text = TEXT.replace("benchmark: pocket", "benchmark: own").replace("pocket/wdbc", task.name)
    text = text.replace("[orca, nft]", "[nft]").replace("search_trials: 3, confirm_seeds: [1, 2]", "search_trials: 1")
    summary = run_sweep(parse_spec(tiny_text(tmp_path, text)), str(tmp_path / "results"), executor="inline")
    assert summary.statuses[Status.COMPLETED] == summary.planned
