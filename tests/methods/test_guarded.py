"""What methods add to `orca`: the guard's choice, a share of the samples."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from orca_ray.data.prepared import PreparedData, Split
from orca_ray.data.rows import Rows, Target
from orca_ray.methods.options import Scalar
from orca_ray.methods.stages import align_stage as guard_module
from orca_ray.methods.stages.align_stage import POINTS, AlignGuard
from orca_ray.methods.trial_trainer import TrialTrainer
from orca_ray.testing.trials import (
    QUICK,
    TASK,
    changed,
    copy_of,
    make_data,
    make_task,
    reported,
    run,
    scores,
    start,
)
from orca_ray.training.numerics import NotFiniteError
from tests.training.training_toys import Recording

SHORT: dict[str, Scalar] = {
    **QUICK,
    "align.epochs": 4,
    "align.schedule": "reference_step",
    "refine.epochs": 2,
}
SCALAR = make_task(
    Target("scalar")
)  # errors of classes may stay equal, so that no margin is low enough
FLAT = torch.ones(4)
WORSE = torch.tensor([1.0, 1.5, 1.2, 1.3])
BETTER = torch.tensor([0.5, 0.6, 0.4, 0.5])
NOISY = torch.tensor([0.0, 2.0, 0.0, 1.9])
"""A mean of 0.975, but a standard error of 0.49."""


@pytest.mark.parametrize(
    ("errors", "chosen"),
    [
        ((FLAT, WORSE, WORSE), 0),
        ((FLAT, FLAT, FLAT), 0),
        ((FLAT, NOISY, NOISY), 0),
        ((FLAT, BETTER, FLAT), 10),
        ((FLAT, WORSE, BETTER), 20),
        ((WORSE, FLAT, BETTER), 20),
        (
            (FLAT, BETTER, BETTER - 0.01),
            20,
        ),  # lower by the same for every sample: no noise
    ],
)
def test_the_choice(errors: tuple[Tensor, ...], chosen: int) -> None:
    # its weight is the number of epochs
    embedder = nn.Linear(1, 1, bias=False)
    script = iter(errors)
    guard = AlignGuard(embedder, lambda: next(script))
    for number in range(len(errors)):
        nn.init.constant_(embedder.weight, 10 * number)
        assert guard.is_due(POINTS[number])
        guard.step(POINTS[number], 10 * number)
        assert not guard.is_due(POINTS[number])
    assert guard.done
    assert guard.chosen == chosen
    assert [point.epoch for point in guard.points] == [0, 10, 20]
    assert [point.error for point in guard.points] == pytest.approx(
        [float(error.mean()) for error in errors]
    )
    guard.load_choice()
    assert embedder.weight.item() == chosen


def test_a_plateau_skips_points() -> None:
    guard = AlignGuard(nn.Linear(1, 1), lambda: FLAT)
    guard.step(0.0, 0)
    assert not guard.is_due(0.2)
    assert guard.is_due(1.0)
    guard.step(1.0, 7)
    assert guard.done
    assert [point.epoch for point in guard.points] == [0, 7]


@pytest.mark.parametrize(
    ("margin", "twin", "chosen"), [(1e9, "nft", 0), (-1e9, "orca", 4)]
)
def test_refining_starts_from_the_choice_bit_for_bit(
    bert: str, margin: float, twin: str, chosen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guard that never aligns is ``nft``, and one that always does is ``orca``."""
    monkeypatch.setattr(guard_module, "MARGIN", margin)
    trial, other = (
        start(bert, method, task=SCALAR, hyperparameters=SHORT)
        for method in ("orca_guarded", twin)
    )
    reports = run(trial)
    expected = run(other)
    assert [report for report in reports if report["stage"] != "probe"][
        -len(expected) :
    ] == expected
    probes = [report for report in reports if report["stage"] == "probe"]
    assert [(report["epoch"], report["epochs"]) for report in probes] == [
        (0, 4),
        (1, 4),
        (4, 4),
    ]
    assert all(0 < report["loss"] < 3 for report in probes)
    assert all(
        report["validation_score"] is report["distance"] is None for report in probes
    )
    assert trial.result().align_chosen == chosen
    assert other.result().align_chosen is None
    assert trial.result().test_score == other.result().test_score
    assert not changed(copy_of(trial.model), copy_of(other.model))


@pytest.mark.parametrize("paper", [True, False])
def test_where_validation_is_test_the_probe_does_not_read_it(
    bert: str, paper: bool
) -> None:
    """Under protocol ``paper``. Inputs that are not finite show who reads them."""
    data = make_data(TASK)
    unread = Split(np.full_like(data.validation.x[:], np.nan), data.validation.y)
    splits = {**data.splits, "validation": unread} | ({"test": unread} if paper else {})
    trial = start(
        bert, "orca_guarded", data=replace(data, splits=splits), hyperparameters=SHORT
    )
    with nullcontext() if paper else pytest.raises(NotFiniteError, match="features"):
        trial.step()


def trial_in(
    directory: Path,
    body: str,
    hyperparameters: Mapping[str, Scalar] = SHORT,
    **changes: Any,
) -> TrialTrainer:
    return start(
        body,
        "orca_guarded",
        hyperparameters=hyperparameters,
        aligned=directory,
        **changes,
    )


