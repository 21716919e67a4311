import numpy as np
import pytest
import torch
from torch import Tensor

from orca_ray.errors import UserError
from orca_ray.tasks.losses import LOSSES, get_loss
from orca_ray.tasks.metrics import get_metric


def _inputs(name: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    predictions = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    if name == "cross_entropy":
        return predictions, torch.tensor([0, 1, 2, 3, 0])
    if name == "bce":
        return predictions, (torch.randn(5, 4, generator=generator, dtype=torch.float64) > 0).double()
    return predictions, torch.randn(5, 4, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("name", LOSSES)
class TestEveryLoss:
    def test_it_is_the_mean_of_the_samples_losses(self, name: str) -> None:
        predictions, y = _inputs(name)
        loss = get_loss(name)
        each = torch.stack([loss(predictions[i : i + 1], y[i : i + 1]) for i in range(5)])
        torch.testing.assert_close(loss(predictions, y), each.mean())

    def test_its_gradient_agrees_with_finite_differences(self, name: str) -> None:
        predictions, y = _inputs(name)
        assert torch.autograd.gradcheck(lambda p: get_loss(name)(p, y), predictions.requires_grad_())


@pytest.mark.parametrize("name", ["relative_l2", "nrmse"])
def test_relative_losses_are_their_metrics(name: str) -> None:
    predictions, y = _inputs(name)
    metric = get_metric(name).compute(predictions.numpy(), y.numpy())
    assert get_loss(name)(predictions, y).item() == pytest.approx(metric)


def test_a_sample_met_exactly_or_zero_gives_no_nan() -> None:
    y = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    predictions = y.clone().requires_grad_()
    loss = get_loss("relative_l2")(predictions, y)
    (gradient,) = torch.autograd.grad(loss, predictions)
    assert loss.item() == 0
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", ["mse", "relative_l2"])
def test_shapes_that_would_broadcast_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"shape \(3, 1\), targets \(3,\)"):
        get_loss(name)(torch.ones(3, 1), torch.ones(3))


def test_cross_entropy_of_even_logits_is_the_log_of_the_number_of_classes() -> None:
    assert get_loss("cross_entropy")(torch.zeros(2, 10), torch.tensor([3, 4])).item() == pytest.approx(np.log(10))


def test_a_misspelt_loss_gets_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown loss 'cross-entropy'\. Did you mean 'cross_entropy'"):
        get_loss("cross-entropy")
