"""Metrics, losses and augmentations: cases computed by hand, and invariances.

Scripts in `benchmarks` compare metrics and losses with the reference.
"""

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from orca_ray.data.rows import Target
from orca_ray.errors import UserError
from orca_ray.tasks.augmentations import CropFlip, Shift, all_augmentations, get_shift
from orca_ray.tasks.losses import all_losses, get_loss
from orca_ray.tasks.metrics import (
    IGNORED,
    MARGIN,
    PADDING,
    all_metrics,
    area_under_roc,
    get_metric,
)
from orca_ray.testing import LossSuite, MetricSuite
from orca_ray.testing.trials import make_task

Floats = npt.NDArray[np.float64]

CLASSES = np.array([0, 1, 2, 1, 0, 2])
LABELS = np.array([[1, 0], [0, 1], [1, 1], [0, 0]], dtype=np.float32)
FIELD = np.array([[3.0, 4.0], [0.0, 2.0]], dtype=np.float32)
MASKS = np.array([[[0, 1], [1, IGNORED]], [[0, 0], [IGNORED, 1]]], dtype=np.float32)


def protein(length: int, side: int, seed: int) -> Floats:
    """Return padded distances of a random walk, which has contacts with itself."""
    steps = np.random.RandomState(seed).normal(scale=2.0, size=(length, 3))
    points = steps.cumsum(axis=0) * 0.5
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
    y = np.full((side, side), PADDING)
    y[MARGIN : MARGIN + length, MARGIN : MARGIN + length] = np.maximum(distances, 1)
    return y


PROTEINS = np.stack(
    [protein(40, 60, 0), protein(48, 60, 1), protein(33, 60, 2)]
).astype(np.float32)

_CLASSES = (np.eye(3)[CLASSES], CLASSES)
_MASKS = (MASKS * 10 - 5, MASKS)
_FIELDS = (FIELD, FIELD)
PERFECT = {
    **dict.fromkeys(("error", "one_minus_auroc", "one_minus_macro_f1"), _CLASSES),
    "one_minus_map": (LABELS * 10 - 5, LABELS),
    **dict.fromkeys(
        (
            "cosmic_one_minus_auroc",
            "cosmic_one_minus_auroc_thresholded",
            "false_negative_rate",
        ),
        _MASKS,
    ),
    **dict.fromkeys(("mae_lr_d8", "mae_lr_d8_reference"), (PROTEINS, PROTEINS)),
    **dict.fromkeys(("relative_l2", "nrmse", "rmse", "one_minus_r2"), _FIELDS),
}


class TestEveryMetric(MetricSuite):
    names = all_metrics()
    perfect = PERFECT
    # Every protein is cut to the length of the first.
    ordered = ("mae_lr_d8_reference",)


def compute(name: str, predictions: npt.ArrayLike, y: npt.ArrayLike) -> float:
    return get_metric(name).compute(np.asarray(predictions), np.asarray(y))


def test_metrics_of_classes_by_hand() -> None:
    logits: npt.ArrayLike = [[2.0, 1.0], [0.0, 3.0], [1.0, 0.0], [1.0, 0.0]]
    assert compute("error", logits, [0, 1, 1, 1]) == 0.5
    # Differences 1, 3 for class 0 and 2, 4 for class 1: three of four pairs are in
    # order.
    logits = [[0.0, 1.0], [0.0, 3.0], [0.0, 2.0], [0.0, 4.0]]
    assert compute("one_minus_auroc", logits, [0, 0, 1, 1]) == pytest.approx(0.25)
    # Class 0: precision 3/4, recall 1 → 6/7; class 1: precision 1, recall 1/2 → 2/3.
    f1 = compute("one_minus_macro_f1", np.eye(2)[[0, 0, 0, 0, 1]], [0, 0, 0, 1, 1])
    assert f1 == pytest.approx(1 - (6 / 7 + 2 / 3) / 2)


def test_the_average_precision_by_hand() -> None:
    logits = np.array([[4.0], [3.0], [2.0], [1.0]])
    y = np.array([[1], [0], [1], [0]], dtype=np.float32)
    expected = pytest.approx(1 - (1 + 2 / 3) / 2)
    assert compute("one_minus_map", logits, y) == expected


def test_metrics_of_numbers_by_hand() -> None:
    predictions = [1.0, 2.0, 5.0]
    y = [1.0, 2.0, 3.0]
    assert compute("rmse", predictions, y) == pytest.approx(np.sqrt(4 / 3))
    assert compute("one_minus_r2", predictions, y) == pytest.approx(4 / 2)


