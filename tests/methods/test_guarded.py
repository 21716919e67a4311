"""What methods add to `orca`: the guard's choice, a share of the samples."""

from collections.abc import Mapping
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
from tests.methods.conftest import reuses_alignment
from tests.training.training_toys import Recording

SHORT: dict[str, Scalar] = {
    **QUICK,
    "align.epochs": 4,
    "align.schedule": "reference_step",
    "refine.epochs": 2,
}
SCALAR = make_task(Target("scalar"))
"""A task whose errors differ; those of classes may be equal, whatever the margin."""
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
        # Lower by the same for every sample: there is no noise.
        ((FLAT, BETTER, BETTER - 0.01), 20),
    ],
)
def test_the_guard_chooses_the_lowest_error_that_is_no_noise(
    errors: tuple[Tensor, ...], chosen: int
) -> None:
    # The embedder's weight is the number of its epochs.
    embedder = nn.Linear(1, 1, bias=False)
    script = iter(errors)
    guard = AlignGuard(embedder, lambda: next(script))
    for number in range(len(errors)):
        nn.init.constant_(embedder.weight, 10 * number)
        assert guard.is_due(POINTS[number])
        guard.step(POINTS[number], 10 * number)
        assert not guard.is_due(POINTS[number])
    assert guard.done
    assert guard.chosen_epoch == chosen
    assert [point.epoch for point in guard.points] == [0, 10, 20]
    means = [float(error.mean()) for error in errors]
    assert [point.error for point in guard.points] == pytest.approx(means)
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
    guarded = start(bert, "orca_guarded", task=SCALAR, hyperparameters=SHORT)
    unguarded = start(bert, twin, task=SCALAR, hyperparameters=SHORT)
    reports = run(guarded)
    expected = run(unguarded)
    epochs = [report for report in reports if report["stage"] != "probe"]
    assert epochs[-len(expected) :] == expected
    probes = [report for report in reports if report["stage"] == "probe"]
    assert [report["epoch"] for report in probes] == [0, 1, 4]
    for probe in probes:
        assert probe["epochs"] == 4
        assert 0 < probe["loss"] < 3
        assert probe["validation_score"] is None
        assert probe["distance"] is None
    assert guarded.result().align_chosen == chosen
    assert unguarded.result().align_chosen is None
    assert guarded.result().test_score == unguarded.result().test_score
    assert not changed(copy_of(guarded.model), copy_of(unguarded.model))


@pytest.mark.parametrize("paper", [True, False])
def test_where_validation_is_test_the_probe_does_not_read_it(
    bert: str, paper: bool
) -> None:
    """Under protocol ``paper`` they are one object, and NaN shows what is read."""
    data = make_data(TASK)
    poisoned = Split(np.full_like(data.validation.x[:], np.nan), data.validation.y)
    splits = {**data.splits, "validation": poisoned}
    if paper:
        splits["test"] = poisoned
    trial = start(
        bert, "orca_guarded", data=replace(data, splits=splits), hyperparameters=SHORT
    )
    if paper:
        trial.step()
    else:
        with pytest.raises(NotFiniteError, match="features"):
            trial.step()


