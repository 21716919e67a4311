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
from orca_ray.training.artefacts.base import all_artefacts
from orca_ray.training.evaluate import Objective

from ..training.training_toys import evaluate, limited_memory

Reports = list[dict[str, Any]]


def test_test_score_is_that_of_the_best_epoch(bert: str) -> None:
    # A rate that overshoots after the first epochs makes the last epoch not the best
    # one.
    rough = {
        **QUICK,
        "refine.epochs": 6,
        "refine.learning_rate": 0.2,
        "refine.schedule": "constant",
    }
    trainer = start(bert, "nft", hyperparameters=rough)
    weights = []
    reports = []
    while not trainer.done:
        reports.append(trainer.step())
        weights.append(copy_of(trainer.model))
    outcome = trainer.result()
    validation = [report.validation_score for report in reports]
    assert outcome.validation_score == min(
        value for value in validation if value is not None
    )
    assert outcome.best_epoch == 1 + validation.index(outcome.validation_score)
    assert outcome.best_epoch < 6
    assert outcome.epochs == 6
    assert not changed(
        weights[-1], weights[outcome.best_epoch - 1]
    )  # restored with the last step
    data = make_data(TASK)
    objective = Objective(CLASSES, TASK.loss, TASK.metric)
    for split, score in (
        (data.test, outcome.test_score),
        (data.validation, outcome.validation_score),
    ):
        assert evaluate(trainer.model, split.x, split.y, objective) == score


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
    assert (first.stage, first.epoch, first.epochs) == ("align", 1, 3)
    assert first.distance is not None
    assert first.seconds > 0
    trainer.step()
    trainer.step()
    outcome = trainer.result()
    assert outcome.distance_before is not None
    assert outcome.distance_after is not None
    assert outcome.distance_after < outcome.distance_before
    assert (outcome.validation_score, outcome.precision) == (
        None,
        None,
    )  # unknown before the refine stage
    refine = trainer.step()
    assert (refine.stage, refine.epoch, refine.epochs, refine.distance) == (
        "refine",
        1,
        3,
        None,
    )
    outcome = trainer.result()
    assert outcome.validation_score == refine.validation_score is not None
    assert (outcome.epochs, outcome.best_epoch, outcome.test_score) == (1, 1, None)
    assert (
        min(outcome.align_seconds, outcome.refine_seconds, outcome.evaluate_seconds) > 0
    )
    assert outcome.peak_memory_mib is not None
    assert outcome.peak_memory_mib > 10
    trainer.step()
    trainer.step()
    assert trainer.done
    done = trainer.step()
    assert (done.stage, done.validation_score) == (
        "done",
        trainer.result().validation_score,
    )


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
    sizes = []
    for method in ("linear_probe", "nft"):
        other = start(bert, method)
        other.step()
        other.save(tmp_path / method)
        sizes.append((tmp_path / method).stat().st_size)
    assert sizes[0] < 0.5 * sizes[1]  # the frozen body is left out
    path.write_bytes(path.read_bytes()[:-100])
    damaged = start(bert)
    assert not damaged.restore(path)
    assert not damaged.restore(tmp_path / "none")
    assert reported(damaged.step())["epoch"] == 1


def test_close_frees_the_model(bert: str) -> None:
    """At once, also where checkpointed layers are part of reference cycles."""
    trainer = start(
        bert, "nft", hyperparameters={**QUICK, "refine.gradient_checkpointing": "on"}
    )
    run(trainer)
    parts = (*trainer.model.modules(), *trainer.model.parameters())
    references = [weakref.ref(part) for part in parts]
    del parts
    trainer.close()
    assert all(reference() is None for reference in references)
    assert trainer.result().test_score is not None


SLOW_ALIGN: dict[str, Scalar] = {
    **QUICK,
    "align.epochs": 9,
    "align.patience": 1,
    "align.tolerance": 0.9,
}
"""Nine epochs, of which plateaus leave four."""


def aligned(body: str, directory: Path, **changes: Any) -> tuple[Reports, TrialTrainer]:
    """Run a trial that shares its alignment through ``directory``."""
    trainer = start(
        body, **{"hyperparameters": SLOW_ALIGN, "aligned": directory, **changes}
    )
    return run(trainer), trainer


def test_a_second_trial_takes_the_alignment_over_bit_for_bit(
    bert: str, tmp_path: Path
) -> None:
    expected, first = aligned(bert, tmp_path)
    reports, second = aligned(bert, tmp_path)
    assert reports == expected == run(start(bert, hyperparameters=SLOW_ALIGN))
    assert [report["stage"] for report in reports] == ["align"] * 4 + ["refine"] * 3
    assert not changed(copy_of(first.model), copy_of(second.model))
    assert (first.result().align_reused, second.result().align_reused) == (False, True)
    assert (second.result().align_epochs, second.result().align_plateaued) == (4, True)
    assert scores(first.result()) == scores(second.result())
    assert second.result().align_seconds < first.result().align_seconds
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.slow
def test_who_shares_an_alignment_and_who_does_not(bert: str, tmp_path: Path) -> None:
    """One epoch is enough here; what counts is who finds the first trial's file."""
    base: dict[str, Scalar] = {**QUICK, "align.epochs": 1, "align.distance": "l2"}

    def reuses(changes: Mapping[str, Scalar] = base, **arguments: Any) -> bool:
        trial = start(
            bert,
            **{
                "hyperparameters": {**base, **changes},
                "aligned": tmp_path,
                **arguments,
            },
        )
        while trial.stage == "align":
            trial.step()
        return trial.result().align_reused

    assert not reuses()
    same: list[dict[str, Scalar]] = [
        {"refine.learning_rate": 3e-3},
        {"refine.dropout": 0.0},
        {"align.source": "prose"},
    ]
    assert [reuses(changes) for changes in same] == [True] * 3
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
    assert not reuses(
        data=replace(data, splits={**data.splits, "train": in_other_units})
    )


