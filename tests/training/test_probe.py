"""The probe: errors of left-out samples, against as many regressions; targets of every kind as numbers."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from orca_ray.data.prepared import Split
from orca_ray.data.rows import Target
from orca_ray.training.numerics import NotFiniteError
from orca_ray.training.probe import NUM_SAMPLES, PENALTIES, Probe, encoded_targets, ridge_errors

from .training_toys import CLASSES, CPU, toy_model, toy_split


def test_errors_are_those_of_leaving_each_sample_out() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(40, 3)) * [1.0, 10.0, 0.1]
    targets = features[:, :2] + random.normal(size=(40, 2))
    scaled = features / features.std(axis=0) / 3**0.5
    left_out = np.zeros((len(PENALTIES), 40))
    for number, penalty in enumerate(PENALTIES):
        for index in range(40):
            others = np.delete(np.arange(40), index)
            model = Ridge(penalty).fit(scaled[others], targets[others])
            left_out[number, index] = np.square(model.predict(scaled[[index]]) - targets[index]).sum()
    variance = np.square(targets - targets.mean(axis=0)).sum(axis=1).mean()
    errors = ridge_errors(torch.from_numpy(features), torch.from_numpy(targets))
    np.testing.assert_allclose(errors, left_out[left_out.mean(axis=1).argmin()] / variance, rtol=1e-6)


def test_neither_units_nor_constant_features_nor_constant_targets_matter() -> None:
    random = np.random.default_rng(1)
    features, targets = torch.from_numpy(random.normal(size=(30, 3))), torch.from_numpy(random.normal(size=(30, 1)))
    changed = features * torch.tensor([1.0, 1e3, 1e-3]) + torch.tensor([5.0, 0.0, -2.0])
    torch.testing.assert_close(ridge_errors(changed, targets), ridge_errors(features, targets))
    constant = torch.cat([features, torch.full((30, 1), 7.0)], dim=1)
    assert bool(torch.isfinite(ridge_errors(constant, targets)).all())
    torch.testing.assert_close(ridge_errors(features, torch.ones(30, 3).double()), torch.zeros(30).double())


def test_targets_of_every_kind_as_numbers() -> None:
    indices = np.array([0, 2, 3])
    parts = [(np.array([4, 0, 9, 4]), indices), (np.array([0, 9]), np.array([0]))]
    classes = encoded_targets(parts, Target("classes", size=10))  # classes that do not occur have no column
    assert classes.tolist() == [[0, 1, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]]
    assert encoded_targets([(np.arange(4.0), indices)], Target("scalar")).tolist() == [[0], [2], [3]]
    labels = encoded_targets([(np.eye(4, dtype=np.float32), indices)], Target("labels", size=4))
    assert labels.tolist() == np.eye(4)[indices].tolist()
    field = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    fields = encoded_targets([(field, indices)], Target("dense", shape=(2, 3)))
    assert fields.tolist() == field[indices].reshape(3, 6).tolist()
    large = np.ones((4, 2, 100, 100), dtype=np.float32)  # is sketched
    assert encoded_targets([(large, indices)], Target("dense", shape=(2, 100, 100))).shape == (3, 4096)


def test_a_probe_reads_a_fixed_random_sample_of_all_splits_in_evaluation_mode() -> None:
    splits = [toy_split(2 * NUM_SAMPLES), toy_split(30, seed=1)]
    model = toy_model(dropout=0.5).train()
    probe = Probe(model, splits, CLASSES, seed=0, device=CPU)
    errors = probe()
    assert errors.shape == (NUM_SAMPLES,)
    assert torch.equal(probe(), errors)
    assert model.training
    assert errors.mean() < 0.5  # the classes differ in their mean
    assert not torch.equal(Probe(model, splits, CLASSES, seed=1, device=CPU)(), errors)
    split = toy_split(40)
    assert Probe(model, [split, toy_split(30, seed=1)], CLASSES, seed=0, device=CPU)().shape == (70,)
    grouped = Split(split.x, split.y, group=np.arange(40) // 4)  # a group is probed once
    assert Probe(model, [grouped], CLASSES, seed=0, device=CPU)().shape == (10,)


def test_features_that_are_not_finite() -> None:
    split = toy_split(20)
    broken = Split(np.where(np.arange(20)[:, None, None] == 3, np.nan, split.x[:]).astype(np.float32), split.y)
    with pytest.raises(NotFiniteError, match=r"features \(20, 6\) of a probe are not finite"):
        Probe(toy_model(), [broken], CLASSES, seed=0, device=CPU)()
