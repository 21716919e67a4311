import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from orca_ray.errors import UserError
from orca_ray.tasks.metrics import METRICS, get_metric

Floats = npt.NDArray[np.float64]

CLASSES = np.array([0, 1, 2, 1, 0, 2])
LABELS = np.array([[1, 0], [0, 1], [1, 1], [0, 0]], dtype=np.float32)
FIELD = np.array([[3.0, 4.0], [0.0, 2.0]], dtype=np.float32)

PERFECT = {
    "error": (np.eye(3)[CLASSES], CLASSES),
    "one_minus_auroc": (np.eye(3)[CLASSES], CLASSES),
    "one_minus_macro_f1": (np.eye(3)[CLASSES], CLASSES),
    "one_minus_map": (LABELS * 10 - 5, LABELS),
    "relative_l2": (FIELD, FIELD),
    "nrmse": (FIELD, FIELD),
    "rmse": (FIELD, FIELD),
    "one_minus_r2": (FIELD, FIELD),
}


@pytest.mark.parametrize("name", METRICS)
class TestEveryMetric:
    def test_perfect_predictions_score_zero_and_worse_ones_more(self, name: str) -> None:
        predictions, targets = PERFECT[name]
        assert get_metric(name).compute(predictions, targets) == pytest.approx(0, abs=1e-12)
        assert get_metric(name).compute(-predictions, targets) > 0.4

    def test_predictions_that_are_not_finite_are_refused(self, name: str) -> None:
        predictions, targets = PERFECT[name]
        for value in (np.nan, np.inf):
            broken = predictions.astype(np.float64)
            broken[0, 0] = value
            with pytest.raises(ValueError, match="not finite"):
                get_metric(name).compute(broken, targets)

    def test_other_lengths_and_empty_splits_are_refused(self, name: str) -> None:
        predictions, targets = PERFECT[name]
        with pytest.raises(ValueError, match="predictions for"):
            get_metric(name).compute(predictions[1:], targets)
        with pytest.raises(ValueError, match="0 predictions for 0 targets"):
            get_metric(name).compute(predictions[:0], targets[:0])

    def test_its_name_title_and_definition_are_there(self, name: str) -> None:
        metric = get_metric(name)
        assert metric.name == name
        assert metric.title
        assert metric.definition


def test_a_misspelt_metric_gets_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown metric 'nrsme'\. Did you mean 'nrmse'"):
        get_metric("nrsme")


def test_error_counts_wrong_classes() -> None:
    logits = np.array([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0], [1.0, 0.0]])
    assert get_metric("error").compute(logits, np.array([0, 1, 1, 1])) == 0.5


def test_binary_auroc_counts_ordered_pairs() -> None:
    # Differences 1, 3 for class 0 and 2, 4 for class 1: three of four pairs are in order.
    logits = np.array([[0.0, 1.0], [0.0, 3.0], [0.0, 2.0], [0.0, 4.0]])
    assert get_metric("one_minus_auroc").compute(logits, np.array([0, 0, 1, 1])) == pytest.approx(0.25)


@pytest.mark.parametrize("offset", [100.0, 800.0])
def test_auroc_ranks_where_probabilities_saturate(offset: float) -> None:
    binary = np.array([[0.0, offset], [0.0, offset + 1], [0.0, offset + 2]])
    assert get_metric("one_minus_auroc").compute(binary, np.array([0, 1, 1])) == 0
    # Three classes: every sample gives class 0 a probability that rounds to one.
    logits = np.array([[3.0, 0, 0], [4.0, 0, 0], [2.0, 1, 0], [2.0, 2, 0], [2.0, 0, 2], [2.0, 0, 3]])
    logits[:, 0] += offset
    y = np.array([0, 0, 1, 1, 2, 2])
    assert get_metric("one_minus_auroc").compute(logits, y) == 0


@given(st.integers(0, 10_000))
def test_one_versus_one_auroc_equals_scikit_learn_on_moderate_logits(seed: int) -> None:
    random = np.random.RandomState(seed)
    y = np.concatenate([np.arange(4), random.randint(0, 4, 20)])
    logits = random.standard_normal((24, 4))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = 1 - roc_auc_score(y, probabilities, multi_class="ovo", average="macro")
    assert get_metric("one_minus_auroc").compute(logits, y) == pytest.approx(expected, abs=1e-9)


def test_auroc_needs_every_class() -> None:
    with pytest.raises(UserError, match="needs every class in the split; 1 of 2"):
        get_metric("one_minus_auroc").compute(np.zeros((3, 2)), np.zeros(3, np.int64))


@pytest.mark.parametrize("name", ["one_minus_auroc", "one_minus_map"])
def test_labels_with_one_outcome_are_skipped(name: str) -> None:
    y = np.array([[1, 1], [0, 1], [1, 1]], dtype=np.float32)
    logits = np.array([[1.0, -9], [0.0, 5], [2.0, 0]])
    assert get_metric(name).compute(logits, y) == 0
    with pytest.raises(UserError, match="no label has both"):
        get_metric(name).compute(logits, np.ones_like(y))


def test_macro_f1_weighs_classes_equally() -> None:
    # Class 0: precision 3/4, recall 1 → 6/7; class 1: precision 1, recall 1/2 → 2/3.
    y = np.array([0, 0, 0, 1, 1])
    logits = np.eye(2)[[0, 0, 0, 0, 1]]
    assert get_metric("one_minus_macro_f1").compute(logits, y) == pytest.approx(1 - (6 / 7 + 2 / 3) / 2)


def test_average_precision_by_hand() -> None:
    y = np.array([[1], [0], [1], [0]], dtype=np.float32)
    logits = np.array([[4.0], [3.0], [2.0], [1.0]])
    assert get_metric("one_minus_map").compute(logits, y) == pytest.approx(1 - (1 + 2 / 3) / 2)


@pytest.mark.parametrize("name", ["relative_l2", "nrmse"])
def test_relative_errors_are_means_of_the_samples_own(name: str) -> None:
    predictions = FIELD + np.array([[0.0, 5.0], [1.0, 0.0]])
    assert get_metric(name).compute(predictions, FIELD) == pytest.approx((5 / 5 + 1 / 2) / 2)
    with pytest.raises(UserError, match="1 samples are"):
        get_metric(name).compute(FIELD, FIELD * np.array([[1.0], [0.0]]))


def test_rmse_and_r2_are_over_the_whole_split() -> None:
    predictions, y = np.array([1.0, 2.0, 5.0]), np.array([1.0, 2.0, 3.0])
    assert get_metric("rmse").compute(predictions, y) == pytest.approx(np.sqrt(4 / 3))
    assert get_metric("one_minus_r2").compute(predictions, y) == pytest.approx(4 / 2)
    with pytest.raises(UserError, match="targets that vary"):
        get_metric("one_minus_r2").compute(predictions, np.ones(3))


@pytest.mark.parametrize("name", ["relative_l2", "rmse", "one_minus_r2"])
def test_shapes_that_would_broadcast_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"shape \(3, 1\), targets \(3,\)"):
        get_metric(name).compute(np.ones((3, 1)), np.arange(3.0))
