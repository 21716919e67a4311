"""What a trial reads: a share of the training samples and nothing else of their split, in units of its own."""

from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch

from orca_ray.data.prepared import PreparedData, Split
from orca_ray.data.rows import Rows, Target
from orca_ray.methods.trial_trainer import TrialTrainer
from orca_ray.testing.trials import QUICK, TASK, make_data, make_task, run, scores, start
from tests.training.training_toys import Recording

RAW_UNITS = replace(make_task(Target("scalar")), target_scale="measured")


def with_train(data: PreparedData, x: Rows, y: Any = None) -> PreparedData:
    return replace(data, splits={**data.splits, "train": Split(x, data.train.y if y is None else y)})


def rows_read(body: str, fraction: float, seed: int = 0, method: str = "orca") -> set[int]:
    """Return the training rows that a trial reads; all validation rows must be read as well."""
    data = make_data(TASK)
    train, validation = Recording(data.train.x), Recording(data.validation.x)
    data = with_train(data, train)
    data = replace(data, splits={**data.splits, "validation": Split(validation, data.validation.y)})
    run(start(body, method, data=data, hyperparameters={**QUICK, "data.fraction": fraction}, seed=seed))
    assert set(chain(*validation.read)) == set(range(len(validation)))
    return set(chain(*train.read))


def test_a_trial_reads_a_nested_stratified_share_of_its_seed(bert: str) -> None:
    fifth, half = rows_read(bert, 0.2), rows_read(bert, 0.5)
    assert np.bincount(make_data(TASK).train.y[sorted(fifth)]).tolist() == [3, 3, 3]  # of 17, 17 and 16
    assert len(half) == 8 + 8 + 8
    assert fifth < half
    assert rows_read(bert, 0.2, seed=1, method="nft") != fifth == rows_read(bert, 0.2, method="nft")
    assert len(rows_read(bert, 1.0)) == 50


@pytest.mark.parametrize("task", [TASK, RAW_UNITS], ids=["classes", "scalar"])
def test_no_statistic_comes_from_other_samples(bert: str, task: Any) -> None:
    """What is not drawn may be anything, in inputs and targets, also in units that have to be measured."""
    data = make_data(task)
    data = replace(with_train(data, data.train.x[:] * 40 + 7), y_mean=None, y_std=None)
    recording = Recording(data.train.x)
    options: dict[str, Any] = {"task": task, "hyperparameters": {**QUICK, "data.fraction": 0.2}}
    expected = start(bert, data=with_train(data, recording), **options)
    reports = run(expected)
    drawn = np.isin(np.arange(50), list(chain(*recording.read)))
    assert drawn.sum() <= 10
    x, y = data.train.x[:].copy(), data.train.y.copy()
    x[~drawn] = np.nan
    if task is RAW_UNITS:
        y[~drawn] = np.nan
    poisoned = start(bert, data=with_train(data, x, y), **options)
    assert run(poisoned) == reports
    assert scores(poisoned.result()) == scores(expected.result())


def test_units_do_not_reach_the_body(bert: str) -> None:
    """In hundredths and far from zero, inputs become the tokens that they are in tens."""
    task = make_task(Target("classes", size=3))
    data = make_data(task)
    tens, hundredths = with_train(data, data.train.x[:] * 10 + 3), with_train(data, data.train.x[:] * 1e-2 + 5)
    tokens = {}
    for name, given, standardise in (("tens", tens, True), ("hundredths", hundredths, True), ("raw", tens, False)):
        trainer = TrialTrainer(task, given, "nft", bert, QUICK, 0, test=False, standardise=standardise)
        tokens[name] = trainer.model.eval().embed(torch.from_numpy(given.train.x[:4])).detach()
        trainer.close()
    torch.testing.assert_close(tokens["tens"], tokens["hundredths"], rtol=1e-3, atol=1e-3)
    assert (tokens["tens"] - tokens["raw"]).abs().max() > 0.1
