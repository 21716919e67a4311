"""Private interface of scikit-learn 1.9.1 that walks trees, which no public one does.

The public classes predict only with trees that they have trained themselves.
`tests/models/test_sklearn_private.py` says what breaks when the interface changes;
`has_compiled_walk` is False then, and `trees.TreeBody` walks trees in torch, which
takes 16 times as long (100 trees, 2000 samples, one thread).
"""

import logging
from functools import cache

import numpy as np

logger = logging.getLogger(__name__)


class CompiledTrees:
    """Trees that the compiled code of scikit-learn's histogram trees walks.

    The compiled code does not check the arrays: a child or feature outside its array
    makes it read arbitrary memory, and a cycle never ends. Check the arrays before.
    """

    def __init__(
        self,
        nodes: np.ndarray,
        thresholds: np.ndarray,
        inner: np.ndarray,
        sizes: np.ndarray,
    ) -> None:
        """Take over the ``nodes`` and ``thresholds`` of `trees.TreeBody`.

        ``inner`` [N] says which nodes have children; ``sizes`` are the numbers of nodes
        of the trees.
        """
        from sklearn.ensemble._hist_gradient_boosting.common import (
            PREDICTOR_RECORD_DTYPE,
        )
        from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor

        feature, left, right, missing_right = nodes.T
        columns = {
            "feature_idx": feature,
            "left": left,
            "right": right,
            "missing_go_to_left": missing_right == 0,
            "is_leaf": ~inner,
            "num_threshold": thresholds,
            # A leaf's value is its place among all nodes.
            "value": np.arange(len(nodes)),
        }
        records = np.zeros(len(nodes), PREDICTOR_RECORD_DTYPE)
        for name, column in columns.items():
            records[name] = column
        no_categories = np.zeros((0, 8), np.uint32)
        ends = np.cumsum(sizes)
        self._predictors = [
            TreePredictor(tree_records, no_categories, no_categories)
            for tree_records in np.split(records, ends[:-1])
            if len(tree_records)
        ]

    def find_leaves(self, table: np.ndarray, num_threads: int) -> np.ndarray:
        """Return the places [B, number of trees], int64, of the leaves of all samples.

        ``table`` [B, F] has float64 features. The result is contiguous by sample,
        because the leaves of a sample are added.
        """
        no_categories = np.zeros((0, 8), np.uint32)
        no_categorical_features = np.zeros(table.shape[1], np.uint32)
        leaves = [
            predictor.predict(
                table, no_categories, no_categorical_features, num_threads
            )
            for predictor in self._predictors
        ]
        by_tree = np.array(leaves, np.int64).reshape(len(leaves), len(table))
        return np.ascontiguousarray(by_tree.T)


@cache
def has_compiled_walk() -> bool:
    """Return whether the private interface works as in the version that was read.

    A tree of one split is walked with a value at the threshold, one above it, and a
    missing one.
    """
    nodes = np.array([[0, 1, 2, 0], [0, 1, 1, 0], [0, 2, 2, 0]])
    inner = np.array([True, False, False])
    table = np.array([[0.5], [0.6], [np.nan]])
    try:
        tree = CompiledTrees(nodes, np.array([0.5, 0.0, 0.0]), inner, np.array([3]))
        leaves = tree.find_leaves(table, num_threads=1)
    except Exception as error:  # a private interface that changed may raise anything
        logger.warning("scikit-learn's compiled walk of trees failed: %s", error)
        return False
    return np.array_equal(leaves, [[1], [2], [1]])
