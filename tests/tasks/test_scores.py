"""Metrics and losses: cases computed by hand, and invariances.

What augmentations do to an image, and what they draw. Scripts in `benchmarks` compare
metrics and losses with the reference.
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
    """Distances of a random walk of steps of 2 Å, padded.

    It comes back near itself often enough to have contacts.
    """
    points = (
        np.random.RandomState(seed).normal(scale=2.0, size=(length, 3)).cumsum(axis=0)
        * 0.5
    )
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
    ordered = (
        "mae_lr_d8_reference",
    )  # every protein is cut to the length of the first


def test_metrics_by_hand() -> None:
    logits = np.array([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0], [1.0, 0.0]])
    assert get_metric("error").compute(logits, np.array([0, 1, 1, 1])) == 0.5
    # Differences 1, 3 for class 0 and 2, 4 for class 1: three of four pairs are in
    # order.
    logits = np.array([[0.0, 1.0], [0.0, 3.0], [0.0, 2.0], [0.0, 4.0]])
    assert get_metric("one_minus_auroc").compute(
        logits, np.array([0, 0, 1, 1])
    ) == pytest.approx(0.25)
    # Class 0: precision 3/4, recall 1 → 6/7; class 1: precision 1, recall 1/2 → 2/3.
    f1 = get_metric("one_minus_macro_f1").compute(
        np.eye(2)[[0, 0, 0, 0, 1]], np.array([0, 0, 0, 1, 1])
    )
    assert f1 == pytest.approx(1 - (6 / 7 + 2 / 3) / 2)
    y = np.array([[1], [0], [1], [0]], dtype=np.float32)
    logits = np.array([[4.0], [3.0], [2.0], [1.0]])
    assert get_metric("one_minus_map").compute(logits, y) == pytest.approx(
        1 - (1 + 2 / 3) / 2
    )
    predictions = np.array([1.0, 2.0, 5.0])
    y = np.array([1.0, 2.0, 3.0])
    assert get_metric("rmse").compute(predictions, y) == pytest.approx(np.sqrt(4 / 3))
    assert get_metric("one_minus_r2").compute(predictions, y) == pytest.approx(4 / 2)
    for name in ("relative_l2", "nrmse"):  # means of the samples' own
        predictions = FIELD + np.array([[0.0, 5.0], [1.0, 0.0]])
        assert get_metric(name).compute(predictions, FIELD) == pytest.approx(
            (5 / 5 + 1 / 2) / 2
        )


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
        get_metric(name).compute(predictions, y)


@pytest.mark.parametrize("offset", [100.0, 800.0])
def test_auroc_ranks_where_probabilities_saturate(offset: float) -> None:
    binary = np.array([[0.0, offset], [0.0, offset + 1], [0.0, offset + 2]])
    assert get_metric("one_minus_auroc").compute(binary, np.array([0, 1, 1])) == 0
    # Three classes: every sample gives class 0 a probability that rounds to one.
    logits = np.array(
        [[3.0, 0, 0], [4.0, 0, 0], [2.0, 1, 0], [2.0, 2, 0], [2.0, 0, 2], [2.0, 0, 3]]
    )
    logits[:, 0] += offset
    assert (
        get_metric("one_minus_auroc").compute(logits, np.array([0, 0, 1, 1, 2, 2])) == 0
    )


@settings(max_examples=25)
@given(st.integers(0, 10_000))
def test_one_versus_one_auroc_equals_scikit_learn_on_moderate_logits(seed: int) -> None:
    random = np.random.RandomState(seed)
    y = np.concatenate([np.arange(4), random.randint(0, 4, 20)])
    logits = random.standard_normal((24, 4))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = 1 - roc_auc_score(y, probabilities, multi_class="ovo", average="macro")
    assert get_metric("one_minus_auroc").compute(logits, y) == pytest.approx(
        expected, abs=1e-9
    )


@pytest.mark.parametrize("name", ["one_minus_auroc", "one_minus_map"])
def test_labels_with_one_outcome_are_skipped(name: str) -> None:
    y = np.array([[1, 1], [0, 1], [1, 1]], dtype=np.float32)
    logits = np.array([[1.0, -9], [0.0, 5], [2.0, 0]])
    assert get_metric(name).compute(logits, y) == 0
    with pytest.raises(UserError, match="no label has both"):
        get_metric(name).compute(logits, np.ones_like(y))


def test_metrics_of_masks_by_hand() -> None:
    y = np.array([[[1, 1, 0], [0, 0, IGNORED]]], dtype=np.float32)
    logits = np.array([[[2.0, -1.0, 1.0], [-2.0, -3.0, 9.0]]])
    # Of the 2 × 4 pairs, the ignored pixel being a 0 at logit 0, only 1 and 0 rank
    # above the pixel of −1.
    assert get_metric("cosmic_one_minus_auroc").compute(logits, y) == pytest.approx(
        2 / 8
    )
    # One of two mask pixels is missed; of four others one is marked.
    assert get_metric("cosmic_one_minus_auroc_thresholded").compute(
        logits, y
    ) == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert get_metric("false_negative_rate").compute(logits, y) == pytest.approx(1 / 2)


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.booleans())
def test_the_area_is_that_of_scikit_learn_and_of_ranks_alone(
    seed: int, ties: bool
) -> None:
    random = np.random.RandomState(seed)
    positive = np.concatenate([[True, False], random.uniform(size=60) < 0.2])
    scores = (
        random.randint(-3, 4, 62).astype(np.float64) if ties else random.normal(size=62)
    )
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
    compute = get_metric("mae_lr_d8").compute
    assert compute(predictions, y) == expected
    assert compute(predictions[[0, 2, 1]], y[[0, 2, 1]]) == expected
    assert compute(predictions[:, None], y[:, None]) == expected
    with pytest.raises(UserError, match="no protein of the split has a contact"):
        compute(predictions[2:], y[2:])
    with pytest.raises(ValueError, match="distance maps"):
        compute(np.zeros((2, 3, 4, 4)), np.zeros((2, 3, 4, 4)))


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
    assert get_metric("mae_lr_d8_reference").compute(predictions, y) == pytest.approx(
        (1 + 7.99) / 2
    )


class TestEveryLoss(LossSuite):
    names = all_losses()

    def inputs(self, name: str) -> tuple[Tensor, Tensor]:
        predictions, y = super().inputs(name)
        other = torch.randn(
            5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64
        )
        if name in ("cross_entropy", "weighted_cross_entropy", "softmax_focal"):
            return predictions, y
        if name == "masked_bce":
            return predictions, torch.where(
                other.abs() < 0.5, IGNORED, (other > 0).double()
            )
        return predictions, (other > 0).double() if "bce" in name else other


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


def test_losses_by_hand() -> None:
    assert _loss("cross_entropy")(
        torch.zeros(2, 10), torch.tensor([3, 4])
    ).item() == pytest.approx(np.log(10))
    logits = torch.log(
        torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.7, 0.2]], dtype=torch.float64)
    )
    expected = -(math.log(0.25 + 1e-9) + math.log(0.7 + 1e-9)) / 2
    assert _loss("softmax_focal")(logits, torch.tensor([1, 1])).item() == pytest.approx(
        expected, rel=1e-12
    )
    hopeless = torch.tensor([[100.0, 0.0]])
    assert _loss("softmax_focal")(hopeless, torch.tensor([1])).item() == pytest.approx(
        -math.log(1e-9)
    )
    logits = torch.tensor([[math.log(3), 0.0]])
    y = torch.tensor([[1.0, 0.0]])
    for name, weight in (("bce", 1), ("bce_pos4", 4), ("bce_pos10", 10)):
        assert _loss(name)(logits, y).item() == pytest.approx(
            (weight * math.log(4 / 3) + math.log(2)) / 2
        )
    # The mean over samples.
    predictions = torch.tensor([[[2.0, 2.0], [2.0, 2.0]], [[8.0, 0.0], [0.0, 0.0]]])
    assert _loss("rmse")(predictions, torch.zeros(2, 2, 2)).item() == pytest.approx(
        (2 + 4) / 2
    )
    assert _loss("rmse")(
        torch.tensor([1.0, -3.0]), torch.zeros(2)
    ).item() == pytest.approx(2)


def test_weights_are_inverse_class_frequencies() -> None:
    # 8 samples over 4 classes and the class's own number: ½, 1, 2, 2; every class has
    # an equal part of the loss.
    loss = _loss("weighted_cross_entropy")
    logits = torch.zeros(1, 4)
    each = [loss(logits, torch.tensor([k])).item() / math.log(4) for k in range(4)]
    assert each == pytest.approx([0.5, 1, 2, 2])


def test_a_class_without_training_samples_and_misspelt_names_are_refused() -> None:
    with pytest.raises(
        UserError, match="1 of 4 are not there, the first of them class 2"
    ):
        get_loss("weighted_cross_entropy").make(
            np.array([0, 1, 3, 3]), TestEveryLoss.target, torch.device("cpu")
        )
    with pytest.raises(
        UserError, match=r"unknown loss 'cross-entropy'\. Did you mean 'cross_entropy'"
    ):
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
    kept = torch.nn.functional.binary_cross_entropy_with_logits(
        logits[~ignored], y[~ignored], reduction="sum"
    )
    torch.testing.assert_close(loss, (kept + int(ignored.sum()) * math.log(2)) / 18)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert not gradient[ignored].any()
    assert gradient[~ignored].all()


def test_shapes_that_would_broadcast_are_refused() -> None:
    for name in (
        "relative_l2",
        "rmse",
        "one_minus_r2",
        "cosmic_one_minus_auroc",
        "mae_lr_d8",
    ):
        with pytest.raises(ValueError, match=r"shape \(3, 1\), targets \(3,\)"):
            get_metric(name).compute(np.ones((3, 1)), np.arange(3.0))
    for name in ("mse", "rmse", "relative_l2", "masked_bce"):
        with pytest.raises(ValueError, match=r"shape \(3, 1\), targets \(3,\)"):
            _loss(name)(torch.ones(3, 1), torch.ones(3))


UNCHANGED = [4, 4, 0]


def images(
    num: int, channels: int = 3, height: int = 6, width: int = 9, seed: int = 0
) -> Tensor:
    return torch.randn(
        num, channels, height, width, generator=torch.Generator().manual_seed(seed)
    )


def draw(name: str, num: int, seed: int = 0) -> Tensor:
    return all_augmentations()[name].draw(num, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", all_augmentations())
def test_every_augmentation_changes_samples_one_by_one_as_its_generator_draws(
    name: str,
) -> None:
    augmentation = all_augmentations()[name]
    x = images(20)
    state = torch.get_rng_state()
    before = x.clone()
    drawn = draw(name, 20)
    assert torch.equal(drawn, draw(name, 20))
    assert not torch.equal(drawn, draw(name, 20, seed=1))
    assert torch.equal(torch.get_rng_state(), state)
    changed = augmentation.apply(x, drawn)
    assert (changed.shape, changed.dtype) == (x.shape, x.dtype)
    assert torch.equal(x, before)  # it may be the data set itself
    assert not torch.equal(changed, x)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    for part in torch.split(order, 7):
        assert torch.equal(augmentation.apply(x[part], drawn[part]), changed[part])
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
def test_it_is_a_window_of_the_padded_image(
    channels: int, height: int, width: int, margin: int, one_for_all: bool, seed: int
) -> None:
    padding = (0.5,) if one_for_all else tuple(float(c) for c in range(channels))
    crop_flip = CropFlip("any", "any", padding, margin)
    x = images(4, channels, height, width, seed)
    drawn = crop_flip.draw(4, torch.Generator().manual_seed(seed))
    changed = crop_flip.apply(x, drawn).numpy()
    for image, (top, left, mirrored), ours in zip(
        x.numpy(), drawn.tolist(), changed, strict=True
    ):
        expected = []
        for channel, border in zip(
            image, padding * channels if one_for_all else padding, strict=False
        ):
            padded = np.pad(channel, margin, constant_values=border)
            window = padded[top : top + height, left : left + width]
            expected.append(window[:, ::-1] if mirrored else window)
        np.testing.assert_array_equal(ours, np.stack(expected))


def test_all_windows_are_as_likely() -> None:
    drawn = draw("crop_flip", 20_000).numpy()
    assert drawn.shape == (20_000, 3)
    for column, num in ((0, 9), (1, 9), (2, 2)):
        counts = np.bincount(drawn[:, column], minlength=num)
        assert len(counts) == num
        np.testing.assert_allclose(counts / 20_000, 1 / num, atol=0.012)


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (2, 3, 8)])
def test_inputs_that_are_no_such_images_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(
        ValueError, match=r"crop_flip_cifar100 takes images \[B, 3, H, W\]"
    ):
        all_augmentations()["crop_flip_cifar100"].apply(
            torch.zeros(shape), torch.tensor([UNCHANGED] * 2)
        )


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
    x = images(4, channels, height, width, seed)
    drawn = shift.draw(4, torch.Generator().manual_seed(seed))
    most = [max(1, int(share * side)) for side in (height, width)]
    for image, positions, ours in zip(
        x.numpy(), drawn.tolist(), shift.apply(x, drawn).numpy(), strict=True
    ):
        moves = [
            int(place * (2 * largest + 1))
            for place, largest in zip(positions, most, strict=True)
        ]
        top, left = (
            2 * largest - move for largest, move in zip(most, moves, strict=True)
        )
        padded = np.pad(
            image, ((0, 0), *((largest, largest) for largest in most)), mode="edge"
        )
        np.testing.assert_array_equal(
            ours, padded[:, top : top + height, left : left + width]
        )


def test_only_images_with_classes_or_labels_are_shifted() -> None:
    task = make_task(Target("classes", size=3), (1, 8, 8))
    assert get_shift(task, 0.1) == Shift(
        "shift", "moved, edges repeated (Simard et al., 2003)", 0.1
    )
    numbers = [
        replace(task, target=each)
        for each in (Target("dense", shape=(8, 8)), Target("scalar"))
    ]
    others = (
        replace(task, input_shape=(1, 8)),
        replace(task, domain="audio"),
        *numbers,
    )
    assert not any(get_shift(other, 0.1) for other in others)
    assert get_shift(task, 0.0) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", all_augmentations())
def test_devices_agree(name: str) -> None:
    x = images(20)
    drawn = draw(name, 20)
    augmentation = all_augmentations()[name]
    assert torch.equal(
        augmentation.apply(x.cuda(), drawn.cuda()).cpu(), augmentation.apply(x, drawn)
    )
