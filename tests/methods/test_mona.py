"""After MoNA: its losses by hand-computed values, and its bilevel gradient where that is known in closed form."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import Parameter
from torch.nn.attention import SDPBackend, sdpa_kernel

from orca_ray.methods.stages.mona import BilevelStage, alignment_and_uniformity, bilevel_gradients, positive_pairs
from orca_ray.testing.trials import QUICK, run, start
from orca_ray.training.numerics import NotFiniteError

STEPS = {"refine.batch_size": 4, "refine.accumulation": 3}
SHORT = {**QUICK, "mona.source_batch": 8, "mona.epochs": 1, "refine.epochs": 1}


def test_alignment_and_uniformity() -> None:
    # Unit vectors at 0°, 90° (anchors) and at 90°, 90° (positives), given at other lengths.
    anchors = torch.tensor([[3.0, 0.0], [0.0, 0.5]])
    positives = torch.tensor([[0.0, 2.0], [0.0, 1.0]])
    # Squared distances: of the positive pairs 2 and 0; of all six pairs three times 2 and three times 0.
    expected = 1.0 + math.log((3 * math.exp(-4.0) + 3) / 6)
    assert alignment_and_uniformity(anchors, positives).item() == pytest.approx(expected, rel=1e-6)


def test_positive_pairs_are_of_one_class_and_differ() -> None:
    y = torch.tensor([2, 0, 1, 0, 2, 2, 0])
    torch.manual_seed(0)
    anchors, positives = positive_pairs(y, 500)
    assert torch.equal(y[anchors], y[positives])
    assert torch.equal(anchors == positives, y[anchors] == 1)  # the only one of its class
    pairs = set(zip(anchors.tolist(), positives.tolist(), strict=True))
    assert pairs == {(i, j) for i in range(7) for j in range(7) if y[i] == y[j] and (i != j or y[i] == 1)}


def test_the_bilevel_gradient_of_a_quadratic() -> None:
    """L = ½ ‖θ − A e‖², S = ½ ‖θ' − b‖². Then θ' = θ − α (θ − A e), and S depends on e through θ' alone.

    So ∂/∂e [L + λ S] = −Aᵀ(θ − A e) + λ α Aᵀ(θ' − b).
    """
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(4, 3, generator=generator, dtype=torch.float64), torch.randn(4, generator=generator).double()
    e = Parameter(torch.randn(3, generator=generator).double())
    theta = Parameter(torch.randn(4, generator=generator).double())
    before = theta.detach().clone()
    weight, rate = 0.5, 0.2

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
    torch.testing.assert_close(e.grad, -a.T @ residual + weight * rate * a.T @ (stepped - b))
    torch.testing.assert_close(value, 0.5 * residual.square().sum() + weight * 0.5 * (stepped - b).square().sum())
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
        self.body, self.forward = stage._trial.model.body, stage._features


def test_the_bilevel_gradient_through_a_body_is_that_of_autograd(bert: str) -> None:
    """In float32, the difference of two gradients must not drown the source's part in rounding."""
    trainer = start(bert, "mona", hyperparameters={**SHORT, "mona.warmup_epochs": 0, **STEPS})
    stage, model = trainer._stages[0], trainer.model.eval()
    assert isinstance(stage, BilevelStage)
    steps = stage.batches(np.random.default_rng(0))  # a step has the samples of a step of refining
    assert {len(batch) for batch in steps[:-1]} == {12}
    indices, outer, body = np.arange(6), list(stage.parameters()), dict(model.body.named_parameters())
    parts = []
    for weight in (0.0, 0.5):
        stage._config = replace(stage._config, source_weight=weight)
        torch.manual_seed(0)
        stage.backward(indices)
        parts.append(torch.cat([parameter.grad.flatten() for parameter in outer if parameter.grad is not None]))
        model.zero_grad(set_to_none=True)
    found = parts[1] - parts[0]

    train, trial = trainer.trial.data.train, stage._trial
    with sdpa_kernel(SDPBackend.MATH):
        y = torch.from_numpy(np.asarray(train.y[indices]))
        loss = trial.objective.training_loss(train.y, trial.device)(model(torch.from_numpy(train.x[indices])), y)
        inner = torch.autograd.grad(loss, list(body.values()), create_graph=True, allow_unused=True)
        moved = {n: p if g is None else p - 0.1 * g for (n, p), g in zip(body.items(), inner, strict=True)}
        torch.manual_seed(0)
        rows = torch.cat(positive_pairs(stage._source.y, 8))
        features = functional_call(Through(stage), {f"body.{name}": value for name, value in moved.items()}, (rows,))
        source = alignment_and_uniformity(*features.chunk(2))
        gradients = torch.autograd.grad(0.5 * source, outer, allow_unused=True)
    expected = torch.cat([g.flatten() for g in gradients if g is not None])
    assert torch.nn.functional.cosine_similarity(found, expected, dim=0) > 0.99
    assert float(found.norm() / expected.norm()) == pytest.approx(1, abs=0.05)


def test_the_source_matters_only_if_it_has_weight_and_without_its_stages_it_is_nft(bert: str) -> None:
    def reports(**options: float) -> list[dict[str, Any]]:
        values = {**SHORT, **{f"mona.{name}": value for name, value in options.items()}}
        return run(start(bert, "mona", hyperparameters=values))

    plain = reports(source_weight=0.0)[-1]
    assert reports(source_weight=0.0, source_batch=4)[-1] == plain
    assert reports(source_weight=0.5)[-1] != plain
    nft = run(start(bert, "nft", hyperparameters={**QUICK, "refine.epochs": 1}))
    assert reports(warmup_epochs=0, epochs=0) == nft


def test_values_that_are_not_finite(bert: str) -> None:
    trainer = start(bert, "mona", hyperparameters={**SHORT, "mona.warmup_epochs": 0, "refine.learning_rate": 1e38})
    with pytest.raises(NotFiniteError, match="bilevel"):
        run(trainer)
