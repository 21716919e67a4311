"""Whole trials: progress, selection, resuming and artefacts.

Alignments are shared, stages are faithful, and bad input is refused.
"""

import json
import shutil
import weakref
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from orca_ray.data.prepared import Split, SplitName
from orca_ray.errors import UserError
from orca_ray.methods.options import Scalar
from orca_ray.methods.stages import align_stage
from orca_ray.methods.trial_trainer import TrialTrainer
from orca_ray.results.artefacts import Picture
from orca_ray.testing.trials import (
    CLASSES,
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
from orca_ray.training.align import AlignLoop
from orca_ray.training.artefacts.base import all_artefacts
from orca_ray.training.checkpoint import AlignEpoch
from orca_ray.training.evaluate import Objective

from ..training.training_toys import evaluate, limited_memory
from .conftest import reuses_alignment


def test_the_test_score_is_that_of_the_best_epoch(bert: str) -> None:
    # With a rate that overshoots after the first epochs, the last one is not the best.
    rough = {
        **QUICK,
        "refine.epochs": 6,
        "refine.learning_rate": 0.2,
        "refine.schedule": "constant",
    }
    trainer = start(bert, "nft", hyperparameters=rough)
    weights = []
    validation = []
    while not trainer.done:
        report = trainer.step()
        assert report.validation_score is not None
        validation.append(report.validation_score)
        weights.append(copy_of(trainer.model))
    outcome = trainer.result()
    assert outcome.validation_score == min(validation)
    assert outcome.best_epoch == 1 + validation.index(outcome.validation_score)
    assert outcome.best_epoch < 6
    assert outcome.epochs == 6
    # The last step has restored the best weights.
    assert not changed(weights[-1], weights[outcome.best_epoch - 1])
    data = make_data(TASK)
    objective = Objective(CLASSES, TASK.loss, TASK.metric)

    def score(split: Split) -> float:
        return evaluate(trainer.model, split.x, split.y, objective)

    assert score(data.test) == outcome.test_score
    assert score(data.validation) == outcome.validation_score


def test_without_align_epochs_orca_is_nft_and_another_seed_is_another_trial(
    bert: str,
) -> None:
    orca = start(bert, hyperparameters={**QUICK, "align.epochs": 0})
    expected = run(start(bert, "nft"))
    assert run(orca) == expected
    assert orca.result().distance_before is None
    assert run(start(bert, "nft", seed=1)) != expected


def test_progress_and_outcome_so_far(bert: str) -> None:
    """The sweep reads them from a trial that early stopping ends in the middle."""
    trainer = start(bert, hyperparameters={**QUICK, "align.learning_rate": 1e-2})
    first = trainer.step()
    assert first.stage == "align"
    assert (first.epoch, first.epochs) == (1, 3)
    assert first.distance is not None
    assert first.seconds > 0
    trainer.step()
    trainer.step()
    outcome = trainer.result()
    assert outcome.distance_before is not None
    assert outcome.distance_after is not None
    assert outcome.distance_after < outcome.distance_before
    # Unknown before the refine stage.
    assert outcome.validation_score is None
    assert outcome.precision is None
    refine = trainer.step()
    assert refine.stage == "refine"
    assert (refine.epoch, refine.epochs) == (1, 3)
    assert refine.distance is None
    outcome = trainer.result()
    assert outcome.validation_score == refine.validation_score is not None
    assert (outcome.epochs, outcome.best_epoch) == (1, 1)
    assert outcome.test_score is None
    assert outcome.align_seconds > 0
    assert outcome.refine_seconds > 0
    assert outcome.evaluate_seconds > 0
    assert outcome.peak_memory_mib is not None
    assert outcome.peak_memory_mib > 10
    trainer.step()
    trainer.step()
    assert trainer.done
    after_the_end = trainer.step()
    assert after_the_end.stage == "done"
    assert after_the_end.validation_score == trainer.result().validation_score


def test_checkpoints_of_other_trials_and_damaged_ones_are_not_taken(
    bert: str, tmp_path: Path
) -> None:
    path = tmp_path / "trial"
    first = start(bert)
    first.step()
    first.save(path)
    for other in (
        start(bert, seed=1),
        start(bert, "nft"),
        start(bert, hyperparameters={**QUICK, "refine.epochs": 4}),
        start(bert, test=False),
    ):
        assert not other.restore(path)
        assert scores(other.result())["distance_before"] is None
    assert start(bert).restore(path)
    path.write_bytes(path.read_bytes()[:-100])
    damaged = start(bert)
    assert not damaged.restore(path)
    assert not damaged.restore(tmp_path / "none")
    assert reported(damaged.step())["epoch"] == 1


def test_a_checkpoint_leaves_out_the_frozen_body(bert: str, tmp_path: Path) -> None:
    def save(method: str) -> int:
        trial = start(bert, method)
        trial.step()
        trial.save(tmp_path / method)
        return (tmp_path / method).stat().st_size

    assert save("linear_probe") < 0.5 * save("nft")


def test_close_frees_the_model_at_once(bert: str) -> None:
    """Checkpointed layers, which are part of reference cycles, are freed, too."""
    options = {**QUICK, "refine.gradient_checkpointing": "on"}
    trainer = start(bert, "nft", hyperparameters=options)
    run(trainer)
    modules = [weakref.ref(module) for module in trainer.model.modules()]
    parameters = [weakref.ref(parameter) for parameter in trainer.model.parameters()]
    trainer.close()
    assert all(module() is None for module in modules)
    assert all(parameter() is None for parameter in parameters)
    assert trainer.result().test_score is not None


SLOW_ALIGN: dict[str, Scalar] = {
    **QUICK,
    "align.epochs": 9,
    "align.patience": 1,
    "align.tolerance": 0.9,
}
"""Nine epochs, of which plateaus leave four."""


def count_align_epochs_as_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the align stage's clock advance by 1 s in each epoch that it trains."""
    num_epochs = 0
    train_epoch = AlignLoop.step

    def step(loop: AlignLoop) -> AlignEpoch:
        nonlocal num_epochs
        num_epochs += 1
        return train_epoch(loop)

    monkeypatch.setattr(AlignLoop, "step", step)
    monkeypatch.setattr(align_stage, "perf_counter", lambda: float(num_epochs))


def test_a_second_trial_takes_the_alignment_over_bit_for_bit(
    bert: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count_align_epochs_as_seconds(monkeypatch)
    first = start(bert, hyperparameters=SLOW_ALIGN, aligned=tmp_path)
    second = start(bert, hyperparameters=SLOW_ALIGN, aligned=tmp_path)
    alone = start(bert, hyperparameters=SLOW_ALIGN)
    reports = run(first)
    assert [report["stage"] for report in reports] == ["align"] * 4 + ["refine"] * 3
    assert run(second) == reports
    assert run(alone) == reports
    assert not changed(copy_of(first.model), copy_of(second.model))
    assert not first.result().align_reused
    assert second.result().align_reused
    assert second.result().align_epochs == 4
    assert second.result().align_plateaued
    assert scores(first.result()) == scores(second.result())
    assert first.result().align_seconds == 4.0
    assert second.result().align_seconds == 0.0
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.slow
def test_who_shares_an_alignment_and_who_does_not(bert: str, tmp_path: Path) -> None:
    """One epoch is enough here; what counts is who finds the first trial's file."""
    base: dict[str, Scalar] = {**QUICK, "align.epochs": 1, "align.distance": "l2"}

    def reuses(changes: Mapping[str, Scalar] = base, **arguments: Any) -> bool:
        values = {**base, **changes}
        trial = start(bert, hyperparameters=values, aligned=tmp_path, **arguments)
        return reuses_alignment(trial)

    assert not reuses()
    assert reuses({"refine.learning_rate": 3e-3})
    assert reuses({"refine.dropout": 0.0})
    assert reuses({"align.source": "prose"})
    assert reuses(method="orca_fpt")
    different: dict[str, Scalar] = {
        "embedder.sequence_length": 16,
        "embedder.initialisation": "random",
        "align.distance": "mmd",
        "align.learning_rate": 1e-3,
        "align.samples_per_class": 9,
        "align.patience": 0,
        "align.source_samples": 41,
        "align.epochs": 3,
        "data.fraction": 0.5,
    }
    for name, value in different.items():
        assert not reuses({name: value}), name
    assert reuses({"data.fraction": 0.5})
    assert not reuses(seed=1)
    assert not reuses(threads=2)
    assert not reuses(standardise=False)
    assert reuses()
    data = make_data(TASK)
    in_other_units = Split(100.0 * data.train.x[:], data.train.y)
    splits = {**data.splits, "train": in_other_units}
    assert not reuses(data=replace(data, splits=splits))


@pytest.mark.parametrize(("steps", "reused"), [(3, False), (1, True), (4, True)])
def test_an_interrupted_alignment_is_resumed_and_not_shared_and_a_replay_needs_no_file(
    bert: str, steps: int, reused: bool, tmp_path: Path
) -> None:
    """It may have started on a machine whose numbers differ in the last bit."""
    shared = tmp_path / "aligned"
    uninterrupted = start(bert, hyperparameters=SLOW_ALIGN, aligned=shared)
    expected = run(uninterrupted)
    if not reused:
        shutil.rmtree(shared)
    first = start(bert, hyperparameters=SLOW_ALIGN, aligned=shared)
    reports = [reported(first.step()) for _ in range(steps)]
    first.save(tmp_path / "trial")
    shutil.rmtree(shared, ignore_errors=True)
    second = start(bert, hyperparameters=SLOW_ALIGN, aligned=shared)
    assert second.restore(tmp_path / "trial")
    assert second.stage == first.stage
    reports += run(second)
    assert reports == expected
    assert second.artefacts() == uninterrupted.artefacts() != ()
    assert second.result().align_reused == reused
    assert second.result().align_epochs == 4
    assert not shared.exists()


IMAGES = make_task(CLASSES, (3, 16, 16))


def test_a_trial_refines_on_augmented_inputs_and_aligns_on_inputs_as_they_are(
    vit: str,
) -> None:
    cropped = replace(IMAGES, augmentation="crop_flip")
    options = {**QUICK, "align.epochs": 1, "refine.epochs": 1}
    with_shift = {**options, "refine.shift": 0.1}
    align, refine = run(start(vit, task=IMAGES, hyperparameters=options))
    align_cropped, refine_cropped = run(
        start(vit, task=cropped, hyperparameters=options)
    )
    align_shifted, refine_shifted = run(
        start(vit, task=IMAGES, hyperparameters=with_shift)
    )
    assert align == align_cropped == align_shifted
    losses = {refine["loss"], refine_cropped["loss"], refine_shifted["loss"]}
    assert len(losses) == 3


def test_an_unknown_augmentation_is_refused(vit: str) -> None:
    with pytest.raises(UserError, match="unknown augmentation 'crop'"):
        start(vit, task=replace(IMAGES, augmentation="crop"))


def test_classes_of_one_sample_are_noted(bert: str) -> None:
    options = {**QUICK, "align.samples_per_class": 1, "align.distance": "otdd"}
    trainer = start(bert, hyperparameters=options)
    run(trainer)
    notes = trainer.result().notes
    assert notes is not None
    assert notes.startswith("3 of 3 target classes have one sample")


def test_smaller_batches_of_the_test_are_noted(bert: str) -> None:
    trainer = start(bert, "nft")
    trainer.step()
    trainer.step()
    # Validation has 40 samples, test 45.
    with limited_memory(trainer.model, 40, training=False):
        trainer.step()
    note = "45 samples did not fit the device's memory in evaluation, 22 do"
    assert trainer.result().notes == note


@pytest.mark.parametrize(
    ("split", "change", "message"),
    [
        (
            "train",
            {"x": np.zeros((50, 2, 15), np.float32)},
            r"training inputs .*\(50, 2, 15\)",
        ),
        ("validation", {"x": np.full((40, 2, 16), "1.5")}, r"validation inputs .*<U3"),
        ("train", {"y": np.full(50, "1")}, r"training targets .*<U1"),
        ("validation", {"y": np.zeros((40, 3))}, r"validation targets .*\(40, 3\)"),
        ("train", {"y": np.zeros(49, np.int64)}, r"training targets .*50 rows"),
    ],
)
def test_data_that_do_not_fit_the_task_are_refused(
    split: SplitName, change: dict[str, np.ndarray], message: str
) -> None:
    data = make_data(TASK)
    splits = {**data.splits, split: replace(data.splits[split], **change)}
    with pytest.raises(UserError, match=f"tiny/classes: the {message}"):
        start("unused", data=replace(data, splits=splits))


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(
    ("options", "deterministic", "tolerance"),
    [
        ({"refine.precision": "float32"}, True, 1e-5),
        (
            {"refine.precision": "bfloat16", "refine.gradient_checkpointing": "on"},
            False,
            0.05,
        ),
        (
            {
                "refine.precision": "tf32",
                "refine.compile": "on",
                "align.distance": "otdd",
            },
            False,
            0.05,
        ),
    ],
)
def test_on_a_gpu_a_resumed_trial_follows_a_whole_one(
    bert: str,
    options: dict[str, Scalar],
    deterministic: bool,
    tolerance: float,
    tmp_path: Path,
) -> None:
    def make() -> TrialTrainer:
        return start(
            bert,
            hyperparameters=QUICK | options,
            device="cuda",
            deterministic=deterministic,
        )

    uninterrupted = make()
    first = make()
    second = make()
    expected = run(uninterrupted)
    reports = [reported(first.step()) for _ in range(4)]
    first.save(tmp_path / "trial")
    assert second.restore(tmp_path / "trial")
    reports += run(second)
    assert uninterrupted.result().precision == options["refine.precision"]
    assert uninterrupted.result().notes is None
    assert second.result().notes is None
    for report, expected_report in zip(reports, expected, strict=True):
        for name in ("distance", "loss"):
            assert report[name] == pytest.approx(expected_report[name], rel=tolerance)


SHORT: dict[str, Scalar] = {**QUICK, "align.epochs": 2, "refine.epochs": 1}


def test_a_confirm_trial_shows_what_aligning_and_the_model_did(bert: str) -> None:
    trainer = start(bert, hyperparameters=SHORT)
    run(trainer)
    features, gap, matrix, *_ = trainer.artefacts()
    assert (features.kind, features.name) == ("features", "aligning")
    assert (gap.kind, gap.name) == ("features", "gap")
    assert (matrix.kind, matrix.name) == ("confusion_matrix", "test")
    panel_before, panel_after = json.loads(features.payload)["panels"]
    source, target_before = panel_before["groups"]
    _, target_after = panel_after["groups"]
    assert source["x"]["shape"] == [40]
    assert target_before["x"]["shape"] == [50]
    assert target_before["x"] != target_after["x"]
    counts = np.array(json.loads(matrix.payload)["counts"])
    assert trainer.result().test_score == pytest.approx(1 - np.trace(counts) / 45)
    assert trainer.result().notes is None


def test_only_a_test_evaluation_is_shown(bert: str) -> None:
    data = make_data(TASK, readable_test=False)
    search = start(bert, data=data, hyperparameters=SHORT, test=False)
    run(search)
    assert search.artefacts() == ()


def test_an_artefact_that_fails_is_noted_and_changes_no_score(
    bert: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(evidence: object) -> list[tuple[str, Picture]]:
        raise MemoryError("no room; none\nat all")

    intact = start(bert, hyperparameters=SHORT)
    broken = start(bert, hyperparameters=SHORT)
    run(intact)
    kinds = {
        name: replace(all_artefacts()[name], compute=fail)
        for name in ("confusion_matrix", "features")
    }
    monkeypatch.setattr("orca_ray.training.artefacts.base.all_artefacts", lambda: kinds)
    run(broken)
    assert broken.artefacts() == ()
    notes = (
        "no artefact features: MemoryError: no room, none;"
        " no artefact confusion_matrix: MemoryError: no room, none"
    )
    assert scores(broken.result()) == {**scores(intact.result()), "notes": notes}
