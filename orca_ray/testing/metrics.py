"""The conformance suites of metrics and losses."""

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from orca_ray.data.rows import Rows, Target
from orca_ray.tasks.losses import Loss, get_loss
from orca_ray.tasks.metrics import get_metric
from orca_ray.testing.suite import Suite

Array = npt.NDArray[Any]


class MetricSuite(Suite):
    """Tests of metrics, by the names under which they are registered."""

    perfect: ClassVar[Mapping[str, tuple[Array, Array]]]
    """Predictions [N, *output_shape] and targets [N, ...] of each metric: the predictions score 0, and their negatives
    more than 0.4."""

    ordered: ClassVar[Collection[str]] = ()
    """Names of metrics that depend on the order of the samples."""

    def test_perfect_predictions_score_zero_and_worse_ones_more(self, name: str) -> None:
        predictions, targets = self.perfect[name]
        assert get_metric(name).compute(predictions, targets) == pytest.approx(0, abs=1e-12)
        assert get_metric(name).compute(-predictions, targets) > 0.4

    def test_the_order_of_samples_does_not_matter(self, name: str) -> None:
        predictions, targets = self.perfect[name]
        score = get_metric(name).compute(-predictions, targets)
        reverse = get_metric(name).compute(-predictions[::-1], targets[::-1])
        assert reverse == pytest.approx(score) or name in self.ordered

    def test_no_score_exceeds_the_largest(self, name: str) -> None:
        predictions, targets = self.perfect[name]
        assert get_metric(name).compute(-predictions, targets) <= get_metric(name).largest

    def test_predictions_that_are_not_finite_are_refused(self, name: str) -> None:
        predictions, targets = self.perfect[name]
        for value in (np.nan, np.inf):
            broken = predictions.astype(np.float64)
            broken[0] = value
            with pytest.raises(ValueError, match="not finite"):
                get_metric(name).compute(broken, targets)

    def test_other_lengths_and_empty_splits_are_refused(self, name: str) -> None:
        predictions, targets = self.perfect[name]
        with pytest.raises(ValueError, match="predictions for"):
            get_metric(name).compute(predictions[1:], targets)
        with pytest.raises(ValueError, match="0 predictions for 0 targets"):
            get_metric(name).compute(predictions[:0], targets[:0])

    def test_its_name_title_definition_and_source_are_there(self, name: str) -> None:
        metric = get_metric(name)
        assert metric.name == name
        assert metric.title
        assert len(metric.definition) > 20
        assert metric.source


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
