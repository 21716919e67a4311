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
    assert not torch.autograd.grad(penalty.sum(), zero)[0].any()  # not NaN


def test_the_entropy_is_that_of_the_mean_prediction() -> None:
    # Two confident but different predictions: the mean is (1/2, 1/2, 0), though each
    # alone has no entropy.
    probabilities = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], requires_grad=True)
    entropy = entropy_of_mean(probabilities)
    assert entropy.item() == pytest.approx(math.log(2))
    assert torch.isfinite(torch.autograd.grad(entropy, probabilities)[0]).all()
    assert entropy_of_mean(probabilities[:1]).item() == 0.0


def stage_of(trainer: TrialTrainer) -> SourceHeadStage:
    stages = (stage for stage in trainer._stages if isinstance(stage, SourceHeadStage))
    return next(stages)


@pytest.mark.parametrize("method", ["recraft", "recraft_code"])
def test_the_penalty_of_a_body_that_is_linear(
    vit: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the identity as body and T tokens, ∂ℓ/∂z = Wᵀ(p − y) / T for each token.

    So the norm of a sample's gradient is ‖Wᵀ(p − y)‖ / √T. The code has the norm of
    each channel, and of the gradient of the step's mean loss.
    """
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
    slopes = residuals @ linear.weight / math.sqrt(source.tokens(rows).shape[1])
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
    losses = []
    for penalty in (0.0, 1e6):
        options = {
            **SHORT,
            "recraft.penalty": penalty,
            "recraft.penalty_epochs": 2,
            "recraft.threshold": 0.0,
        }
        trainer = start(bert, "recraft_code", hyperparameters=options)
        while trainer.stage != "source_head":
            trainer.step()
        losses.append(trainer.step().loss)
    assert losses[0] == losses[1]
    stage = stage_of(trainer)
    rows = torch.arange(4)
    logits = stage._head.linear(stage._features[rows]).softmax(1)
    expected = cross_entropy(logits, stage._head.source.y[rows], reduction="none")
    torch.testing.assert_close(stage._losses(stage._features[rows], rows), expected)


def test_losses_fall_and_only_the_code_trains_the_head_with_the_embedder(
    bert: str,
) -> None:
    options = {
        **SHORT,
        "recraft.distortion_epochs": 3,
        "recraft.distortion_learning_rate": 1e-2,
    }
    for method in ("recraft", "recraft_code"):
        trainer = start(
            bert, method, hyperparameters={**options, "recraft.penalty_epochs": 0}
        )
        head = stage_of(trainer)._head.linear
        moves: dict[str, bool] = {}
        losses: dict[str, list[float]] = {}
        while trainer.stage != "refine":
            stage = trainer.stage
            weight = head.weight.clone()
            losses.setdefault(stage, []).append(trainer.step().loss or 0.0)
            moves[stage] = not torch.equal(weight, head.weight)
        assert moves == {
            "align": False,
            "source_head": True,
            "distortion": method == "recraft_code",
        }
        for stage in ("source_head", "distortion"):
            assert losses[stage][-1] < losses[stage][0]


def test_distortion_keeps_given_classes_and_groups_other_targets(bert: str) -> None:
    for target in (CLASSES, Target("scalar", size=1)):
        trainer = start(bert, "recraft", task=make_task(target), hyperparameters=SHORT)
        (stage,) = (
            stage for stage in trainer._stages if isinstance(stage, DistortionStage)
        )
        y = np.asarray(stage._trial.data.train.y)
        are_pure = all(len(np.unique(y[rows])) == 1 for rows in stage._classes)
        assert are_pure is (target is CLASSES)
        assert sum(map(len, stage._classes)) == len(y)


def test_micro_batches_do_not_change_the_result(
    bert: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**SHORT, "recraft.source_epochs": 1, "recraft.distortion_epochs": 1}
    whole = run(start(bert, "recraft", hyperparameters=options))
    monkeypatch.setattr(recraft, "max_micro_batch", lambda *_: 3)
    parts = run(start(bert, "recraft", hyperparameters=options))
    for one, other in zip(whole, parts, strict=True):
        if one["stage"] in ("source_head", "distortion"):
            assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)


def test_without_distortion_there_is_no_source_head(bert: str) -> None:
    values = {**SHORT, "recraft.distortion_epochs": 0}
    reports = run(start(bert, "recraft", hyperparameters=values))
    assert {report["stage"] for report in reports} == {"align", "refine"}


def test_a_source_of_one_class(bert: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def of_one_class(trial: Trial) -> SourceTokens:
        source = source_tokens(trial)
        return SourceTokens(source.inputs, torch.zeros_like(source.y), 1, source.stem)

    monkeypatch.setattr(recraft, "source_tokens", of_one_class)
    with pytest.raises(
        UserError,
        match="needs source samples of at least 2 classes, got 1 in 40 samples",
    ):
        run(start(bert, "recraft", hyperparameters=SHORT))


def test_forms_and_what_is_not_finite(bert: str) -> None:
    values = {**SHORT, "recraft.source_learning_rate": 1e38}
    trainer = start(bert, "recraft", hyperparameters=values)
    with pytest.raises(NotFiniteError, match="stage source_head"):
        run(trainer)
    assert resolve("recraft", {}).of(RecraftConfig).form == "paper"
    assert resolve("recraft_code", {}).of(RecraftConfig).form == "code"


def test_features_are_aligned_by_the_wasserstein_distance_whatever_the_option(
    bert: str,
) -> None:
    values = {**SHORT, "align.distance": "mmd", "align.samples_per_class": 60}
    distance = start(bert, "recraft", hyperparameters=values).step().distance
    values = {
        **SHORT,
        "align.distance": "wasserstein",
        "align.samples_per_class": 20,
    }  # of each of three classes
    assert distance == start(bert, "orca", hyperparameters=values).step().distance
