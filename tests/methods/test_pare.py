"""PaRe by hand-computed values: the choice of tokens, the gate, the loss of mixes."""

from dataclasses import replace
from typing import TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from orca_ray.data.rows import Target
from orca_ray.methods.stages.pare import MixTerm, replace_lowest
from orca_ray.methods.stages.refine_stage import RefineStage
from orca_ray.methods.trial_trainer import TrialTrainer
from orca_ray.testing.trials import QUICK, make_task, start
from orca_ray.training.evaluate import Objective

Term = TypeVar("Term")
QUIET = {**QUICK, "refine.dropout": 0.0}


def make_tokens(*values: float) -> Tensor:
    """Return one sample [1, T, 1]."""
    return torch.tensor(values, dtype=torch.float32)[None, :, None]


def term_of(trainer: TrialTrainer, kind: type[Term]) -> Term:
    stage = trainer._stages[0]
    assert isinstance(stage, RefineStage)
    return next(term for term in stage._terms if isinstance(term, kind))


def first_batch(trainer: TrialTrainer) -> tuple[Tensor, Tensor]:
    train = trainer.trial.data.train
    return torch.from_numpy(train.x[:4]), torch.from_numpy(np.asarray(train.y[:4]))


def test_the_lowest_target_tokens_become_the_highest_source_tokens_in_order() -> None:
    target = make_tokens(1, 2, 3, 4)
    source = make_tokens(10, 20, 30, 40)
    target_keys = torch.tensor([[0.9, 0.2, 0.8, 0.1]])
    source_keys = torch.tensor([[0.7, 0.3, 0.9, 0.1]])

    def mix(k: int) -> list[float]:
        mixed = replace_lowest(target, source, target_keys, source_keys, k)
        values: list[float] = mixed[0, :, 0].tolist()
        return values

    assert mix(1) == [1, 2, 3, 30]
    assert mix(2) == [1, 10, 3, 30]
    assert mix(3) == [1, 10, 20, 30]
    assert mix(4) == [10, 20, 30, 40]


def test_gradients_of_a_choice() -> None:
    """They are as if masks were factors of target tokens and chosen source tokens."""
    target = make_tokens(1, 2, 3).requires_grad_()
    source = make_tokens(10, 20, 30)
    target_keys = torch.tensor([[0.9, 0.2, 0.5]], requires_grad=True)
    source_keys = torch.tensor([[0.7, 0.3, 0.9]], requires_grad=True)
    mixed = replace_lowest(target, source, target_keys, source_keys, 1)
    assert mixed[0, :, 0].tolist() == [1, 30, 3]
    inputs = (target, target_keys, source_keys)
    of_target, of_target_keys, of_source_keys = torch.autograd.grad(mixed.sum(), inputs)
    assert of_target[0, :, 0].tolist() == [1, 0, 1]

    def slope(distance: float) -> float:
        p = float(torch.sigmoid(torch.tensor(distance / 0.9)))
        return p * (1 - p) / 0.9

    # A token is replaced if its key is not above the k-th lowest one, 0.2.
    expected = torch.tensor([[1 * slope(-0.7), 2 * slope(0.0), 3 * slope(-0.3)]])
    torch.testing.assert_close(of_target_keys, expected)
    expected = torch.tensor([[0.0, 0.0, 30 * slope(0.0)]])
    torch.testing.assert_close(of_source_keys, expected)


@pytest.mark.parametrize(
    ("begin", "end", "numbers"),
    [
        (1.0, 0.0, [8, 6, 4, 2]),
        (0.64, 0.16, [5, 4, 3, 2]),
        (0.3, 0.0, [2, 1, 1, 1]),
    ],
)
def test_the_number_of_source_tokens_falls_and_is_at_least_1(
    bert: str, begin: float, end: float, numbers: list[int]
) -> None:
    # A sample has 8 tokens.
    values = {**QUICK, "pare.begin": begin, "pare.end": end}
    term = term_of(start(bert, "pare", hyperparameters=values), MixTerm)
    num_replaced = []
    for epoch in range(4):
        term.start(epoch, 4)
        num_replaced.append(term.num_replaced)
    assert num_replaced == numbers


