"""Trees as checked arrays, for ``forest`` and ``gradient_boosting``.

The methods take the trees from scikit-learn and LightGBM. The compiled walk of
scikit-learn's histogram trees predicts, as fast as LightGBM's
(`orca_ray.models.sklearn_private`). It does not check the arrays, so `TreeBody.check`
does. For export, and where the compiled walk is missing, trees are walked by operations
of torch.
"""

import math
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from orca_ray.data.rows import Target
from orca_ray.errors import UserError
from orca_ray.models.features import FittedBody
from orca_ray.models.sklearn_private import CompiledTrees, has_compiled_walk

_DAMAGED = "the trees of this model are damaged"
"""Beginning of the errors about arrays that are no trees."""
_MOST_TREES = 2**18
"""Largest number of trees. A batch of 64 samples takes 2.7 KB of memory for each."""
_MOST_LEVELS = 10_000
"""Largest number of levels of a tree; the walk in torch takes a step for each."""
_DEFAULT_LEFT = 2
"""Bit of LightGBM's decision types: missing values go left."""
_MISSING_IS_NAN = 8
"""Bit of LightGBM's decision types: only NaN is missing."""


class Tree(NamedTuple):
    """Tree of N nodes, numbered from its root, 0.

    The number of a child is larger than that of its parent.
    """

    nodes: np.ndarray
    """Feature, left child, right child, and whether missing values go right [N, 4]; a
    leaf is its own child.
    """
    thresholds: np.ndarray
    """Values [N] above which a sample goes right, float64."""
    values: np.ndarray
    """Outputs [N, W] of the leaves."""


class TreeBody(FittedBody):
    """Base of bodies that combine leaves: [B, 1, F] -> [B, 1, K].

    Each sample reaches one leaf of each tree.
    """

    resized = ("nodes", "thresholds", "values", "sizes")
    nodes: Tensor
    thresholds: Tensor
    values: Tensor
    sizes: Tensor
    """Number of nodes of each tree; the other buffers have the nodes of all trees, one
    tree after the other.
    """

    def __init__(self, num_features: int, num_outputs: int, values: Tensor) -> None:
        """Make a body without trees, for ``num_features`` features.

        Its leaves will be like ``values`` [0, W].
        """
        super().__init__()
        self.feature_width = num_outputs
        self._num_features = num_features
        self._compiled: CompiledTrees | None = None
        no_integers = torch.zeros(0, dtype=torch.int32)
        buffers = {
            "nodes": no_integers.view(0, 4),
            "thresholds": torch.zeros(0),
            "values": values,
            "sizes": no_integers,
        }
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer.clone())
        self._width = values.shape[1]
        self.check()

    def add_trees(self, trees: Sequence[Tree]) -> None:
        """Append ``trees`` to the trees of this body."""
        sizes = np.array([len(tree.nodes) for tree in trees])
        nodes, thresholds, values = (
            torch.from_numpy(np.concatenate(parts))
            for parts in zip(*trees, strict=True)
        )
        # Rounded down, a threshold splits float32 inputs as it does in float64.
        rounded = thresholds.float()
        one_below = rounded.nextafter(rounded.new_tensor(-math.inf))
        lower = torch.where(rounded > thresholds, one_below, rounded)
        additions = {
            "nodes": nodes,
            "thresholds": lower,
            "values": values,
            "sizes": torch.from_numpy(sizes),
        }
        for name, addition in additions.items():
            buffer = getattr(self, name)
            setattr(self, name, torch.cat([buffer, addition.to(buffer)]))
        self.check()

    def check(self) -> None:
        """Raise UserError if the trees are damaged, too many or too deep.

        `_MOST_TREES` trees of `_MOST_LEVELS` levels are allowed.
        """
        if len(self.sizes) > _MOST_TREES:
            raise UserError(
                f"this model has {len(self.sizes):,} trees; at most {_MOST_TREES:,} are"
                " allowed: train it again with fewer boosting.rounds or epochs"
            )
        nodes = self.nodes.cpu().numpy().astype(np.int64)
        sizes = self.sizes.cpu().numpy().astype(np.int64)
        self._compiled = None
        self._check_sizes(nodes, sizes)
        roots = np.cumsum(sizes) - sizes
        root_of_node = np.repeat(roots, sizes)
        number_in_tree = np.arange(len(nodes)) - root_of_node
        children = nodes[:, 1:3]
        inner = (children != number_in_tree[:, None]).any(axis=1)
        parents = number_in_tree[inner, None]
        is_after_parent = (children[inner] > parents).all()
        if not is_after_parent or (children >= np.repeat(sizes, sizes)[:, None]).any():
            raise UserError(f"{_DAMAGED}: a child is not behind its parent in its tree")
        features = nodes[:, 0]
        if features.min(initial=0) < 0 or features.max(initial=0) >= self._num_features:
            raise UserError(
                f"{_DAMAGED}: a feature is not one of 0 to {self._num_features - 1}"
            )
        child_places = children + root_of_node[:, None]
        if len(np.unique(child_places[inner])) < 2 * inner.sum():
            raise UserError(f"{_DAMAGED}: a node has two parents")
        self._inner = inner
        self._levels = _count_levels(roots, child_places, inner)

    def _check_sizes(self, nodes: np.ndarray, sizes: np.ndarray) -> None:
        number = len(self.thresholds)
        if nodes.shape != (number, 4) or self.values.shape != (number, self._width):
            raise UserError(f"{_DAMAGED}: they have not as many values as nodes")
        if sizes.min(initial=1) < 1 or sizes.sum() != number:
            raise UserError(f"{_DAMAGED}: their sizes do not add up to {number} nodes")

    def leaves(self, tokens_BTD: Tensor) -> Tensor:
        """Return the values [B, number of trees, W] of the leaves that are reached."""
        rows_BF = tokens_BTD.flatten(1).float()
        if rows_BF.shape[1] != self._num_features:
            raise ValueError(
                f"expected {self._num_features} features, got {rows_BF.shape[1]}"
            )
        if torch.compiler.is_exporting() or not has_compiled_walk():
            return self.values[self._walk(rows_BF)]
        if self._compiled is None:
            self._compiled = CompiledTrees(
                self.nodes.cpu().numpy(),
                self.thresholds.cpu().numpy(),
                self._inner,
                self.sizes.cpu().numpy(),
            )
        table = rows_BF.cpu().numpy().astype(np.float64)
        places = self._compiled.find_leaves(table, torch.get_num_threads())
        return self.values[torch.from_numpy(places).to(self.values.device)]

    def _walk(self, rows_BF: Tensor) -> Tensor:
        """Return the places [B, number of trees] in ``values`` of the leaves.

        After as many steps as there are levels, all nodes are leaves.
        """
        roots = self.sizes.cumsum(0) - self.sizes
        places = roots.expand(rows_BF.shape[0], -1)
        for _ in range(self._levels):
            feature, left, right, missing_right = self.nodes[places].long().unbind(2)
            values = rows_BF.gather(1, feature)
            is_missing_right = values.isnan() & (missing_right > 0)
            goes_right = (values > self.thresholds[places]) | is_missing_right
            places = roots + torch.where(goes_right, right, left)
        return places