@pytest.mark.parametrize("name", ["relative_l2", "nrmse"])
def test_metrics_of_fields_are_means_of_those_of_samples(name: str) -> None:
    predictions = FIELD + np.array([[0.0, 5.0], [1.0, 0.0]])
    assert compute(name, predictions, FIELD) == pytest.approx((5 / 5 + 1 / 2) / 2)


@pytest.mark.parametrize(
    ("name", "predictions", "y", "message"),
    [
        (
            "one_minus_auroc",
            np.zeros((3, 2)),
            np.zeros(3, np.int64),
            "needs every class in the split; 1 of 2",
        ),
        ("one_minus_r2", np.arange(3.0), np.ones(3), "targets that vary"),
        ("relative_l2", FIELD, FIELD * np.array([[1.0], [0.0]]), "1 samples are"),
        ("nrmse", FIELD, FIELD * np.array([[1.0], [0.0]]), "1 samples are"),
        (
            "cosmic_one_minus_auroc",
            np.zeros((2, 3, 3)),
            np.zeros((2, 3, 3)),
            "only one of the two",
        ),
        (
            "cosmic_one_minus_auroc_thresholded",
            np.zeros((2, 3, 3)),
            np.ones((2, 3, 3)),
            "only one of the two",
        ),
        (
            "false_negative_rate",
            np.zeros((2, 3, 3)),
            np.zeros((2, 3, 3)),
            "all masks of the split are",
        ),
    ],
)
def test_splits_that_determine_nothing_are_refused(
    name: str, predictions: Floats, y: Floats, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        compute(name, predictions, y)


@pytest.mark.parametrize("offset", [100.0, 800.0])
def test_auroc_ranks_where_probabilities_saturate(offset: float) -> None:
    binary = [[0.0, offset], [0.0, offset + 1], [0.0, offset + 2]]
    assert compute("one_minus_auroc", binary, [0, 1, 1]) == 0
    # Three classes: every sample gives class 0 a probability that rounds to one.
    logits = np.array(
        [[3.0, 0, 0], [4.0, 0, 0], [2.0, 1, 0], [2.0, 2, 0], [2.0, 0, 2], [2.0, 0, 3]]
    )
    logits[:, 0] += offset
    assert compute("one_minus_auroc", logits, [0, 0, 1, 1, 2, 2]) == 0


@settings(max_examples=25)
@given(st.integers(0, 10_000))
def test_one_versus_one_auroc_equals_scikit_learn_on_moderate_logits(seed: int) -> None:
    random = np.random.RandomState(seed)
    y = np.concatenate([np.arange(4), random.randint(0, 4, 20)])
    logits = random.standard_normal((24, 4))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = 1 - roc_auc_score(y, probabilities, multi_class="ovo", average="macro")
    assert compute("one_minus_auroc", logits, y) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", ["one_minus_auroc", "one_minus_map"])
def test_labels_with_one_outcome_are_skipped(name: str) -> None:
    y = np.array([[1, 1], [0, 1], [1, 1]], dtype=np.float32)
    logits = np.array([[1.0, -9], [0.0, 5], [2.0, 0]])
    assert compute(name, logits, y) == 0
    with pytest.raises(UserError, match="no label has both"):
        compute(name, logits, np.ones_like(y))


def test_metrics_of_masks_by_hand() -> None:
    y = np.array([[[1, 1, 0], [0, 0, IGNORED]]], dtype=np.float32)
    logits = np.array([[[2.0, -1.0, 1.0], [-2.0, -3.0, 9.0]]])
    # Of the 2 × 4 pairs, the ignored pixel being a 0 at logit 0, only 1 and 0 rank
    # above the pixel of −1.
    assert compute("cosmic_one_minus_auroc", logits, y) == pytest.approx(2 / 8)
    # One of two mask pixels is missed; of four others one is marked.
    thresholded = compute("cosmic_one_minus_auroc_thresholded", logits, y)
    assert thresholded == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert compute("false_negative_rate", logits, y) == pytest.approx(1 / 2)


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.booleans())
def test_the_area_is_that_of_scikit_learn_and_of_ranks_alone(
    seed: int, ties: bool
) -> None:
    random = np.random.RandomState(seed)
    positive = np.concatenate([[True, False], random.uniform(size=60) < 0.2])
    if ties:
        scores = random.randint(-3, 4, 62).astype(np.float64)
    else:
        scores = random.normal(size=62)
    area = area_under_roc(scores, positive)
    assert area == pytest.approx(float(roc_auc_score(positive, scores)), abs=1e-12)
    assert area_under_roc(np.exp(scores) - 7, positive) == area
    order = random.permutation(62)
    assert area_under_roc(scores[order], positive[order]) == area
    assert area_under_roc(-scores, positive) == pytest.approx(1 - area, abs=1e-12)


