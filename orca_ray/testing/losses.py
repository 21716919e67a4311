"""The conformance suite of losses."""

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from orca_ray.data.rows import Rows, Target
from orca_ray.tasks.losses import Loss, get_loss
from orca_ray.testing.suite import Suite


class LossSuite(Suite):
    """Tests of losses, by the names under which they are registered."""

    target: ClassVar[Target] = Target("classes", size=4)
    train_y: ClassVar[Rows] = np.array([0, 0, 0, 0, 1, 1, 2, 3])
    """The target, and training targets of it, that losses are made for."""

    def inputs(self, name: str) -> tuple[Tensor, Tensor]:
        """Return float64 predictions and targets of five samples; targets of classes are int64."""
        generator = torch.Generator().manual_seed(0)
        shape = (5, *self.target.output_shape)
        predictions, other = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
        if self.target.kind == "classes":
            return predictions, torch.arange(5) % self.target.size
        return predictions, (other > 0).double() if self.target.kind == "labels" else other

    def loss(self, name: str) -> Loss:
        """Return the loss."""
        return get_loss(name).make(self.train_y, self.target, torch.device("cpu"))

    def test_it_is_the_mean_of_the_samples_losses(self, name: str) -> None:
        predictions, y = self.inputs(name)
        loss = self.loss(name)
        each = torch.stack([loss(predictions[i : i + 1], y[i : i + 1]) for i in range(5)])
        torch.testing.assert_close(loss(predictions, y), each.mean())

    def test_its_gradient_agrees_with_finite_differences(self, name: str) -> None:
        predictions, y = self.inputs(name)
        assert torch.autograd.gradcheck(lambda p: self.loss(name)(p, y), predictions.requires_grad_())

    def test_it_has_a_finite_gradient_far_out(self, name: str) -> None:
        predictions, y = self.inputs(name)
        far = (1e4 * predictions).float().requires_grad_()
        loss = self.loss(name)(far, y if y.dtype == torch.int64 else y.float())
        (gradient,) = torch.autograd.grad(loss, far)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()

    def test_its_name_definition_and_source_are_there(self, name: str) -> None:
        loss = get_loss(name)
        assert loss.name == name
        assert len(loss.definition) > 20
        assert loss.source
