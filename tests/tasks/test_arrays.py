import numpy as np

from orca_ray.tasks import arrays


def test_statistics_come_from_training_alone() -> None:
    train, other = np.array([[[0.0, 2.0]], [[4.0, 6.0]]]), np.full((3, 1, 2), 100.0)
    labels = np.array([0, 1, 0])
    named = arrays.classification([(train, labels[:2]), (other, labels), (other, labels)], axes=(0,))
    np.testing.assert_allclose(named["train_x"], [[[-1, -1]], [[1, 1]]])
    np.testing.assert_allclose(named["test_x"], np.broadcast_to([[[49, 48]]], (3, 1, 2)))
    assert named["validation_y"].dtype == np.int64


def test_padding_becomes_the_mean() -> None:
    x = np.array([[[1.0, 3.0, np.nan]]])
    named = arrays.classification([(x, np.array([0]))] * 3)
    np.testing.assert_allclose(named["train_x"], [[[-1, 1, 0]]])


def test_targets_stay_as_they_are_beside_their_statistics() -> None:
    x, y = np.zeros((2, 1, 2)), np.array([[1.0, 10.0], [3.0, 30.0]])
    parts = [(x, y), (x, y + 5), (x, y)]
    pointwise = arrays.regression(parts)
    np.testing.assert_array_equal(pointwise["validation_y"], (y + 5).astype(np.float32))
    np.testing.assert_allclose(pointwise["y_mean"], [2, 20])
    np.testing.assert_allclose(pointwise["y_std"], [1, 10])
    overall = arrays.regression(parts, target_axes=(0, 1))
    np.testing.assert_allclose(overall["y_mean"], [11])