def start_guarded(
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
    first = start_guarded(tmp_path / "aligned", bert, task=SCALAR)
    expected = run(first)
    # Another margin does not matter, because nothing is probed again.
    monkeypatch.setattr(guard_module, "MARGIN", 1e9)
    second = start_guarded(tmp_path / "aligned", bert, task=SCALAR)
    assert run(second) == expected
    assert scores(second.result()) == scores(first.result())
    assert second.result().align_reused
    assert second.result().align_chosen == 4
    assert not changed(copy_of(first.model), copy_of(second.model))
    for steps in (1, 6):
        third = start_guarded(tmp_path / "aligned", bert, task=SCALAR)
        reports = [reported(third.step()) for _ in range(steps)]
        third.save(tmp_path / f"{steps}")
        fourth = start_guarded(tmp_path / "none", bert, task=SCALAR)
        assert fourth.restore(tmp_path / f"{steps}")
        assert reports + run(fourth) == expected


def test_who_shares_a_guarded_alignment(bert: str, tmp_path: Path) -> None:
    """`orca` does not, nor does a body with other layers, which has other features."""
    first = start_guarded(tmp_path, bert)
    with_other_rate = start_guarded(
        tmp_path, bert, {**SHORT, "refine.learning_rate": 3e-3}
    )
    unguarded = start(bert, "orca", hyperparameters=SHORT, aligned=tmp_path)
    with_one_layer = start_guarded(tmp_path, f"{bert}:layers=1")
    assert not reuses_alignment(first)
    assert reuses_alignment(with_other_rate)
    assert not reuses_alignment(unguarded)
    assert not reuses_alignment(with_one_layer)


RAW_UNITS = replace(make_task(Target("scalar")), target_scale="measured")


def replace_train(data: PreparedData, x: Rows, y: Any = None) -> PreparedData:
    if y is None:
        y = data.train.y
    return replace(data, splits={**data.splits, "train": Split(x, y)})


def record_rows_read(
    body: str, fraction: float, seed: int = 0, method: str = "orca"
) -> set[int]:
    """Return the training rows that a trial reads.

    All validation rows must be read as well.
    """
    data = make_data(TASK)
    train = Recording(data.train.x)
    validation = Recording(data.validation.x)
    data = replace_train(data, train)
    recorded = Split(validation, data.validation.y)
    data = replace(data, splits={**data.splits, "validation": recorded})
    options = {**QUICK, "data.fraction": fraction}
    run(start(body, method, data=data, hyperparameters=options, seed=seed))
    assert set(chain(*validation.read)) == set(range(len(validation)))
    return set(chain(*train.read))


def test_a_trial_reads_a_nested_stratified_share_of_its_seed(bert: str) -> None:
    fifth = record_rows_read(bert, 0.2)
    half = record_rows_read(bert, 0.5)
    # The three classes have 17, 17 and 16 samples.
    classes = make_data(TASK).train.y[sorted(fifth)]
    assert np.bincount(classes).tolist() == [3, 3, 3]
    assert len(half) == 8 + 8 + 8
    assert fifth < half
    assert record_rows_read(bert, 0.2, method="nft") == fifth
    assert record_rows_read(bert, 0.2, seed=1, method="nft") != fifth
    assert len(record_rows_read(bert, 1.0)) == 50


@pytest.mark.parametrize("task", [TASK, RAW_UNITS], ids=["classes", "scalar"])
def test_no_statistic_comes_from_other_samples(bert: str, task: Any) -> None:
    """Samples that are not drawn may have any values, in units to be measured, too."""
    data = make_data(task)
    data = replace(
        replace_train(data, data.train.x[:] * 40 + 7), y_mean=None, y_std=None
    )
    recording = Recording(data.train.x)
    options: dict[str, Any] = {
        "task": task,
        "hyperparameters": {**QUICK, "data.fraction": 0.2},
    }
    expected = start(bert, data=replace_train(data, recording), **options)
    reports = run(expected)
    drawn = np.isin(np.arange(50), list(chain(*recording.read)))
    assert drawn.sum() <= 10
    x = data.train.x[:].copy()
    y = data.train.y.copy()
    x[~drawn] = np.nan
    if task is RAW_UNITS:
        y[~drawn] = np.nan
    poisoned = start(bert, data=replace_train(data, x, y), **options)
    assert run(poisoned) == reports
    assert scores(poisoned.result()) == scores(expected.result())


def test_units_do_not_reach_the_body(bert: str) -> None:
    task = make_task(Target("classes", size=3))
    data = make_data(task)

    def embed(data: PreparedData, *, standardise: bool = True) -> Tensor:
        trainer = TrialTrainer(
            task, data, "nft", bert, QUICK, 0, test=False, standardise=standardise
        )
        x = torch.from_numpy(data.train.x[:4])
        tokens = trainer.model.eval().embed(x).detach()
        trainer.close()
        return tokens

    in_tens = replace_train(data, data.train.x[:] * 10 + 3)
    in_hundredths = replace_train(data, data.train.x[:] * 1e-2 + 5)
    tokens = embed(in_tens)
    torch.testing.assert_close(tokens, embed(in_hundredths), rtol=1e-3, atol=1e-3)
    raw = embed(in_tens, standardise=False)
    assert (tokens - raw).abs().max() > 0.1
