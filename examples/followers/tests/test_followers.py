"""The methods: their conformance, losses by hand-computed values, stages, and the
bilevel gradient in closed form.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from orca_ray_followers import recraft_stages as recraft
from orca_ray_followers.joint import DistanceTerm, JointConfig
from orca_ray_followers.mona_stages import (
    BilevelStage,
    alignment_and_uniformity,
    bilevel_gradients,
    positive_pairs,
)
from orca_ray_followers.recraft import RecraftConfig
from orca_ray_followers.recraft_stages import entropy_of_mean, gradient_penalty
from orca_ray_followers.source_tokens import SourceTokens, source_tokens
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import Parameter
from torch.nn.attention import SDPBackend, sdpa_kernel

from orca_ray.alignment.source_features import fitted_distance
from orca_ray.data.rows import Target
from orca_ray.errors import UserError
from orca_ray.methods.options import Scalar
from orca_ray.methods.registry import expand, from_flat, get_method, resolve
from orca_ray.methods.stages.refine_stage import RefineStage
from orca_ray.methods.stages.trial import Trial
from orca_ray.methods.trial_trainer import TrialTrainer
from orca_ray.testing import MethodSuite
from orca_ray.testing.trials import (
    CLASSES,
    QUICK,
    changed,
    copy_of,
    make_task,
    run,
    start,
)
from orca_ray.training.numerics import NotFiniteError

NAMES = ("joint", "mona", "pare", "recraft", "recraft_code")
SHORT = {**QUICK, "align.epochs": 1, "recraft.source_epochs": 2, "refine.epochs": 1}


class TestMethods(MethodSuite):
    names = NAMES


def test_only_the_variant_is_left_out_of_the_group_of_all_methods() -> None:
    assert set(NAMES) - set(expand(["field"])) == {"recraft_code"}


ALL = {"embedder", "body", "head"}
OUTSIDE = {"embedder", "head"}


@pytest.mark.parametrize(
    ("method", "options", "expected"),
    [
        ("joint", {"joint.epochs": 2}, {"joint": OUTSIDE, "refine": ALL}),
        (
            "mona",
            {"mona.epochs": 1},
            {"warmup": OUTSIDE, "bilevel": OUTSIDE, "refine": ALL},
        ),
        (
            "recraft",
            {},
            {
                "align": {"embedder"},
                "source_head": set(),
                "distortion": {"embedder"},
                "refine": ALL,
            },
        ),
    ],
)
def test_what_each_stage_trains(
    bert: str, method: str, options: dict[str, Scalar], expected: dict[str, set[str]]
) -> None:
    trainer = start(
        bert, method, hyperparameters={**QUICK, "refine.epochs": 1, **options}
    )
    trained: dict[str, set[str]] = {}
    while not trainer.done:
        stage = trainer.stage
        before = copy_of(trainer.model)
        trainer.step()
        moved = {name.split(".")[0] for name in changed(before, copy_of(trainer.model))}
        trained[stage] = trained.get(stage, set()) | moved
    assert trained == expected
    assert trainer.result().epochs == 1
    assert trainer.result().align_seconds > 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("recraft.form", "papers"),
        ("recraft.threshold", -0.1),
        ("mona.source_weight", -1.0),
        ("joint.weight", -1.0),
        ("pare.begin", 1.5),
        ("pare.weight", -1.0),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(name: str, value: Scalar) -> None:
    with pytest.raises(UserError, match=name):
        from_flat({name: value})


def test_penalties_are_of_the_norm_of_a_sample_or_as_in_the_code_of_the_norm_over_tokens() -> (
    None
):
    gradients = torch.tensor([[[3.0, 0.0], [0.0, 4.0]], [[0.1, 0.0], [0.0, 0.0]]])
    assert gradient_penalty(gradients, 1.0).tolist() == [
        16.0,
        0.0,
    ]  # (5 - 1)², and 0.1 is below the threshold
    gradients = torch.tensor([[[3.0, 1.0], [4.0, 0.0]], [[0.5, 2.0], [0.0, 0.0]]])
    assert gradient_penalty(gradients, 1.0, by_channel=True).tolist() == [
        16.0,
        1.0,
    ]  # 5 and 1, 0.5 and 2
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


def stage_of(trainer: TrialTrainer) -> recraft.SourceHeadStage:
    return next(
        stage for stage in trainer._stages if isinstance(stage, recraft.SourceHeadStage)
    )


@pytest.mark.parametrize("method", ["recraft", "recraft_code"])
def test_the_penalty_of_a_body_that_is_linear(
    vit: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the identity as body and T tokens, ∂ℓ/∂z = Wᵀ(p − y) / T for each token, so
    its norm is ‖Wᵀ(p − y)‖ / √T.

    The code has the norm of each channel, and of the gradient of the step's mean loss.
    """
    options = {**SHORT, "recraft.penalty": 2e4, "recraft.threshold": 1e-4}
    trainer = start(vit, method, hyperparameters=options)
    stage = stage_of(trainer)
    monkeypatch.setattr(trainer.model, "encode", lambda tokens: tokens)
    rows = torch.arange(5)
    source = stage._head.source
    linear = stage._head.linear
    features = stage._head.features(source.tokens(rows))
    residuals = linear(features).softmax(1) - torch.nn.functional.one_hot(
        source.y[rows], source.num_classes
    )
    assert trainer.model.body.pooling == "mean"
    slopes = residuals @ linear.weight / math.sqrt(source.tokens(rows).shape[1])
    norms = (
        slopes.abs() / 20
        if method == "recraft_code"
        else slopes.norm(dim=1, keepdim=True)
    )
    plain = torch.nn.functional.cross_entropy(
        linear(features), source.y[rows], reduction="none"
    )
    expected = plain + 2e4 * (norms - 1e-4).clamp_min(0).square().sum(dim=1)
    torch.testing.assert_close(stage._penalised(rows, 20), expected)
    assert not torch.allclose(expected, plain, rtol=0.1)


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
    expected = torch.nn.functional.cross_entropy(
        logits, stage._head.source.y[rows], reduction="none"
    )
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
        stage = next(
            stage
            for stage in trainer._stages
            if isinstance(stage, recraft.DistortionStage)
        )
        y = np.asarray(stage._trial.data.train.y)
        assert all(len(np.unique(y[rows])) == 1 for rows in stage._classes) is (
            target is CLASSES
        )
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
    reports = run(
        start(
            bert, "recraft", hyperparameters={**SHORT, "recraft.distortion_epochs": 0}
        )
    )
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
    trainer = start(
        bert, "recraft", hyperparameters={**SHORT, "recraft.source_learning_rate": 1e38}
    )
    with pytest.raises(NotFiniteError, match="stage source_head"):
        run(trainer)
    assert [
        resolve(method, {}).of(RecraftConfig).form
        for method in ("recraft", "recraft_code")
    ] == ["paper", "code"]


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


