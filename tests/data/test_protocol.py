from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from orca_ray.data import prepared
from orca_ray.data.prepared import Split, under_protocol, with_train_fraction
from orca_ray.data.rows import Rows, Target
from orca_ray.tasks.registry import get_task
from orca_ray.testing.bodies import save_bert
from orca_ray.testing.trials import QUICK, make_data, make_task, run, scores, start


def test_held_out_leaves_the_splits_alone() -> None:
    data = get_task("pocket/wdbc").prepare()
    assert under_protocol(data, "held-out") is data


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pocket/wdbc", "pocket/burgers16"])
def test_paper_trains_on_all_but_test_and_selects_on_test(name: str) -> None:
    data = get_task(name).prepare()
    paper = under_protocol(data, "paper")
    assert len(paper.train.y) == len(data.train.y) + len(data.validation.y)
    np.testing.assert_array_equal(paper.train.x[len(data.train.x) :], data.validation.x)
    np.testing.assert_array_equal(paper.validation.y, data.test.y)
    assert paper.fingerprint == data.fingerprint


def test_large_arrays_are_joined_when_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    data = get_task("pocket/burgers16").prepare()
    small = under_protocol(data, "paper").train
    monkeypatch.setattr(prepared, "COPIED_BYTES", 0)
    large = under_protocol(data, "paper").train
    arrays: list[tuple[Rows, Rows]] = [(large.x, small.x), (large.y, small.y)]
    for joined, copied in arrays:
        assert not isinstance(joined, np.ndarray)
        assert (len(joined), joined.shape, joined.dtype) == (len(copied), copied.shape, copied.dtype)
        end = len(data.train)
        for part in (slice(None), slice(end - 2, end + 2), np.array([end, 0, end - 1])):
            np.testing.assert_array_equal(joined[part], copied[part])
        np.testing.assert_array_equal(np.asarray(joined), copied[:])
        assert np.asarray(joined, dtype=np.float64).dtype == np.float64
        with pytest.raises(ValueError, match="without a copy"):
            np.asarray(joined, copy=False)


def test_training_reads_joined_arrays_like_copied_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task(Target("dense", shape=(2, 16)))
    body, data = save_bert(tmp_path), make_data(task)
    reports = []
    for most_bytes in (2**30, 0):
        monkeypatch.setattr(prepared, "COPIED_BYTES", most_bytes)
        trial = start(body, task=task, data=under_protocol(data, "paper"))
        reports.append((run(trial), scores(trial.result())))
    assert reports[0] == reports[1]


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


def test_a_large_share_is_read_when_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task(Target("dense", shape=(2, 16)))
    body, data = save_bert(tmp_path), make_data(task)
    reports, parts = [], []
    for most_bytes in (2**30, 0):
        monkeypatch.setattr(prepared, "COPIED_BYTES", most_bytes)
        trial = start(body, task=task, data=data, hyperparameters={**QUICK, "data.fraction": 0.3})
        reports.append((run(trial), scores(trial.result())))
        parts.append(with_train_fraction(data, 0.3, 0, classes=False).train)
    assert reports[0] == reports[1]
    copied, selected = parts
    assert not isinstance(selected.x, np.ndarray)
    assert (len(selected), selected.x.shape, selected.x.dtype) == (15, copied.x.shape, copied.x.dtype)
    for part in (slice(2, 5), np.array([7, 0, 14])):
        np.testing.assert_array_equal(selected.x[part], copied.x[part])
    np.testing.assert_array_equal(np.asarray(selected.y), copied.y)
    with pytest.raises(ValueError, match="without a copy"):
        np.asarray(selected.y, copy=False)