def test_the_gate_learns_only_while_tokens_are_drawn(bert: str) -> None:
    trainer = start(bert, "pare", hyperparameters={**QUIET, "pare.drawn": 0.3})
    term = term_of(trainer, MixTerm)
    gate = trainer.model.get_submodule("gate")
    gate_learns = []
    for epoch in range(10):
        term.start(epoch, 10)
        trainer.model.zero_grad()
        term(*first_batch(trainer)).backward()  # type: ignore[no-untyped-call]
        if has_gradient(gate):
            gate_learns.append(epoch)
        for name in ("embedder", "body", "head", "source_head"):
            assert has_gradient(trainer.model.get_submodule(name))
    assert gate_learns == [0, 1, 2]


def has_gradient(module: nn.Module) -> bool:
    gradients = [parameter.grad for parameter in module.parameters()]
    return any(gradient is not None and gradient.any() for gradient in gradients)


def test_the_more_open_the_gate_the_more_often_a_token_is_drawn(bert: str) -> None:
    """If one of two tokens is drawn, the odds are exp(g) to exp(g) of the other."""
    options = {**QUICK, "pare.drawn": 0.5}
    term = term_of(start(bert, "pare", hyperparameters=options), MixTerm)
    term._gate = nn.Linear(1, 1, bias=False)
    nn.init.constant_(term._gate.weight, 1.0)
    torch.manual_seed(0)
    keys = term._keys(torch.tensor([[[3.0], [-3.0]]]).expand(20_000, -1, -1))
    share = float((keys[:, 0] > keys[:, 1]).float().mean())
    gates = torch.sigmoid(torch.tensor([3.0, -3.0]))
    expected, _ = gates.softmax(0).tolist()
    assert share == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("weight", [0.0, 2.0])
@pytest.mark.parametrize(
    ("target", "body", "usual_weight"),
    [
        (Target("classes", size=3), "bert", 0.1),
        (Target("classes", size=3), "vit", 1.0),
        (Target("dense", shape=(16,)), "vit", 0.3),
    ],
    ids=["classes-bert", "classes-vit", "dense-vit"],
)
@torch.no_grad()
def test_the_loss_of_a_batch(
    request: pytest.FixtureRequest,
    target: Target,
    body: str,
    usual_weight: float,
    weight: float,
) -> None:
    values = {
        **QUIET,
        "pare.drawn": 0.0,
        "pare.begin": 0.5,
        "pare.weight": weight,
    }
    task = make_task(target, (1, 16))
    body_path = request.getfixturevalue(body)
    trainer = start(body_path, "pare", task=task, hyperparameters=values)
    trial = trainer.trial
    model = trainer.model
    term = term_of(trainer, MixTerm)
    # With one source sample nothing is random, as the gates alone choose.
    source = replace(term._source, inputs=term._source.inputs[:1], y=term._source.y[:1])
    term._source = source
    x, y = first_batch(trainer)
    mixed = term.mix(model.embed(x), source.tokens(torch.zeros(4, dtype=torch.long)))
    features = model.body(mixed, model._grid)[:, model.body.num_prefix_tokens :]
    objective = Objective(
        target, task.loss, task.metric, trial.data.y_mean, trial.data.y_std
    )
    target_loss = objective.training_loss(trial.data.train.y, trial.device)
    linear = term._source_head.output
    logits = features.mean(1) @ linear.weight.T + linear.bias
    losses = (
        target_loss(model.head(features), y),
        functional.cross_entropy(logits, source.y.expand(4)),
    )
    # Half of the 8 or 4 tokens are of the source, so both losses count a half.
    expected = (weight or usual_weight) * float(sum(losses)) / 2
    assert float(term(x, y)) == pytest.approx(expected, rel=1e-5)


def test_prefix_tokens_stay(vit: str) -> None:
    trainer = start(vit, "pare", hyperparameters={**QUIET, "pare.begin": 1.0})
    term = term_of(trainer, MixTerm)
    model = trainer.model
    x, _ = first_batch(trainer)
    embedded = model.embed(x)
    source = term._source.tokens(torch.arange(4))
    assert embedded.shape == source.shape == (4, 5, 16)
    mixed = term.mix(embedded, source)
    assert torch.equal(mixed[:, :1], embedded[:, :1])
    assert torch.equal(mixed[:, 1:], source[:, 1:])