def test_an_epoch_of_mona_costs_three_of_refining() -> None:
    estimate = get_method("mona").other_epochs
    assert estimate({"mona.warmup_epochs": 4, "mona.epochs": 2}, 100) == pytest.approx(
        0.7 * 4 + 3 * 2
    )


MONA = {**QUICK, "mona.source_batch": 8, "mona.epochs": 1, "refine.epochs": 1}


def test_alignment_and_uniformity() -> None:
    # Unit vectors at 0°, 90° (anchors) and at 90°, 90° (positives), given at other
    # lengths.
    anchors = torch.tensor([[3.0, 0.0], [0.0, 0.5]])
    positives = torch.tensor([[0.0, 2.0], [0.0, 1.0]])
    # Squared distances: of the positive pairs 2 and 0; of all six pairs three times 2
    # and three times 0.
    expected = 1.0 + math.log((3 * math.exp(-4.0) + 3) / 6)
    assert alignment_and_uniformity(anchors, positives).item() == pytest.approx(
        expected, rel=1e-6
    )


def test_positive_pairs_are_of_one_class_and_differ() -> None:
    y = torch.tensor([2, 0, 1, 0, 2, 2, 0])
    torch.manual_seed(0)
    anchors, positives = positive_pairs(y, 500)
    assert torch.equal(y[anchors], y[positives])
    assert torch.equal(
        anchors == positives, y[anchors] == 1
    )  # the only one of its class
    pairs = set(zip(anchors.tolist(), positives.tolist(), strict=True))
    assert pairs == {
        (i, j)
        for i in range(7)
        for j in range(7)
        if y[i] == y[j] and (i != j or y[i] == 1)
    }


