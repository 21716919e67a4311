"""MoNA: the source loss and pairs by hand, the bilevel gradient in closed form."""

import math
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import Parameter
from torch.nn.attention import SDPBackend, sdpa_kernel

from orca_ray.methods.registry import get_method
from orca_ray.methods.stages.mona import (
    BilevelStage,
    alignment_and_uniformity,
    bilevel_gradients,
    positive_pairs,
)
from orca_ray.testing.trials import QUICK, run, start

MONA = {**QUICK, "mona.source_batch": 8, "mona.epochs": 1, "refine.epochs": 1}


def test_an_epoch_of_mona_costs_three_of_refining() -> None:
    estimate = get_method("mona").other_epochs
    epochs = estimate({"mona.warmup_epochs": 4, "mona.epochs": 2}, 100)
    assert epochs == pytest.approx(0.7 * 4 + 3 * 2)


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
    # The only sample of class 1 is paired with itself.
    assert torch.equal(anchors == positives, y[anchors] == 1)
    pairs = set(zip(anchors.tolist(), positives.tolist(), strict=True))
    of_class_0 = set(permutations([1, 3, 6], 2))
    of_class_2 = set(permutations([0, 4, 5], 2))
    assert pairs == {*of_class_0, (2, 2), *of_class_2}


def test_the_bilevel_gradient_of_a_quadratic() -> None:
    # L = ½ ‖θ − A e‖², S = ½ ‖θ' − b‖², so θ' = θ − α (θ − A e). S depends on e through
    # θ' alone, so ∂/∂e [L + λ S] = −Aᵀ(θ − A e) + λ α Aᵀ(θ' − b).
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
    source_residual = stepped - b
    expected_gradient = -a.T @ residual + weight * rate * a.T @ source_residual
    task_loss = 0.5 * residual.square().sum()
    source_loss = 0.5 * source_residual.square().sum()
    torch.testing.assert_close(e.grad, expected_gradient)
    torch.testing.assert_close(value, task_loss + weight * source_loss)
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
    """In float32, rounding must not drown the source's part of the gradient."""
    options = {
        **MONA,
        "mona.warmup_epochs": 0,
        "refine.batch_size": 4,
        "refine.accumulation": 3,
    }
    trainer = start(bert, "mona", hyperparameters=options)
    stage, *_ = trainer._stages
    trainer.model.eval()
    assert isinstance(stage, BilevelStage)
    # A step has the samples of a step of refining.
    steps = stage.batches(np.random.default_rng(0))
    assert {len(batch) for batch in steps[:-1]} == {12}
    indices = np.arange(6)
    without_source = gradient_of_step(stage, indices, weight=0.0)
    with_source = gradient_of_step(stage, indices, weight=0.5)
    difference = with_source - without_source
    expected = source_gradient_by_autograd(stage, indices, weight=0.5)
    assert torch.nn.functional.cosine_similarity(difference, expected, dim=0) > 0.99
    assert float(difference.norm() / expected.norm()) == pytest.approx(1, abs=0.05)


def gradient_of_step(
    stage: BilevelStage, indices: np.ndarray, *, weight: float
) -> Tensor:
    """Return the gradient, as one vector, that a step gives to embedder and head."""
    stage._config = replace(stage._config, source_weight=weight)
    torch.manual_seed(0)
    stage.backward(indices)
    gradients = [
        parameter.grad.flatten()
        for parameter in stage.parameters()
        if parameter.grad is not None
    ]
    stage._trial.model.zero_grad(set_to_none=True)
    return torch.cat(gradients)


def source_gradient_by_autograd(
    stage: BilevelStage, indices: np.ndarray, *, weight: float
) -> Tensor:
    """Return the source loss's gradient, as one vector, through the virtual step."""
    trial = stage._trial
    train = trial.data.train
    body = dict(trial.model.body.named_parameters())
    with sdpa_kernel(SDPBackend.MATH):
        x = torch.from_numpy(train.x[indices])
        y = torch.from_numpy(np.asarray(train.y[indices]))
        loss = trial.objective.training_loss(train.y, trial.device)
        inner = torch.autograd.grad(
            loss(trial.model(x), y),
            list(body.values()),
            create_graph=True,
            allow_unused=True,
        )
        moved = {}
        for (name, value), gradient in zip(body.items(), inner, strict=True):
            moved[f"body.{name}"] = (
                value if gradient is None else value - 0.1 * gradient
            )
        torch.manual_seed(0)
        rows = torch.cat(positive_pairs(stage._source.y, 8))
        features = functional_call(Through(stage), moved, (rows,))
        source_loss = alignment_and_uniformity(*features.chunk(2))
        gradients = torch.autograd.grad(
            weight * source_loss, list(stage.parameters()), allow_unused=True
        )
    return torch.cat([g.flatten() for g in gradients if g is not None])


def test_the_source_matters_only_if_it_has_weight_and_without_its_stages_it_is_nft(
    bert: str,
) -> None:
    def run_mona(options: dict[str, float]) -> list[dict[str, Any]]:
        return run(start(bert, "mona", hyperparameters={**MONA, **options}))

    *_, expected = run_mona({"mona.source_weight": 0.0})
    *_, small_batch = run_mona({"mona.source_weight": 0.0, "mona.source_batch": 4})
    *_, with_weight = run_mona({"mona.source_weight": 0.5})
    assert small_batch == expected
    assert with_weight != expected
    nft = run(start(bert, "nft", hyperparameters={**QUICK, "refine.epochs": 1}))
    assert run_mona({"mona.warmup_epochs": 0, "mona.epochs": 0}) == nft