def test_contact_error_by_hand() -> None:
    y = np.full((3, 30, 30), PADDING)
    y[0, 0, 24] = 8.0
    y[0, 1, 29] = 4.0
    y[0, 2, 25] = 8.5  # too far apart
    y[1, 3, 27] = 2.0
    y[1, 4, 27] = 1.0  # too near along the sequence
    predictions = y.copy()
    # Mean 9: off by 1.
    predictions[0, 0, 24] = 10.0
    predictions[0, 24, 0] = 8.0
    # Mean 1: off by 3.
    predictions[0, 1, 29] = 3.0
    predictions[0, 29, 1] = -1.0
    # Mean 7: off by 5.
    predictions[1, 3, 27] = 12.0
    predictions[1, 27, 3] = 2.0
    # The third protein has no contact and no part, wherever it stands.
    expected = pytest.approx(((1 + 3) / 2 + 5) / 2)
    contact_error = get_metric("mae_lr_d8").compute
    assert contact_error(predictions, y) == expected
    assert contact_error(predictions[[0, 2, 1]], y[[0, 2, 1]]) == expected
    assert contact_error(predictions[:, None], y[:, None]) == expected
    with pytest.raises(UserError, match="no protein of the split has a contact"):
        contact_error(predictions[2:], y[2:])
    with pytest.raises(ValueError, match="distance maps"):
        contact_error(np.zeros((2, 3, 4, 4)), np.zeros((2, 3, 4, 4)))


def test_quirks_of_the_published_contact_error() -> None:
    y = np.full((2, 50, 50), PADDING)
    y[0, 5:35, 5:35] = 20.0  # the first protein has 30 residues
    y[1, 5:45, 5:45] = 20.0
    y[0, 5, 30] = 4.0
    y[1, 6, 31] = 8.0
    y[1, 6, 40] = 8.0  # beyond 30 residues
    predictions = y.copy()
    # ¼ 8 + ¾ 4: off by 1.
    predictions[0, 5, 30] = 8.0
    predictions[0, 30, 5] = 4.0
    # Both means are lifted to 0.01: off by 7.99.
    predictions[1, 6, 31] = 1.0
    predictions[1, 31, 6] = -9.0
    predictions[1, 40, 6] = 999.0
    error = compute("mae_lr_d8_reference", predictions, y)
    assert error == pytest.approx((1 + 7.99) / 2)


class TestEveryLoss(LossSuite):
    names = all_losses()

    def inputs(self, name: str) -> tuple[Tensor, Tensor]:
        predictions, y = super().inputs(name)
        if name in ("cross_entropy", "weighted_cross_entropy", "softmax_focal"):
            return predictions, y
        generator = torch.Generator().manual_seed(1)
        numbers = torch.randn(5, 4, generator=generator, dtype=torch.float64)
        labels = (numbers > 0).double()
        if name == "masked_bce":
            return predictions, torch.where(numbers.abs() < 0.5, IGNORED, labels)
        if "bce" in name:
            return predictions, labels
        return predictions, numbers


_loss = TestEveryLoss().loss
_inputs = TestEveryLoss().inputs


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


def loss_of(name: str, predictions: Tensor, y: Tensor) -> float:
    return _loss(name)(predictions, y).item()


def test_losses_of_classes_by_hand() -> None:
    cross_entropy = loss_of("cross_entropy", torch.zeros(2, 10), torch.tensor([3, 4]))
    assert cross_entropy == pytest.approx(np.log(10))
    probabilities = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.7, 0.2]]).double()
    expected = -(math.log(0.25 + 1e-9) + math.log(0.7 + 1e-9)) / 2
    focal = loss_of("softmax_focal", probabilities.log(), torch.tensor([1, 1]))
    assert focal == pytest.approx(expected, rel=1e-6)
    hopeless = torch.tensor([[100.0, 0.0]])
    focal = loss_of("softmax_focal", hopeless, torch.tensor([1]))
    assert focal == pytest.approx(-math.log(1e-9))


