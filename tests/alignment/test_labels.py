"""Pseudo-classes of targets that are no classes."""

import numpy as np
import pytest

from orca_ray.alignment import labels as labels_module
from orca_ray.alignment.labels import pseudo_labels
from orca_ray.errors import UserError


def test_classes_pass_through() -> None:
    y = np.array([3, 0, 900, 3], dtype=np.int32)
    assert pseudo_labels(y).tolist() == [3, 0, 900, 3]
    assert pseudo_labels(y).dtype == np.int64


@pytest.mark.parametrize(("shape", "scale"), [((), 1e-9), ((5,), 1e9), ((4, 6), 1.0)])
def test_separated_targets_are_found_again(shape: tuple[int, ...], scale: float) -> None:
    random = np.random.RandomState(0)
    groups = np.repeat(np.arange(4), 20)
    y = scale * (groups.reshape(-1, *[1] * len(shape)) + 0.01 * random.randn(80, *shape))
    found = pseudo_labels(y.astype(np.float32), num_classes=4, seed=1)
    assert found.shape == (80,)
    assert len(set(zip(groups.tolist(), found.tolist(), strict=True))) == 4
    assert np.array_equal(found, pseudo_labels(y.astype(np.float32), num_classes=4, seed=1))


def test_fewer_different_targets_than_classes() -> None:
    y = np.array([0.0, 1.0, 0.0, 1.0, 1.0], dtype=np.float32)
    found = pseudo_labels(y)
    assert len(set(found.tolist())) == 2
    assert found[0] == found[2] != found[1] == found[3] == found[4]
    assert pseudo_labels(np.full((6, 3), 2.0)).tolist() == [0] * 6


def test_many_samples_go_in_mini_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels_module, "_MINI_BATCH_ABOVE", 100)
    groups = np.repeat(np.arange(3), 100)
    found = pseudo_labels(groups.astype(np.float32) * 5, num_classes=3)
    assert len(set(zip(groups.tolist(), found.tolist(), strict=True))) == 3


@pytest.mark.parametrize(
    ("y", "num_classes", "message"),
    [
        (np.array([[1.0, np.nan]]), 10, r"shape \(1, 2\): NaN or infinite"),
        (np.zeros((0, 3)), 10, "no sample"),
        (np.zeros(3), 0, "at least 1 class"),
    ],
)
def test_bad_targets_are_refused(y: np.ndarray, num_classes: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        pseudo_labels(y, num_classes)


def test_huge_targets_are_sketched_and_clustered_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = np.repeat(np.arange(4), 6)
    centres = np.random.default_rng(0).normal(size=(4, 20_000))
    fields = centres[groups] + 0.5 * np.random.default_rng(1).normal(size=(24, 20_000))
    whole = pseudo_labels(fields.astype(np.float32), num_classes=4)
    monkeypatch.setattr(labels_module, "MOST_NUMBERS", 1)
    sketched = pseudo_labels(fields.astype(np.float32), num_classes=4)
    assert len(set(zip(whole.tolist(), sketched.tolist(), strict=True))) == 4
    gaps = np.square(labels_module.sketched(fields, 0)[:, None] - labels_module.sketched(fields, 0)).sum(-1)
    exact = np.square(fields[:, None] - fields).sum(-1)
    far = exact > 0
    np.testing.assert_allclose(gaps[far], exact[far], rtol=0.15)
