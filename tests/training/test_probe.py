"""The probe: errors of neighbours, computed by hand and by scikit-learn; targets of every kind as numbers."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsRegressor

from orca_ray.data.prepared import Split
from orca_ray.data.rows import Target
from orca_ray.training.errors import NotFiniteError
from orca_ray.training.probe import NUM_NEIGHBOURS, NUM_SAMPLES, Probe, encoded_targets, neighbour_errors

from .training_toys import CLASSES, CPU, toy_model, toy_split


def test_errors_by_hand() -> None:
    """Three samples: each is predicted by the mean of the two others; the variance of the targets is 6."""
    features, targets = torch.tensor([[0.0], [1.0], [5.0]]).double(), torch.tensor([[0.0], [3.0], [6.0]]).double()
    assert neighbour_errors(features, targets).tolist() == [20.25 / 6, 0.0, 20.25 / 6]


def test_errors_are_those_of_leave_one_out_regression() -> None:
    random = np.random.default_rng(0)
    features, targets = random.normal(size=(40, 3)), random.normal(size=(40, 2))
    scaled = features / features.std(axis=0)
    expected = []
    for index in range(40):
        others = np.delete(np.arange(40), index)
        model = KNeighborsRegressor(NUM_NEIGHBOURS).fit(scaled[others], targets[others])
        expected.append(np.square(model.predict(scaled[[index]]) - targets[index]).sum())
    variance = np.square(targets - targets.mean(axis=0)).sum(axis=1).mean()
    errors = neighbour_errors(torch.from_numpy(features), torch.from_numpy(targets))
    np.testing.assert_allclose(errors, np.array(expected) / variance, rtol=1e-10)


def test_units_of_a_feature_do_not_matter_and_constant_features_do_not_count() -> None:
    random = np.random.default_rng(1)
    features, targets = torch.from_numpy(random.normal(size=(30, 3))), torch.from_numpy(random.normal(size=(30, 1)))
    changed = torch.cat([features * torch.tensor([1.0, 1e3, 1e-3]), torch.full((30, 1), 7.0)], dim=1)
    torch.testing.assert_close(neighbour_errors(changed, targets), neighbour_errors(features, targets))


def test_parts_of_the_same_sample_are_not_its_neighbours() -> None:
    """Without groups, the copy of a sample predicts it too well."""
    random = np.random.default_rng(2)
    features, targets = (torch.from_numpy(random.normal(size=(20, 2))).repeat(2, 1) for _ in range(2))
    groups = torch.arange(20).repeat(2)
    assert neighbour_errors(features, targets, groups).mean() > 1.2 * neighbour_errors(features, targets).mean()


def test_equal_targets_have_no_error() -> None:
    assert neighbour_errors(torch.randn(4, 2), torch.ones(4, 3)).tolist() == [0.0] * 4
    assert neighbour_errors(torch.ones(1, 2), torch.ones(1, 3)).tolist() == [0.0]


def test_targets_of_every_kind_as_numbers() -> None:
    indices = np.array([0, 2, 3])
    classes = encoded_targets(np.array([4, 0, 9, 4]), indices, Target("classes", size=10))
    assert classes.tolist() == [[1, 0], [0, 1], [1, 0]]  # columns of classes that do not occur are omitted
    assert encoded_targets(np.arange(4.0), indices, Target("scalar")).tolist() == [[0], [2], [3]]
    labels = encoded_targets(np.eye(4, dtype=np.float32), indices, Target("labels", size=4))
    assert labels.tolist() == np.eye(4)[indices].tolist()
    field = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    assert (
        encoded_targets(field, indices, Target("dense", shape=(2, 3))).tolist() == field[indices].reshape(3, 6).tolist()
    )


def test_large_fields_are_sketched() -> None:
    fields = np.random.default_rng(3).normal(size=(70, 2, 100, 100))
    sketch = encoded_targets(fields, np.arange(70), Target("dense", shape=(2, 100, 100)))
    assert sketch.shape == (70, 4096)
    flat = torch.from_numpy(fields.reshape(70, -1))
    torch.testing.assert_close(torch.cdist(sketch, sketch), torch.cdist(flat, flat), rtol=0.1, atol=1e-3)


def test_a_probe_reads_a_fixed_random_sample_in_evaluation_mode() -> None:
    split = toy_split(2 * NUM_SAMPLES)
    model = toy_model(dropout=0.5).train()
    probe = Probe(model, split, CLASSES, seed=0, device=CPU)
    errors = probe()
    assert errors.shape == (NUM_SAMPLES,)
    assert torch.equal(probe(), errors)
    assert model.training
    assert errors.mean() < 0.5  # the classes differ in their mean
    other = Probe(model, split, CLASSES, seed=1, device=CPU)()
    assert not torch.equal(other, errors)


def test_features_that_are_not_finite() -> None:
    split = toy_split(20)
    broken = Split(np.where(np.arange(20)[:, None, None] == 3, np.nan, split.x[:]).astype(np.float32), split.y)
    with pytest.raises(NotFiniteError, match=r"features \(20, 6\) of a probe are not finite"):
        Probe(toy_model(), broken, CLASSES, seed=0, device=CPU)()