def test_the_bilevel_gradient_of_a_quadratic() -> None:
    """L = ½ ‖θ − A e‖², S = ½ ‖θ' − b‖². Then θ' = θ − α (θ − A e), and S depends on e
    through θ' alone.

    So ∂/∂e [L + λ S] = −Aᵀ(θ − A e) + λ α Aᵀ(θ' − b).
    """
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    b = torch.randn(4, generator=generator).double()
    e = Parameter(torch.randn(3, generator=generator).double())
    theta = Parameter(torch.randn(4, generator=generator).double())
    before = theta.detach().clone()
    weight = 0.5
    rate = 0.2

    def task() -> Tensor:
        loss = 0.5 * (theta - a @ e).square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def source() -> Tensor:
        loss = 0.5 * (theta - b).square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    value = bilevel_gradients([e], [theta], task, source, weight=weight, rate=rate)
    residual = before - a @ e.detach()
    stepped = before - rate * residual
    assert e.grad is not None
    torch.testing.assert_close(
        e.grad, -a.T @ residual + weight * rate * a.T @ (stepped - b)
    )
    torch.testing.assert_close(
        value,
        0.5 * residual.square().sum() + weight * 0.5 * (stepped - b).square().sum(),
    )
    assert torch.equal(theta, before)
    assert theta.grad is None

    def fail() -> Tensor:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        bilevel_gradients([e], [theta], task, fail, weight=weight, rate=rate)
    assert torch.equal(theta, before)


class Through(nn.Module):
    """The features of source samples as a function of the body's parameters."""

    def __init__(self, stage: BilevelStage) -> None:
        super().__init__()
        self.body = stage._trial.model.body
        self.forward = stage._features


def test_the_bilevel_gradient_through_a_body_is_that_of_autograd(bert: str) -> None:
    """In float32, the difference of two gradients must not drown the source's part in
    rounding.
    """
    options = {
        **MONA,
        "mona.warmup_epochs": 0,
        "refine.batch_size": 4,
        "refine.accumulation": 3,
    }
    trainer = start(bert, "mona", hyperparameters=options)
    stage = trainer._stages[0]
    model = trainer.model.eval()
    assert isinstance(stage, BilevelStage)
    steps = stage.batches(
        np.random.default_rng(0)
    )  # a step has the samples of a step of refining
    assert {len(batch) for batch in steps[:-1]} == {12}
    indices = np.arange(6)
    outer = list(stage.parameters())
    body = dict(model.body.named_parameters())
    parts = []
    for weight in (0.0, 0.5):
        stage._config = replace(stage._config, source_weight=weight)
        torch.manual_seed(0)
        stage.backward(indices)
        parts.append(
            torch.cat(
                [
                    parameter.grad.flatten()
                    for parameter in outer
                    if parameter.grad is not None
                ]
            )
        )
        model.zero_grad(set_to_none=True)
    found = parts[1] - parts[0]

    train = trainer.trial.data.train
    trial = stage._trial
    with sdpa_kernel(SDPBackend.MATH):
        y = torch.from_numpy(np.asarray(train.y[indices]))
        loss = trial.objective.training_loss(train.y, trial.device)(
            model(torch.from_numpy(train.x[indices])), y
        )
        inner = torch.autograd.grad(
            loss, list(body.values()), create_graph=True, allow_unused=True
        )
        moved = {
            n: p if g is None else p - 0.1 * g
            for (n, p), g in zip(body.items(), inner, strict=True)
        }
        torch.manual_seed(0)
        rows = torch.cat(positive_pairs(stage._source.y, 8))
        features = functional_call(
            Through(stage),
            {f"body.{name}": value for name, value in moved.items()},
            (rows,),
        )
        source = alignment_and_uniformity(*features.chunk(2))
        gradients = torch.autograd.grad(0.5 * source, outer, allow_unused=True)
    expected = torch.cat([g.flatten() for g in gradients if g is not None])
    assert torch.nn.functional.cosine_similarity(found, expected, dim=0) > 0.99
    assert float(found.norm() / expected.norm()) == pytest.approx(1, abs=0.05)