@pytest.mark.parametrize(
    ("name", "weight"), [("bce", 1), ("bce_pos4", 4), ("bce_pos10", 10)]
)
def test_losses_of_labels_by_hand(name: str, weight: float) -> None:
    logits = torch.tensor([[math.log(3), 0.0]])
    y = torch.tensor([[1.0, 0.0]])
    expected = (weight * math.log(4 / 3) + math.log(2)) / 2
    assert loss_of(name, logits, y) == pytest.approx(expected)


def test_the_rmse_loss_is_the_mean_over_samples() -> None:
    predictions = torch.tensor([[[2.0, 2.0], [2.0, 2.0]], [[8.0, 0.0], [0.0, 0.0]]])
    loss = loss_of("rmse", predictions, torch.zeros(2, 2, 2))
    assert loss == pytest.approx((2 + 4) / 2)
    loss = loss_of("rmse", torch.tensor([1.0, -3.0]), torch.zeros(2))
    assert loss == pytest.approx(2)


def test_weights_are_inverse_class_frequencies() -> None:
    # 8 samples over 4 classes and the class's own number: ½, 1, 2, 2; every class has
    # an equal part of the loss.
    logits = torch.zeros(1, 4)
    losses = [
        loss_of("weighted_cross_entropy", logits, torch.tensor([label]))
        for label in range(4)
    ]
    expected = np.array([0.5, 1, 2, 2]) * math.log(4)
    assert losses == pytest.approx(expected.tolist())


def test_a_class_without_training_samples_is_refused() -> None:
    loss = get_loss("weighted_cross_entropy")
    y = np.array([0, 1, 3, 3])
    message = "1 of 4 are not there, the first of them class 2"
    with pytest.raises(UserError, match=message):
        loss.make(y, TestEveryLoss.target, torch.device("cpu"))


def test_a_misspelt_loss_is_answered_with_the_nearest() -> None:
    message = r"unknown loss 'cross-entropy'\. Did you mean 'cross_entropy'"
    with pytest.raises(UserError, match=message):
        get_loss("cross-entropy")


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.floats(-50, 50))
def test_ignored_pixels_add_a_constant_and_no_gradient(seed: int, logit: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, 3, generator=generator)
    y = torch.randint(-1, 2, (2, 3, 3), generator=generator).float()
    ignored = y == IGNORED
    logits[ignored] = logit
    logits.requires_grad_()
    loss = _loss("masked_bce")(logits, y)
    of_other_pixels = binary_cross_entropy_with_logits(
        logits[~ignored], y[~ignored], reduction="sum"
    )
    of_ignored_pixels = int(ignored.sum()) * math.log(2)
    torch.testing.assert_close(loss, (of_other_pixels + of_ignored_pixels) / 18)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert not gradient[ignored].any()
    assert gradient[~ignored].all()


SHAPES_DIFFER = r"shape \(3, 1\), targets \(3,\)"


@pytest.mark.parametrize(
    "name",
    ["relative_l2", "rmse", "one_minus_r2", "cosmic_one_minus_auroc", "mae_lr_d8"],
)
def test_metrics_refuse_shapes_that_would_broadcast(name: str) -> None:
    with pytest.raises(ValueError, match=SHAPES_DIFFER):
        compute(name, np.ones((3, 1)), np.arange(3.0))


@pytest.mark.parametrize("name", ["mse", "rmse", "relative_l2", "masked_bce"])
def test_losses_refuse_shapes_that_would_broadcast(name: str) -> None:
    with pytest.raises(ValueError, match=SHAPES_DIFFER):
        _loss(name)(torch.ones(3, 1), torch.ones(3))


UNCHANGED = [4, 4, 0]


def draw_images(
    num: int, channels: int = 3, height: int = 6, width: int = 9, seed: int = 0
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, channels, height, width, generator=generator)


