"""RECRAFT: penalties, entropies and losses by hand-computed values, and its stages."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot

from orca_ray.data.rows import Target
from orca_ray.errors import UserError
from orca_ray.methods.recipes.recraft import RecraftConfig
from orca_ray.methods.registry import resolve
from orca_ray.methods.stages import recraft
from orca_ray.methods.stages.recraft import (
    DistortionStage,
    SourceHeadStage,
    entropy_of_mean,
    gradient_penalty,
)
from orca_ray.methods.stages.source_tokens import SourceTokens, source_tokens
from orca_ray.methods.stages.trial import Trial
from orca_ray.methods.trial_trainer import TrialTrainer
from orca_ray.testing.trials import CLASSES, QUICK, make_task, run, start
from orca_ray.training.numerics import NotFiniteError

SHORT = {**QUICK, "align.epochs": 1, "recraft.source_epochs": 2, "refine.epochs": 1}


def test_penalties_are_of_the_norm_of_a_sample_or_in_the_code_of_a_channel() -> None:
    gradients = torch.tensor([[[3.0, 0.0], [0.0, 4.0]], [[0.1, 0.0], [0.0, 0.0]]])
    # (5 - 1)², and 0.1 is below the threshold.
    assert gradient_penalty(gradients, 1.0).tolist() == [16.0, 0.0]
    gradients = torch.tensor([[[3.0, 1.0], [4.0, 0.0]], [[0.5, 2.0], [0.0, 0.0]]])
    # Norms of the channels: 5 and 1, 0.5 and 2.
    assert gradient_penalty(gradients, 1.0, by_channel=True).tolist() == [16.0, 1.0]
    zero = torch.zeros(2, 3, 4, requires_grad=True)
    penalty = gradient_penalty(zero, 0.4) + gradient_penalty(zero, 0.4, by_channel=True)
    (gradient,) = torch.autograd.grad(penalty.sum(), zero)
    assert not gradient.any()  # not NaN


def test_the_entropy_is_that_of_the_mean_prediction() -> None:
    # Two confident but different predictions: the mean is (1/2, 1/2, 0), though each
    # alone has no entropy.
    probabilities = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], requires_grad=True)
    entropy = entropy_of_mean(probabilities)
    assert entropy.item() == pytest.approx(math.log(2))
    (gradient,) = torch.autograd.grad(entropy, probabilities)
    assert torch.isfinite(gradient).all()
    assert entropy_of_mean(probabilities[:1]).item() == 0.0


def stage_of(trainer: TrialTrainer) -> SourceHeadStage:
    stages = (stage for stage in trainer._stages if isinstance(stage, SourceHeadStage))
    return next(stages)


@pytest.mark.parametrize("method", ["recraft", "recraft_code"])
def test_the_penalty_of_a_body_that_is_linear(
    vit: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With the identity as body and T tokens, ∂ℓ/∂z = Wᵀ(p − y) / T for each token. So
    # the norm of a sample's gradient is ‖Wᵀ(p − y)‖ / √T. The code has the norm of each
    # channel, and of the gradient of the step's mean loss.
    options = {**SHORT, "recraft.penalty": 2e4, "recraft.threshold": 1e-4}
    trainer = start(vit, method, hyperparameters=options)
    stage = stage_of(trainer)
    monkeypatch.setattr(trainer.model, "encode", lambda tokens: tokens)
    rows = torch.arange(5)
    source = stage._head.source
    linear = stage._head.linear
    features = stage._head.features(source.tokens(rows))
    labels = one_hot(source.y[rows], source.num_classes)
    residuals = linear(features).softmax(1) - labels
    assert trainer.model.body.pooling == "mean"
    _, num_tokens, _ = source.tokens(rows).shape
    slopes = residuals @ linear.weight / math.sqrt(num_tokens)
    if method == "recraft_code":
        norms = slopes.abs() / 20
    else:
        norms = slopes.norm(dim=1, keepdim=True)
    losses = cross_entropy(linear(features), source.y[rows], reduction="none")
    expected = losses + 2e4 * (norms - 1e-4).clamp_min(0).square().sum(dim=1)
    torch.testing.assert_close(stage._penalised_losses(rows, 20), expected)
    assert not torch.allclose(expected, losses, rtol=0.1)


def test_the_loss_of_the_code_on_sequences_has_two_softmaxes_and_no_penalty(
    bert: str,
) -> None:
    options = {**SHORT, "recraft.penalty_epochs": 2, "recraft.threshold": 0.0}

    def first_loss(penalty: float) -> tuple[float | None, SourceHeadStage]:
        values = {**options, "recraft.penalty": penalty}
        trainer = start(bert, "recraft_code", hyperparameters=values)
        while trainer.stage != "source_head":
            trainer.step()
        return trainer.step().loss, stage_of(trainer)

    loss, _ = first_loss(penalty=0.0)
    penalised_loss, stage = first_loss(penalty=1e6)
    assert penalised_loss == loss
    rows = torch.arange(4)
    logits = stage._head.linear(stage._features[rows]).softmax(1)
    expected = cross_entropy(logits, stage._head.source.y[rows], reduction="none")
    torch.testing.assert_close(stage._losses(stage._features[rows], rows), expected)


@pytest.mark.parametrize("method", ["recraft", "recraft_code"])
def test_losses_fall_and_only_the_code_trains_the_head_with_the_embedder(
    bert: str, method: str
) -> None:
    options = {
        **SHORT,
        "recraft.distortion_epochs": 3,
        "recraft.distortion_learning_rate": 1e-2,
        "recraft.penalty_epochs": 0,
    }
    trainer = start(bert, method, hyperparameters=options)
    head = stage_of(trainer)._head.linear
    trains_head: dict[str, bool] = {}
    losses: dict[str, list[float]] = {}
    while trainer.stage != "refine":
        stage = trainer.stage
        weight = head.weight.clone()
        losses.setdefault(stage, []).append(trainer.step().loss or 0.0)
        trains_head[stage] = not torch.equal(weight, head.weight)
    assert trains_head == {
        "align": False,
        "source_head": True,
        "distortion": method == "recraft_code",
    }
    for stage in ("source_head", "distortion"):
        first, *_, last = losses[stage]
        assert last < first


@pytest.mark.parametrize(
    ("target", "are_pure"), [(CLASSES, True), (Target("scalar", size=1), False)]
)
def test_distortion_keeps_given_classes_and_groups_other_targets(
    bert: str, target: Target, are_pure: bool
) -> None:
    trainer = start(bert, "recraft", task=make_task(target), hyperparameters=SHORT)
    stages = trainer._stages
    (stage,) = (stage for stage in stages if isinstance(stage, DistortionStage))
    y = np.asarray(stage._trial.data.train.y)
    num_values = [len(np.unique(y[rows])) for rows in stage._classes]
    assert (set(num_values) == {1}) is are_pure
    assert sum(map(len, stage._classes)) == len(y)


def test_micro_batches_do_not_change_the_result(
    bert: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**SHORT, "recraft.source_epochs": 1, "recraft.distortion_epochs": 1}
    expected = run(start(bert, "recraft", hyperparameters=options))
    monkeypatch.setattr(recraft, "max_micro_batch", lambda *_: 3)
    reports = run(start(bert, "recraft", hyperparameters=options))
    for report, expected_report in zip(reports, expected, strict=True):
        if report["stage"] in ("source_head", "distortion"):
            assert report["loss"] == pytest.approx(expected_report["loss"], rel=1e-5)


def test_without_distortion_there_is_no_source_head(bert: str) -> None:
    values = {**SHORT, "recraft.distortion_epochs": 0}
    reports = run(start(bert, "recraft", hyperparameters=values))
    assert {report["stage"] for report in reports} == {"align", "refine"}


def test_a_source_of_one_class_is_refused(
    bert: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_one_class(trial: Trial) -> SourceTokens:
        source = source_tokens(trial)
        return SourceTokens(source.inputs, torch.zeros_like(source.y), 1, source.stem)

    monkeypatch.setattr(recraft, "source_tokens", of_one_class)
    message = "needs source samples of at least 2 classes, got 1 in 40 samples"
    with pytest.raises(UserError, match=message):
        run(start(bert, "recraft", hyperparameters=SHORT))


def test_a_source_head_that_is_not_finite_ends_the_trial(bert: str) -> None:
    values = {**SHORT, "recraft.source_learning_rate": 1e38}
    trainer = start(bert, "recraft", hyperparameters=values)
    with pytest.raises(NotFiniteError, match="stage source_head"):
        run(trainer)


def test_each_method_has_its_form() -> None:
    assert resolve("recraft", {}).of(RecraftConfig).form == "paper"
    assert resolve("recraft_code", {}).of(RecraftConfig).form == "code"


def test_features_are_aligned_by_the_wasserstein_distance_whatever_the_option(
    bert: str,
) -> None:
    values = {**SHORT, "align.distance": "mmd", "align.samples_per_class": 60}
    recraft_epoch = start(bert, "recraft", hyperparameters=values).step()
    # 20 samples of each of three classes are the same 60 samples.
    values = {**SHORT, "align.distance": "wasserstein", "align.samples_per_class": 20}
    orca_epoch = start(bert, "orca", hyperparameters=values).step()
    assert recraft_epoch.distance == orca_epoch.distance
