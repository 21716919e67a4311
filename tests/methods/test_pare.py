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


def tokens(*values: float) -> Tensor:
    """One sample [1, T, 1]."""
    return torch.tensor(values, dtype=torch.float32)[None, :, None]


def term_of(trainer: TrialTrainer, kind: type[Term]) -> Term:
    stage = trainer._stages[0]
    assert isinstance(stage, RefineStage)
    return next(term for term in stage._terms if isinstance(term, kind))


def batch(trainer: TrialTrainer) -> tuple[Tensor, Tensor]:
    train = trainer.trial.data.train
    return torch.from_numpy(train.x[:4]), torch.from_numpy(np.asarray(train.y[:4]))


def test_the_lowest_target_tokens_become_the_highest_source_tokens_in_order() -> None:
    target = tokens(1, 2, 3, 4)
    source = tokens(10, 20, 30, 40)
    target_keys = torch.tensor([[0.9, 0.2, 0.8, 0.1]])
    source_keys = torch.tensor([[0.7, 0.3, 0.9, 0.1]])
    mixed = [
        replace_lowest(target, source, target_keys, source_keys, k)[0, :, 0].tolist()
        for k in (1, 2, 3, 4)
    ]
    assert mixed == [[1, 2, 3, 30], [1, 10, 3, 30], [1, 10, 20, 30], [10, 20, 30, 40]]


def test_gradients_of_a_choice() -> None:
    """As if masks were factors of the target tokens and the chosen source tokens."""
    target = tokens(1, 2, 3).requires_grad_()
    source = tokens(10, 20, 30)
    target_keys = torch.tensor([[0.9, 0.2, 0.5]], requires_grad=True)
    source_keys = torch.tensor([[0.7, 0.3, 0.9]], requires_grad=True)
    mixed = replace_lowest(target, source, target_keys, source_keys, 1)
    assert mixed[0, :, 0].tolist() == [1, 30, 3]
    of_target, of_its_keys, of_source_keys = torch.autograd.grad(
        mixed.sum(), (target, target_keys, source_keys)
    )
    assert of_target[0, :, 0].tolist() == [1, 0, 1]

    def slope(distance: float) -> float:
        p = float(torch.sigmoid(torch.tensor(distance / 0.9)))
        return p * (1 - p) / 0.9

    # Replaced is what is below the k-th lowest key, 0.2; kept is the opposite.
    expected = [1 * slope(-0.7), 2 * slope(0.0), 3 * slope(-0.3)]
    assert of_its_keys[0].tolist() == pytest.approx(expected)
    assert of_source_keys[0].tolist() == pytest.approx([0, 0, 30 * slope(0.0)])


def test_the_number_of_source_tokens_falls_and_is_at_least_1(bert: str) -> None:
    for begin, end, numbers in (
        (1.0, 0.0, [8, 6, 4, 2]),
        (0.64, 0.16, [5, 4, 3, 2]),
        (0.3, 0.0, [2, 1, 1, 1]),
    ):
        term = term_of(
            start(
                bert,
                "pare",
                hyperparameters={**QUICK, "pare.begin": begin, "pare.end": end},
            ),
            MixTerm,
        )
        replaced = []
        for epoch in range(4):  # 8 tokens
            term.start(epoch, 4)
            replaced.append(term.num_replaced)
        assert replaced == numbers


def test_the_gate_learns_only_while_tokens_are_drawn(bert: str) -> None:
    trainer = start(bert, "pare", hyperparameters={**QUIET, "pare.drawn": 0.3})
    term = term_of(trainer, MixTerm)
    gate = trainer.model.get_submodule("gate")
    learns = []
    for epoch in range(10):
        term.start(epoch, 10)
        trainer.model.zero_grad()
        term(*batch(trainer)).backward()  # type: ignore[no-untyped-call]
        if any(p.grad is not None and p.grad.any() for p in gate.parameters()):
            learns.append(epoch)
        for part in ("embedder", "body", "head", "source_head"):
            assert any(
                p.grad is not None and p.grad.any()
                for p in trainer.model.get_submodule(part).parameters()
            )
    assert learns == [0, 1, 2]


def test_the_more_open_the_gate_the_more_often_a_token_is_drawn(bert: str) -> None:
    """If one of two tokens is drawn, the odds are exp(g) to exp(g) of the other."""
    term = term_of(
        start(bert, "pare", hyperparameters={**QUICK, "pare.drawn": 0.5}), MixTerm
    )
    term._gate = nn.Linear(1, 1, bias=False)
    nn.init.constant_(term._gate.weight, 1.0)
    torch.manual_seed(0)
    keys = term._keys(torch.tensor([[[3.0], [-3.0]]]).expand(20_000, -1, -1))
    share = float((keys[:, 0] > keys[:, 1]).float().mean())
    gates = torch.sigmoid(torch.tensor([3.0, -3.0]))
    assert share == pytest.approx(float(gates.softmax(0)[0]), abs=0.01)


@pytest.mark.parametrize(
    ("kind", "body", "usual"),
    [("classes", "bert", 0.1), ("classes", "vit", 1.0), ("dense", "vit", 0.3)],
)
@torch.no_grad()
def test_the_loss_of_a_batch(
    request: pytest.FixtureRequest, kind: str, body: str, usual: float
) -> None:
    target = (
        Target("dense", shape=(16,)) if kind == "dense" else Target("classes", size=3)
    )
    task = make_task(target, (1, 16))
    name = request.getfixturevalue(body)
    for weight in (0.0, 2.0):
        settings = {
            **QUIET,
            "pare.drawn": 0.0,
            "pare.begin": 0.5,
            "pare.weight": weight,
        }
        trainer = start(name, "pare", task=task, hyperparameters=settings)
        term = term_of(trainer, MixTerm)
        model = trainer.model
        # One source sample: nothing is random if the gates alone choose.
        term._source = replace(
            term._source, inputs=term._source.inputs[:1], y=term._source.y[:1]
        )
        x, y = batch(trainer)
        mixed = term.mix(
            model.embed(x), term._source.tokens(torch.zeros(4, dtype=torch.long))
        )
        features = model.body(mixed, model._grid)[:, model.body.num_prefix_tokens :]
        objective = Objective(
            target,
            task.loss,
            task.metric,
            trainer.trial.data.y_mean,
            trainer.trial.data.y_std,
        )
        of_target = objective.training_loss(
            trainer.trial.data.train.y, trainer.trial.device
        )(model.head(features), y)
        logits = (
            features.mean(1) @ term._source_head.output.weight.T
            + term._source_head.output.bias
        )
        of_source = functional.cross_entropy(logits, term._source.y.expand(4))
        # Half of 8 or 4 tokens.
        expected_weight = weight if weight > 0 else usual
        assert float(term(x, y)) == pytest.approx(
            expected_weight * float(of_target + of_source) / 2, rel=1e-5
        )


def test_prefix_tokens_stay(vit: str) -> None:
    trainer = start(vit, "pare", hyperparameters={**QUIET, "pare.begin": 1.0})
    term = term_of(trainer, MixTerm)
    model = trainer.model
    x, _ = batch(trainer)
    embedded = model.embed(x)
    source = term._source.tokens(torch.arange(4))
    assert embedded.shape == source.shape == (4, 5, 16)
    mixed = term.mix(embedded, source)
    assert torch.equal(mixed[:, :1], embedded[:, :1])
    assert torch.equal(mixed[:, 1:], source[:, 1:])
