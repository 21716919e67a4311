"""Builds of the benchmarks' own tasks, interrupted after every batch: they end in what an undisturbed one makes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from orca_ray.data import prepared
from orca_ray.data.raw import Workspace
from orca_ray.data.rows import Array
from orca_ray.tasks.registry import get_task
from tests.raw_files import writers

TASKS = sorted(name for name in writers() if not name.startswith(("openml/", "pdebench_generated/")))
SAMPLED = ("drug/ctrp", "nasbench360/ecg", "pdebench/shallow_water")
MOST_RUNS = 60


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in SAMPLED else pytest.mark.exhaustive) for name in TASKS]
)
def test_a_build_interrupted_after_every_batch_ends_the_same(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, task = tmp_path / "raw", get_task(name)
    raw.mkdir()
    writers()[name](raw)
    whole = task.prepare(raw=raw, out=tmp_path / "whole")
    batches, write = Workspace.batches, Workspace._write_progress

    def small(workspace: Workspace, stage: str, num_items: int, _: int, *arrays: Array) -> Iterator[slice]:
        return batches(workspace, stage, num_items, max(1, num_items // 3), *arrays)

    def interrupted(workspace: Workspace) -> None:
        write(workspace)
        raise KeyboardInterrupt

    monkeypatch.setattr(Workspace, "batches", small)
    monkeypatch.setattr(Workspace, "_write_progress", interrupted)
    for _ in range(MOST_RUNS):
        try:
            data = task.prepare(raw=raw, out=tmp_path / "resumed")
        except KeyboardInterrupt:
            continue
        assert data.fingerprint == whole.fingerprint
        prepared.verify(data)
        return
    pytest.fail(f"not done after {MOST_RUNS} interruptions: something is begun anew each time")