def test_another_trial_takes_choice_and_probes_over_also_when_interrupted(
    bert: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard_module, "MARGIN", -1e9)
    first = trial_in(tmp_path / "aligned", bert, task=SCALAR)
    expected = run(first)
    monkeypatch.setattr(
        guard_module, "MARGIN", 1e9
    )  # does not matter: nothing is probed
    second = trial_in(tmp_path / "aligned", bert, task=SCALAR)
    assert run(second) == expected
    assert scores(second.result()) == scores(first.result())
    assert (second.result().align_reused, second.result().align_chosen) == (True, 4)
    assert not changed(copy_of(first.model), copy_of(second.model))
    for steps in (1, 6):
        third = trial_in(tmp_path / "aligned", bert, task=SCALAR)
        reports = [reported(third.step()) for _ in range(steps)]
        third.save(tmp_path / f"{steps}")
        fourth = trial_in(tmp_path / "none", bert, task=SCALAR)
        assert fourth.restore(tmp_path / f"{steps}")
        assert reports + run(fourth) == expected


def test_who_shares_a_guarded_alignment(bert: str, tmp_path: Path) -> None:
    """Trials of `orca` and of bodies with other layers do not share it.

    `orca` keeps the last embedder; other layers have other features.
    """

    def reuses(trial: TrialTrainer) -> bool:
        while trial.stage != "refine":
            trial.step()
        return trial.result().align_reused

    assert not reuses(trial_in(tmp_path, bert))
    assert reuses(trial_in(tmp_path, bert, {**SHORT, "refine.learning_rate": 3e-3}))
    assert not reuses(start(bert, "orca", hyperparameters=SHORT, aligned=tmp_path))
    assert not reuses(trial_in(tmp_path, f"{bert}:layers=1"))


RAW_UNITS = replace(make_task(Target("scalar")), target_scale="measured")


def with_train(data: PreparedData, x: Rows, y: Any = None) -> PreparedData:
    return replace(
        data,
        splits={**data.splits, "train": Split(x, data.train.y if y is None else y)},
    )


def rows_read(
    body: str, fraction: float, seed: int = 0, method: str = "orca"
) -> set[int]:
    """Return the training rows that a trial reads.

    All validation rows must be read as well.
    """
    data = make_data(TASK)
    train = Recording(data.train.x)
    validation = Recording(data.validation.x)
    data = with_train(data, train)
    data = replace(
        data, splits={**data.splits, "validation": Split(validation, data.validation.y)}
    )
    run(
        start(
            body,
            method,
            data=data,
            hyperparameters={**QUICK, "data.fraction": fraction},
            seed=seed,
        )
    )
    assert set(chain(*validation.read)) == set(range(len(validation)))
    return set(chain(*train.read))


def test_a_trial_reads_a_nested_stratified_share_of_its_seed(bert: str) -> None:
    fifth = rows_read(bert, 0.2)
    half = rows_read(bert, 0.5)
    assert np.bincount(make_data(TASK).train.y[sorted(fifth)]).tolist() == [
        3,
        3,
        3,
    ]  # of 17, 17 and 16
    assert len(half) == 8 + 8 + 8
    assert fifth < half
    assert (
        rows_read(bert, 0.2, seed=1, method="nft")
        != fifth
        == rows_read(bert, 0.2, method="nft")
    )
    assert len(rows_read(bert, 1.0)) == 50


@pytest.mark.parametrize("task", [TASK, RAW_UNITS], ids=["classes", "scalar"])
def test_no_statistic_comes_from_other_samples(bert: str, task: Any) -> None:
    """Samples that are not drawn may have any values.

    That holds for inputs and targets, also in units that have to be measured.
    """
    data = make_data(task)
    data = replace(with_train(data, data.train.x[:] * 40 + 7), y_mean=None, y_std=None)
    recording = Recording(data.train.x)
    options: dict[str, Any] = {
        "task": task,
        "hyperparameters": {**QUICK, "data.fraction": 0.2},
    }
    expected = start(bert, data=with_train(data, recording), **options)
    reports = run(expected)
    drawn = np.isin(np.arange(50), list(chain(*recording.read)))
    assert drawn.sum() <= 10
    x = data.train.x[:].copy()
    y = data.train.y.copy()
    x[~drawn] = np.nan
    if task is RAW_UNITS:
        y[~drawn] = np.nan
    poisoned = start(bert, data=with_train(data, x, y), **options)
    assert run(poisoned) == reports
    assert scores(poisoned.result()) == scores(expected.result())


def test_units_do_not_reach_the_body(bert: str) -> None:
    """Inputs in other units become the same tokens.

    They are in hundredths and far from zero, or in tens.
    """
    task = make_task(Target("classes", size=3))
    data = make_data(task)
    tens = with_train(data, data.train.x[:] * 10 + 3)
    hundredths = with_train(data, data.train.x[:] * 1e-2 + 5)
    tokens = {}
    for name, given, standardise in (
        ("tens", tens, True),
        ("hundredths", hundredths, True),
        ("raw", tens, False),
    ):
        trainer = TrialTrainer(
            task, given, "nft", bert, QUICK, 0, test=False, standardise=standardise
        )
        tokens[name] = (
            trainer.model.eval().embed(torch.from_numpy(given.train.x[:4])).detach()
        )
        trainer.close()
    torch.testing.assert_close(
        tokens["tens"], tokens["hundredths"], rtol=1e-3, atol=1e-3
    )
    assert (tokens["tens"] - tokens["raw"]).abs().max() > 0.1