def _count_levels(roots: np.ndarray, children: np.ndarray, inner: np.ndarray) -> int:
    """Return the number of steps from the ``roots`` to the deepest leaf.

    ``children`` [N, 2] are the places of the children of all nodes, ``inner`` [N] says
    which nodes have children. Raises UserError above `_MOST_LEVELS`.
    """
    num_levels = 0
    level = roots[inner[roots]]
    while len(level):
        num_levels += 1
        if num_levels > _MOST_LEVELS:
            raise UserError(f"{_DAMAGED}: they have more than {_MOST_LEVELS} levels")
        below = np.unique(children[level])
        level = below[inner[below]]
    return num_levels


class ForestBody(TreeBody):
    """Body that averages the leaves that samples reach: [B, 1, F] -> [B, 1, K].

    Without trees, the output is 0.
    """

    def __init__(self, width: int, num_outputs: int) -> None:
        """Make a body without trees, for ``width`` features."""
        super().__init__(width, num_outputs, torch.zeros(0, num_outputs))

    @property
    def num_values(self) -> int:
        """Number of fitted values.

        The column that says whether missing values go right is not counted, because it
        is the same for all nodes.
        """
        return super().num_values - len(self.nodes)

    def forward(
        self, tokens_BTD: Tensor, grid: tuple[int, int] | None = None
    ) -> Tensor:
        """Return the mean values [B, 1, K] of the leaves; ``grid`` is not used."""
        leaves = self.leaves(tokens_BTD)
        if len(self.sizes) == 0:
            return leaves.sum(dim=1, keepdim=True)
        return leaves.mean(dim=1, keepdim=True)