@pytest.mark.parametrize(("steps", "reused"), [(3, False), (1, True), (4, True)])
def test_an_interrupted_alignment_is_resumed_and_not_shared_and_a_replay_needs_no_file(
    bert: str, steps: int, reused: bool, tmp_path: Path
) -> None:
    """An interrupted alignment is not shared.

    It may have started on another kind of machine, whose numbers differ in the last
    bit.
    """
    shared = tmp_path / "aligned"
    expected, whole = aligned(bert, shared)
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
    assert second.artefacts() == whole.artefacts() != ()
    assert (second.result().align_reused, second.result().align_epochs) == (reused, 4)
    assert not shared.exists()


IMAGES = make_task(CLASSES, (3, 16, 16))


def test_a_trial_refines_on_augmented_inputs_and_aligns_on_inputs_as_they_are(
    vit: str,
) -> None:
    cropped = replace(IMAGES, augmentation="crop_flip")
    options = {**QUICK, "align.epochs": 1, "refine.epochs": 1}
    plain, augmented = (
        run(start(vit, task=task, hyperparameters=options))
        for task in (IMAGES, cropped)
    )
    assert plain[0] == augmented[0]
    assert plain[1]["loss"] != augmented[1]["loss"]
    shifted = run(
        start(vit, hyperparameters={**options, "refine.shift": 0.1}, task=IMAGES)
    )
    assert shifted[0] == plain[0]
    assert shifted[1]["loss"] not in (plain[1]["loss"], augmented[1]["loss"])
    with pytest.raises(UserError, match="unknown augmentation 'crop'"):
        start(vit, task=replace(IMAGES, augmentation="crop"))


def test_fallbacks_of_aligning_and_of_testing_are_reported(bert: str) -> None:
    trainer = start(
        bert,
        hyperparameters={
            **QUICK,
            "align.samples_per_class": 1,
            "align.distance": "otdd",
        },
    )
    run(trainer)
    assert (trainer.result().notes or "").startswith(
        "3 of 3 target classes have one sample"
    )

    trainer = start(bert, "nft")
    for _ in range(2):
        trainer.step()
    with limited_memory(
        trainer.model, 40, training=False
    ):  # validation has 40 samples, test 45
        trainer.step()
    assert (
        trainer.result().notes
        == "45 samples did not fit the device's memory in evaluation, 22 do"
    )


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

    whole = make()
    first = make()
    second = make()
    expected = run(whole)
    reports = [reported(first.step()) for _ in range(4)]
    first.save(tmp_path / "trial")
    assert second.restore(tmp_path / "trial")
    reports += run(second)
    assert whole.result().precision == options["refine.precision"]
    assert whole.result().notes is second.result().notes is None
    for name in ("distance", "loss"):
        values = [
            [report[name] for report in side if report[name] is not None]
            for side in (reports, expected)
        ]
        assert values[0] == pytest.approx(values[1], rel=tolerance), name


SHORT: dict[str, Scalar] = {**QUICK, "align.epochs": 2, "refine.epochs": 1}


def test_a_confirm_trial_shows_what_aligning_and_the_model_did(bert: str) -> None:
    trainer = start(bert, hyperparameters=SHORT)
    run(trainer)
    names = [(each.kind, each.name) for each in trainer.artefacts()]
    assert names[:3] == [
        ("features", "aligning"),
        ("features", "gap"),
        ("confusion_matrix", "test"),
    ]
    features, _, matrix = (json.loads(each.payload) for each in trainer.artefacts()[:3])
    (source, before), (_, after) = (panel["groups"] for panel in features["panels"])
    assert (source["x"]["shape"], before["x"]["shape"]) == ([40], [50])
    assert before["x"] != after["x"]
    counts = np.array(matrix["counts"])
    assert trainer.result().test_score == pytest.approx(1 - np.trace(counts) / 45)
    assert trainer.result().notes is None


def test_only_a_test_evaluation_is_shown(bert: str) -> None:
    search = start(
        bert,
        data=make_data(TASK, readable_test=False),
        hyperparameters=SHORT,
        test=False,
    )
    run(search)
    assert search.artefacts() == ()


def test_a_failure_is_a_note_and_changes_no_score(
    bert: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(evidence: object) -> list[tuple[str, Picture]]:
        raise MemoryError("no room; none\nat all")

    whole, broken = (start(bert, hyperparameters=SHORT) for _ in range(2))
    run(whole)
    found = all_artefacts()
    kinds = {
        name: replace(found[name], compute=fail)
        for name in ("confusion_matrix", "features")
    }
    monkeypatch.setattr("orca_ray.training.artefacts.base.all_artefacts", lambda: kinds)
    run(broken)
    assert broken.artefacts() == ()
    notes = [
        f"no artefact {name}: MemoryError: no room, none"
        for name in ("features", "confusion_matrix")
    ]
    assert scores(broken.result()) == {
        **scores(whole.result()),
        "notes": "; ".join(notes),
    }
