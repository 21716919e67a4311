from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orca_ray.data import prepared
from orca_ray.data.prepared import Split, under_protocol, with_train_fraction
from orca_ray.data.rows import Rows, Target, TargetKind
from orca_ray.tasks.registry import get_task
from orca_ray.testing.bodies import save_bert
from orca_ray.testing.trials import QUICK, make_data, make_task, run, scores, start


def test_paper_trains_on_all_but_test_and_selects_on_test(monkeypatch: pytest.MonkeyPatch) -> None:
    data = get_task("pocket/burgers16").prepare()
    assert under_protocol(data, "held-out") is data
    paper = under_protocol(data, "paper")
    assert len(paper.train.y) == len(data.train.y) + len(data.validation.y)
    np.testing.assert_array_equal(paper.train.x[len(data.train.x) :], data.validation.x)
    np.testing.assert_array_equal(paper.validation.y, data.test.y)
    assert paper.fingerprint == data.fingerprint
    monkeypatch.setattr(prepared, "COPIED_BYTES", 0)
    large, end = under_protocol(data, "paper").train, len(data.train)
    _reads_like(large.x, paper.train.x, (slice(None), slice(end - 2, end + 2), np.array([end, 0, end - 1])))
    _reads_like(large.y, paper.train.y, (slice(None), slice(end - 2, end + 2), np.array([end, 0, end - 1])))


def _reads_like(lazy: Rows, copied: Rows, parts: Sequence[Any]) -> None:
    """Check rows that are joined or selected when they are read."""
    assert not isinstance(lazy, np.ndarray)
    assert (len(lazy), lazy.shape, lazy.dtype) == (len(copied), copied.shape, copied.dtype)
    for part in parts:
        np.testing.assert_array_equal(lazy[part], copied[part])
    np.testing.assert_array_equal(np.asarray(lazy), copied[:])
    assert np.asarray(lazy, dtype=np.float64).dtype == np.float64
    with pytest.raises(ValueError, match="without a copy"):
        np.asarray(lazy, copy=False)


def test_a_share_of_the_training_samples_is_stratified_and_leaves_other_splits() -> None:
    data = make_data(make_task(Target("classes", size=3)))  # 17, 17 and 16 of a class
    part = with_train_fraction(data, 0.2, 0, classes=True)
    assert np.bincount(part.train.y).tolist() == [3, 3, 3]
    positions = [int(np.flatnonzero((data.train.x == x).all(axis=(1, 2)))[0]) for x in part.train.x[:]]
    assert positions == sorted(set(positions))
    np.testing.assert_array_equal(part.train.y, data.train.y[positions])
    assert (part.validation, part.test) == (data.validation, data.test)
    assert part.fingerprint == data.fingerprint
    assert len(with_train_fraction(make_data(make_task(Target("scalar"))), 0.2, 0, classes=False).train) == 10


def test_rows_of_one_sample_are_drawn_together() -> None:
    data = make_data(make_task(Target("labels", size=3)))
    group = np.arange(50) // 5 * 3  # ten samples of five rows
    train = Split(data.train.x, data.train.y, group)
    part = with_train_fraction(replace(data, splits={**data.splits, "train": train}), 0.3, 1, classes=False)
    assert part.train.group is not None
    assert np.unique(part.train.group, return_counts=True)[1].tolist() == [5, 5, 5]
    np.testing.assert_array_equal(part.train.y, data.train.y[np.isin(group, part.train.group)])


@pytest.mark.parametrize("protocol", ["held-out", "paper"])
def test_training_reads_large_arrays_like_copied_ones(
    protocol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(Target("dense", shape=(2, 16)))
    body, whole = save_bert(tmp_path), make_data(task)
    reports, parts = [], []
    for most_bytes in (2**30, 0):
        monkeypatch.setattr(prepared, "COPIED_BYTES", most_bytes)
        data = under_protocol(whole, protocol)
        trial = start(body, task=task, data=data, hyperparameters={**QUICK, "data.fraction": 0.3})
        reports.append((run(trial), scores(trial.result())))
        parts.append(with_train_fraction(data, 0.3, 0, classes=False).train)
    assert reports[0] == reports[1]
    if protocol == "held-out":
        assert len(parts[1]) == 15
        _reads_like(parts[1].x, parts[0].x, (slice(2, 5), np.array([7, 0, 14])))
        _reads_like(parts[1].y, parts[0].y, (slice(2, 5), np.array([7, 0, 14])))


@pytest.mark.parametrize(("kind", "size"), [("dense", 1), ("classes", -1), ("labels", 0)])
def test_impossible_targets_are_refused(kind: TargetKind, size: int) -> None:
    with pytest.raises(ValueError, match="target"):
        Target(kind, size=size)
