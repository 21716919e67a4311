"""What breaks when scikit-learn's private walk of trees changes, and what does not."""

import logging
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sklearn.ensemble import ExtraTreesRegressor

from orca_ray.models import sklearn_private, trees
from orca_ray.models.sklearn_private import CompiledTrees, has_compiled_walk
from orca_ray.models.trees import ForestBody, read_sklearn_tree

NUM_FEATURES = 4
PRIVATE_MODULE = "sklearn.ensemble._hist_gradient_boosting.predictor"


@pytest.fixture(autouse=True)
def unknown_walk() -> Iterator[None]:
    """Let each test find out anew whether the private interface works."""
    has_compiled_walk.cache_clear()
    yield
    has_compiled_walk.cache_clear()


@pytest.fixture
def table() -> np.ndarray:
    random = np.random.default_rng(0)
    return random.normal(size=(50, NUM_FEATURES)).astype(np.float32)


@pytest.fixture
def forest(table: np.ndarray) -> ForestBody:
    estimator = ExtraTreesRegressor(5, random_state=0).fit(table, table[:, :2])
    body = ForestBody(NUM_FEATURES, 2)
    body.add_trees([read_sklearn_tree(tree.tree_) for tree in estimator.estimators_])
    return body


def test_the_interface_is_that_of_the_version_that_was_read() -> None:
    """If this fails, forests and boosted trees still predict, but slowly."""
    assert has_compiled_walk()


def test_leaves_are_those_of_the_walk_in_torch(
    forest: ForestBody, table: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = torch.from_numpy(table)[:, None]
    rows[::7, 0, 1] = torch.nan
    compiled = forest.leaves(rows)
    monkeypatch.setattr(trees, "has_compiled_walk", lambda: False)
    assert torch.equal(forest.leaves(rows), compiled)
    assert len(set(compiled.flatten().tolist())) > 50


def test_without_the_private_module_trees_are_walked_in_torch(
    forest: ForestBody,
    table: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows = torch.from_numpy(table)[:, None]
    expected = forest(rows)
    has_compiled_walk.cache_clear()
    monkeypatch.setitem(sys.modules, PRIVATE_MODULE, None)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(forest(rows), expected)
        assert torch.equal(forest(rows), expected)
    (warning,) = caplog.messages
    assert "compiled walk of trees failed" in warning


def test_a_walk_with_other_results_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def find_other_leaves(
        self: CompiledTrees, table: np.ndarray, num_threads: int
    ) -> np.ndarray:
        return np.zeros((len(table), 1), np.int64)

    monkeypatch.setattr(sklearn_private.CompiledTrees, "find_leaves", find_other_leaves)
    assert not has_compiled_walk()
