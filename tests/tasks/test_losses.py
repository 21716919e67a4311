"""Losses: cases computed by hand, and what every loss must be; the reference's own are in `benchmarks`."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from orca_ray.data.rows import Target
from orca_ray.errors import UserError
from orca_ray.tasks.dense_metrics import IGNORED
from orca_ray.tasks.losses import all_losses, get_loss
from orca_ray.tasks.metrics import get_metric
from orca_ray.testing import LossSuite

CPU = torch.device("cpu")
TRAIN_Y = np.array([0, 0, 0, 0, 1, 1, 2, 3])
CLASSES = Target("classes", size=4)


class TestEveryLoss(LossSuite):
    names = all_losses()
    target = CLASSES
    train_y = TRAIN_Y

    def inputs(self, name: str) -> tuple[Tensor, Tensor]:
        predictions, y = super().inputs(name)
        other = torch.randn(5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        if name in ("cross_entropy", "weighted_cross_entropy", "softmax_focal"):
            return predictions, y
        if name == "masked_bce":
            return predictions, torch.where(other.abs() < 0.5, IGNORED, (other > 0).double())
        return predictions, (other > 0).double() if "bce" in name else other


_loss, _inputs = TestEveryLoss().loss, TestEveryLoss().inputs


@pytest.mark.parametrize("name", ["relative_l2", "nrmse"])
def test_relative_losses_are_their_metrics(name: str) -> None:
    predictions, y = _inputs(name)
    metric = get_metric(name).compute(predictions.numpy(), y.numpy())
    assert _loss(name)(predictions, y).item() == pytest.approx(metric)


@pytest.mark.parametrize("name", ["relative_l2", "rmse"])
def test_a_sample_met_exactly_or_zero_gives_no_nan(name: str) -> None:
    y = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    predictions = y.clone().requires_grad_()
    loss = _loss(name)(predictions, y)
    (gradient,) = torch.autograd.grad(loss, predictions)
    assert loss.item() == 0
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", ["mse", "rmse", "relative_l2", "masked_bce"])
def test_shapes_that_would_broadcast_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"shape \(3, 1\), targets \(3,\)"):
        _loss(name)(torch.ones(3, 1), torch.ones(3))


def test_by_hand() -> None:
    assert _loss("cross_entropy")(torch.zeros(2, 10), torch.tensor([3, 4])).item() == pytest.approx(np.log(10))
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.7, 0.2]], dtype=torch.float64))
    expected = -(math.log(0.25 + 1e-9) + math.log(0.7 + 1e-9)) / 2
    assert _loss("softmax_focal")(logits, torch.tensor([1, 1])).item() == pytest.approx(expected, rel=1e-12)
    hopeless = torch.tensor([[100.0, 0.0]])
    assert _loss("softmax_focal")(hopeless, torch.tensor([1])).item() == pytest.approx(-math.log(1e-9))
    logits, y = torch.tensor([[math.log(3), 0.0]]), torch.tensor([[1.0, 0.0]])
    for name, weight in (("bce", 1), ("bce_pos4", 4), ("bce_pos10", 10)):
        assert _loss(name)(logits, y).item() == pytest.approx((weight * math.log(4 / 3) + math.log(2)) / 2)
    # The mean over samples.
    predictions = torch.tensor([[[2.0, 2.0], [2.0, 2.0]], [[8.0, 0.0], [0.0, 0.0]]])
    assert _loss("rmse")(predictions, torch.zeros(2, 2, 2)).item() == pytest.approx((2 + 4) / 2)
    assert _loss("rmse")(torch.tensor([1.0, -3.0]), torch.zeros(2)).item() == pytest.approx(2)


def test_weights_are_inverse_class_frequencies() -> None:
    # 8 samples over 4 classes and the class's own number: ½, 1, 2, 2; every class has an equal part of the loss.
    loss, logits = _loss("weighted_cross_entropy"), torch.zeros(1, 4)
    each = [loss(logits, torch.tensor([k])).item() / math.log(4) for k in range(4)]
    assert each == pytest.approx([0.5, 1, 2, 2])


def test_bad_classes_and_names_are_refused() -> None:
    with pytest.raises(UserError, match="1 of 4 are not there, the first of them class 2"):
        get_loss("weighted_cross_entropy").make(np.array([0, 1, 3, 3]), CLASSES, CPU)
    with pytest.raises(UserError, match=r"unknown loss 'cross-entropy'\. Did you mean 'cross_entropy'"):
        get_loss("cross-entropy")


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.floats(-50, 50))
def test_ignored_pixels_add_a_constant_and_no_gradient(seed: int, there: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, 3, generator=generator)
    y = torch.randint(-1, 2, (2, 3, 3), generator=generator).float()
    ignored = y == IGNORED
    logits[ignored] = there
    logits.requires_grad_()
    loss = _loss("masked_bce")(logits, y)
    kept = torch.nn.functional.binary_cross_entropy_with_logits(logits[~ignored], y[~ignored], reduction="sum")
    torch.testing.assert_close(loss, (kept + int(ignored.sum()) * math.log(2)) / 18)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert not gradient[ignored].any()
    assert gradient[~ignored].all()
