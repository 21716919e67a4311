from pathlib import Path

import numpy as np
import pytest

from orca_ray.data import prepared
from orca_ray.data.prepared import under_protocol
from orca_ray.data.rows import Rows, Target
from orca_ray.tasks.registry import get_task
from tests.methods.tiny_trials import make_data, make_task, run, save_bert, scores, start


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
    monkeypatch.setattr(prepared, "JOINED_BYTES", 0)
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
        monkeypatch.setattr(prepared, "JOINED_BYTES", most_bytes)
        trial = start(body, task=task, data=under_protocol(data, "paper"))
        reports.append((run(trial), scores(trial.result())))
    assert reports[0] == reports[1]
