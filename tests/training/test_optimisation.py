"""Optimisers, schedules, and when a curve is flat."""

import pytest
import torch
from torch.nn import Parameter

from orca_ray.errors import UserError
from orca_ray.training.optimisation import (
    ALIGN_SCHEDULES,
    ParameterGroup,
    Plateau,
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
    for edge in ((0, 1), (10, 10), (12, 10)):
        assert all(0.0 <= value <= 1.0 for value in values(name, *edge, 20))


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
    step, reference = ALIGN_SCHEDULES["step"](60), ALIGN_SCHEDULES["reference_step"](100)
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


def first_flat(values: list[float], patience: int = 4, tolerance: float = 0.005) -> int | None:
    """Number of values after which the curve is first called flat; None: never."""
    plateau = Plateau(patience, tolerance)
    return next((number for number, value in enumerate(values, 1) if plateau.add(value, values[0])), None)


SLOW = [0.999**epoch for epoch in range(40)]
"""Falls by 0.4 % in 4 epochs."""


@pytest.mark.parametrize(
    ("values", "patience", "tolerance", "expected"),
    [
        ([0.99**epoch for epoch in range(200)], 4, 0.005, None),
        ([10.0 - 0.05 * epoch for epoch in range(100)], 4, 0.005, None),
        ([2.0] * 20, 1, 0.005, 2),  # as soon as it can be judged
        ([2.0] * 20, 5, 0.005, 10),
        ([2.0 + epoch for epoch in range(20)], 3, 0.005, 6),
        ([max(1.0, 2.0 - 0.1 * epoch) for epoch in range(60)], 4, 0.005, 18),  # level from the 11th value on
        (SLOW, 4, 0.005, 8),  # the tolerance is relative
        ([1e-6 * value for value in SLOW], 4, 0.005, 8),
        ([1e6 * value for value in SLOW], 4, 0.005, 8),
        (SLOW, 4, 0.003, None),
        ([1.0, *(0.01 * 0.9**epoch for epoch in range(40))], 4, 0.01, 9),  # and a share of the first value
        ([0.0] * 10, 4, 0.005, 8),
        ([-1.0 * epoch for epoch in range(1, 30)], 4, 0.005, None),
        ([1.0] * 100, 0, 0.005, None),
    ],
)
def test_when_a_curve_is_flat(values: list[float], patience: int, tolerance: float, expected: int | None) -> None:
    assert first_flat(values, patience, tolerance) == expected
