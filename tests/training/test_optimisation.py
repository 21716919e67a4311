"""Optimisers and schedules."""

import pytest
import torch
from torch.nn import Parameter

from orca_ray.errors import UserError
from orca_ray.training.optimisation import (
    DECAYS,
    OPTIMIZERS,
    ParameterGroup,
    make_align_schedule,
    make_optimizer,
    make_schedule,
    set_learning_rate,
)


def values(name: str, warmup: int, total: int, num: int) -> list[float]:
    schedule = make_schedule(name, warmup_steps=warmup, total_steps=total)
    return [schedule(step) for step in range(num)]


@pytest.mark.parametrize(
    ("name", "warmup", "total", "expected"),
    [
        # The reference: (total - t) / (total - warmup) from t = warmup on.
        ("warmup_linear", 2, 6, [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]),
        ("cosine", 1, 5, [1.0, 1.0, 0.853553, 0.5, 0.146447, 0.0]),
        ("constant", 2, 3, [0.5, 1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_schedules(name: str, warmup: int, total: int, expected: list[float]) -> None:
    assert values(name, warmup, total, len(expected)) == pytest.approx(expected, abs=1e-6)


def test_every_schedule_stays_between_zero_and_one() -> None:
    for name in DECAYS:
        for warmup, total in ((0, 1), (0, 10), (3, 10), (10, 10), (12, 10)):
            assert all(0.0 <= value <= 1.0 for value in values(name, warmup, total, 20))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_minimises(name: str) -> None:
    weight = Parameter(torch.tensor([3.0, -2.0]))
    optimizer = make_optimizer(name, [ParameterGroup([weight])], learning_rate=0.05, weight_decay=0.0)
    for _ in range(300):
        optimizer.zero_grad()
        (weight**2).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert float(weight.detach().norm()) < 0.1


@pytest.mark.parametrize(("name", "expected"), [("adamw", 1.0 - 0.1 * 0.5), ("sgd", 1.0 - 0.1 * 0.5), ("adam", 0.9)])
def test_weight_decay(name: str, expected: float) -> None:
    """With a zero gradient: decoupled for adamw, L2 for sgd; adam normalises the L2 gradient to a step of one rate."""
    weight = Parameter(torch.tensor([1.0]))
    optimizer = make_optimizer(name, [ParameterGroup([weight])], learning_rate=0.1, weight_decay=0.5)
    weight.grad = torch.zeros(1)
    optimizer.step()
    assert float(weight.detach()) == pytest.approx(expected, rel=1e-5)


def test_groups_scale_the_learning_rate() -> None:
    first, second = Parameter(torch.ones(1)), Parameter(torch.ones(1))
    groups = [ParameterGroup([first]), ParameterGroup([second], 0.1), ParameterGroup([])]
    optimizer = make_optimizer("sgd", groups, learning_rate=1.0, weight_decay=0.0)
    assert [group["lr"] for group in optimizer.param_groups] == [1.0, 0.1]
    set_learning_rate(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.05]


def test_align_schedules() -> None:
    step, reference = make_align_schedule("step", 60), make_align_schedule("reference_step", 100)
    assert [step(epoch) for epoch in (0, 39, 40, 59)] == [1.0, 1.0, 0.1, 0.1]
    # The reference's rate falls after the epochs 20, 40 and 60 (from 0), not at them.
    assert [reference(epoch) for epoch in (20, 21, 40, 41, 60, 61, 99)] == pytest.approx(
        [1, 0.2, 0.2, 0.04, 0.04, 0.008, 0.008]
    )


def test_misspelt_names() -> None:
    with pytest.raises(UserError, match="Did you mean 'sgd'"):
        make_optimizer("sgdd", [], learning_rate=1.0, weight_decay=0.0)
    with pytest.raises(UserError, match="Did you mean 'cosine'"):
        make_schedule("cosin", warmup_steps=0, total_steps=1)
    with pytest.raises(UserError, match="Did you mean 'reference_step'"):
        make_align_schedule("reference_steps", 60)