def draw(name: str, num: int, seed: int = 0) -> Tensor:
    return all_augmentations()[name].draw(num, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", all_augmentations())
def test_every_augmentation_changes_samples_one_by_one_as_its_generator_draws(
    name: str,
) -> None:
    augmentation = all_augmentations()[name]
    x = draw_images(20)
    state = torch.get_rng_state()
    before = x.clone()
    drawn = draw(name, 20)
    assert torch.equal(drawn, draw(name, 20))
    assert not torch.equal(drawn, draw(name, 20, seed=1))
    assert torch.equal(torch.get_rng_state(), state)
    changed = augmentation.apply(x, drawn)
    assert changed.shape == x.shape
    assert changed.dtype == x.dtype
    assert torch.equal(x, before)  # it may be the data set itself
    assert not torch.equal(changed, x)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    for chosen in torch.split(order, 7):
        of_chosen = augmentation.apply(x[chosen], drawn[chosen])
        assert torch.equal(of_chosen, changed[chosen])
    assert augmentation.name == name
    assert len(augmentation.definition) > 20


@given(
    st.integers(1, 3),
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(0, 3),
    st.booleans(),
    st.integers(0, 10_000),
)
def test_a_cropped_image_is_a_window_of_the_padded_image(
    channels: int, height: int, width: int, margin: int, one_for_all: bool, seed: int
) -> None:
    padding: tuple[float, ...] = tuple(range(channels))
    if one_for_all:
        padding = (0.5,)
    crop_flip = CropFlip("any", "any", padding, margin)
    x = draw_images(4, channels, height, width, seed)
    drawn = crop_flip.draw(4, torch.Generator().manual_seed(seed))
    changed = crop_flip.apply(x, drawn)
    borders = torch.tensor(padding, dtype=x.dtype).expand(channels)
    for image, changed_image, (top, left, is_mirrored) in zip(
        x, changed, drawn.tolist(), strict=True
    ):
        padded = borders[:, None, None].repeat(
            1, height + 2 * margin, width + 2 * margin
        )
        padded[:, margin : margin + height, margin : margin + width] = image
        expected = padded[:, top : top + height, left : left + width]
        if is_mirrored:
            expected = expected.flip(2)
        assert torch.equal(changed_image, expected)


def test_all_windows_are_as_likely() -> None:
    drawn = draw("crop_flip", 20_000).numpy()
    top, left, is_mirrored = drawn.T
    for values, num_values in ((top, 9), (left, 9), (is_mirrored, 2)):
        counts = np.bincount(values, minlength=num_values)
        assert len(counts) == num_values
        np.testing.assert_allclose(counts / 20_000, 1 / num_values, atol=0.012)


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (2, 3, 8)])
def test_inputs_that_are_no_such_images_are_refused(shape: tuple[int, ...]) -> None:
    augmentation = all_augmentations()["crop_flip_cifar100"]
    drawn = torch.tensor([UNCHANGED, UNCHANGED])
    message = r"crop_flip_cifar100 takes images \[B, 3, H, W\]"
    with pytest.raises(ValueError, match=message):
        augmentation.apply(torch.zeros(shape), drawn)


@given(
    st.integers(1, 3),
    st.integers(1, 25),
    st.integers(1, 25),
    st.floats(0.01, 0.9),
    st.integers(0, 10_000),
)
def test_a_shifted_image_is_a_window_of_the_image_with_its_edges_repeated(
    channels: int, height: int, width: int, share: float, seed: int
) -> None:
    shift = Shift("shift", "any", share)
    x = draw_images(4, channels, height, width, seed)
    drawn = shift.draw(4, torch.Generator().manual_seed(seed))
    most_down = max(1, int(share * height))
    most_right = max(1, int(share * width))
    margins = ((0, 0), (most_down, most_down), (most_right, most_right))
    for image, shifted, (down, right) in zip(
        x.numpy(), shift.apply(x, drawn).numpy(), drawn.tolist(), strict=True
    ):
        top = 2 * most_down - int(down * (2 * most_down + 1))
        left = 2 * most_right - int(right * (2 * most_right + 1))
        padded = np.pad(image, margins, mode="edge")
        expected = padded[:, top : top + height, left : left + width]
        np.testing.assert_array_equal(shifted, expected)


def test_only_images_with_classes_or_labels_are_shifted() -> None:
    task = make_task(Target("classes", size=3), (1, 8, 8))
    shift = Shift("shift", "moved, edges repeated (Simard et al., 2003)", 0.1)
    assert get_shift(task, 0.1) == shift
    assert get_shift(task, 0.0) is None
    without_shift = (
        replace(task, input_shape=(1, 8)),
        replace(task, domain="audio"),
        replace(task, target=Target("dense", shape=(8, 8))),
        replace(task, target=Target("scalar")),
    )
    for unlike_task in without_shift:
        assert get_shift(unlike_task, 0.1) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", all_augmentations())
def test_devices_agree(name: str) -> None:
    x = draw_images(20)
    drawn = draw(name, 20)
    augmentation = all_augmentations()[name]
    on_gpu = augmentation.apply(x.cuda(), drawn.cuda())
    assert torch.equal(on_gpu.cpu(), augmentation.apply(x, drawn))