def test_the_source_matters_only_if_it_has_weight_and_without_its_stages_it_is_nft(
    bert: str,
) -> None:
    def reports(**options: float) -> list[dict[str, Any]]:
        values = {**MONA, **{f"mona.{name}": value for name, value in options.items()}}
        return run(start(bert, "mona", hyperparameters=values))

    plain = reports(source_weight=0.0)[-1]
    assert reports(source_weight=0.0, source_batch=4)[-1] == plain
    assert reports(source_weight=0.5)[-1] != plain
    nft = run(start(bert, "nft", hyperparameters={**QUICK, "refine.epochs": 1}))
    assert reports(warmup_epochs=0, epochs=0) == nft


JOINT = {
    **QUICK,
    "refine.epochs": 2,
    "joint.epochs": 3,
    "joint.warmup": 0.4,
    "joint.batch_size": 32,
}


def test_the_distance_of_joint_is_added_after_the_warm_up(bert: str) -> None:
    weight = 0.25
    trainer = start(bert, "joint", hyperparameters={**JOINT, "joint.weight": weight})
    stage = trainer._stages[0]
    embedder = trainer.model.embedder
    indices = np.arange(5, 25)
    assert isinstance(stage, RefineStage)
    term = stage._terms[1]
    assert isinstance(term, DistanceTerm)
    assert float(term.backward(indices, 0)) == 0
    assert all(parameter.grad is None for parameter in trainer.model.parameters())
    trainer.model.train()
    loss = term.backward(indices, 1)  # 0.4 of 3 epochs is less than 2
    found = {
        name: p.grad
        for name, p in trainer.model.named_parameters()
        if p.grad is not None
    }
    assert {name.split(".")[0] for name in found} == {"embedder"}
    assert embedder.training
    expected = fitted_distance("mmd", term._trial.source_features())
    embedder.eval()
    features = trainer.model.features(
        torch.from_numpy(trainer.trial.data.train.x[5:25])
    )
    value = weight * expected(
        features, torch.from_numpy(trainer.trial.data.train.y[5:25])
    )
    assert float(loss) == pytest.approx(float(value), rel=1e-6)
    (gradient,) = torch.autograd.grad(
        value, [embedder.get_parameter("projection.weight")]
    )
    torch.testing.assert_close(found["embedder.projection.weight"], gradient)


def test_the_rate_of_joint_is_for_adam_also_where_refining_uses_sgd(bert: str) -> None:
    curves = [
        run(
            start(
                bert,
                "joint",
                hyperparameters={
                    **JOINT,
                    "refine.optimizer": name,
                    "refine.weight_decay": 0.0,
                },
            )
        )
        for name in ("sgd", "adam")
    ]
    assert curves[0][:3] == curves[1][:3]
    assert curves[0][3:] != curves[1][3:]
    options = resolve("joint", {})
    assert (options.align.distance, options.of(JointConfig).weight) == ("mmd", 1.0)
