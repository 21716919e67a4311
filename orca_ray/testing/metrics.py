"""The conformance suite of metrics."""

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest

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