class BoostedBody(TreeBody):
    """Body that sums the leaves that samples reach: [B, 1, F] -> [B, 1, K].

    The trees take turns for K outputs. With two classes, the trees have one output, the
    log-odds of class 1; the logit of class 0 is 0.
    """

    def __init__(self, target: Target, num_features: int) -> None:
        """Make a body without trees, for ``num_features`` features; it predicts 0."""
        is_binary = target.kind == "classes" and target.size == 2
        self.num_trained = 1 if is_binary else target.num_outputs
        """Number of outputs that have trees; of two classes, only the second has trees.
        """
        super().__init__(
            num_features, target.num_outputs, torch.zeros(0, 1, dtype=torch.float64)
        )

    @property
    def num_values(self) -> int:
        """Number of fitted values: the leaves' outputs and the splits' thresholds."""
        return len(self.values)

    def check(self) -> None:
        """Raise UserError also if the outputs do not have equally many trees."""
        super().check()
        if len(self.sizes) % self.num_trained:
            raise UserError(
                f"{_DAMAGED}: {len(self.sizes)} cannot take turns for"
                f" {self.num_trained} outputs"
            )

    def sums(self, tokens_BTD: Tensor, start_BK: Tensor | None = None) -> Tensor:
        """Return the sums of the leaves' values, float64 [B, K].

        The values are added one by one to ``start_BK`` (None: 0), as by LightGBM. K
        counts the outputs that have trees.
        """
        values = self.leaves(tokens_BTD)
        num_rows = values.shape[0]
        num_turns = len(self.sizes) // self.num_trained
        turns = values.reshape(num_rows, num_turns, self.num_trained)
        if start_BK is None:
            start_BK = values.new_zeros(num_rows, self.num_trained)
        addends = torch.cat([start_BK[:, None], turns], dim=1)
        return addends.cumsum(dim=1)[:, -1]

    def forward(
        self, tokens_BTD: Tensor, grid: tuple[int, int] | None = None
    ) -> Tensor:
        """Return the sums of the leaves' values [B, 1, K]; ``grid`` is not used."""
        logits = self.sums(tokens_BTD).to(tokens_BTD)
        num_untrained = self.feature_width - self.num_trained
        return nn.functional.pad(logits, (num_untrained, 0))[:, None]


def read_sklearn_tree(tree: Any) -> Tree:
    """Return a tree of scikit-learn (``tree_``); missing values go left."""
    numbers = np.arange(tree.node_count)
    children = [
        np.where(side < 0, numbers, side)
        for side in (tree.children_left, tree.children_right)
    ]
    missing_right = np.zeros_like(numbers)
    nodes = np.stack([tree.feature.clip(0), *children, missing_right], axis=1)
    return Tree(nodes, tree.threshold, tree.value.reshape(len(numbers), -1))


def renumber_features(trees: Sequence[Tree], features: slice | Tensor) -> list[Tree]:
    """Return trees in which ``features[k]`` replaces the number k of a feature."""
    if isinstance(features, slice):
        return list(trees)
    numbers = features.cpu().numpy()
    renumbered_trees = []
    for tree in trees:
        columns = [numbers[tree.nodes[:, :1]], tree.nodes[:, 1:]]
        renumbered_trees.append(tree._replace(nodes=np.concatenate(columns, axis=1)))
    return renumbered_trees


def read_lightgbm_trees(boosters: Sequence[Any]) -> list[Tree]:
    """Return the trees of LightGBM's boosters, which take turns.

    If a booster has fewer trees than others, trees with the output 0 replace the
    missing ones. The trees must split by numbers, and have constant leaves. Splits are
    those of ``Tree::NumericalDecision`` in ``tree.h``.
    """
    zero = Tree(
        nodes=np.zeros((1, 4), np.int64),
        thresholds=np.zeros(1),
        values=np.zeros((1, 1)),
    )
    trees_of_boosters = []
    for booster in boosters:
        trees_text = booster.model_to_string().partition("\nend of trees\n")[0]
        texts = trees_text.split("\nTree=")[1:]
        trees_of_boosters.append([_parse_lightgbm_tree(text) for text in texts])
    turns = zip_longest(*trees_of_boosters, fillvalue=zero)
    return [tree for turn in turns for tree in turn]


def _parse_lightgbm_tree(text: str) -> Tree:
    """Return a tree in LightGBM's format, lines ``name=numbers``.

    The nodes of the result are the splits, then the leaves.
    """
    lines = dict(line.partition("=")[::2] for line in text.splitlines())

    def column(name: str) -> np.ndarray:
        return np.array(lines.get(name, "").split(), np.float64)

    feature = column("split_feature")
    threshold = column("threshold")
    decision_bits = column("decision_type").astype(np.int64)
    leaf_values = np.array(lines["leaf_value"].split(), np.float64)
    num_splits = len(feature)
    leaf_numbers = np.arange(num_splits, 2 * num_splits + 1)

    def children(name: str) -> np.ndarray:
        """Return the children of all nodes; a child below 0 is leaf -child - 1."""
        side = column(name)
        of_splits = np.where(side < 0, num_splits - 1 - side, side)
        return np.append(of_splits, leaf_numbers)

    # If training data had no missing values, a missing value is taken as 0.
    missing_right = np.where(
        decision_bits & _MISSING_IS_NAN,
        decision_bits & _DEFAULT_LEFT == 0,
        threshold < 0,
    )
    zeros = np.zeros(len(leaf_values))
    nodes = np.stack(
        [
            np.append(feature, zeros),
            children("left_child"),
            children("right_child"),
            np.append(missing_right, zeros),
        ],
        axis=1,
    )
    return Tree(
        nodes.astype(np.int64),
        np.append(threshold, zeros),
        np.append(0 * threshold, leaf_values)[:, None],
    )


class OutputHead(nn.Module):
    """Head without parameters: the body's only feature is the prediction."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self._shape = shape

    def forward(self, features_BSF: Tensor) -> Tensor:
        """Return the predictions [B, *output_shape]."""
        return features_BSF.reshape(-1, *self._shape)
