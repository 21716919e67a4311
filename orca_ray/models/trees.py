"""Trees as checked arrays, for the methods ``forest`` (scikit-learn) and
``gradient_boosting`` (LightGBM).

The compiled walk of scikit-learn's histogram trees predicts, as fast as LightGBM's; its
interface is private (as in 1.9.1). It believes what it reads: a child or feature
outside its array makes it read any memory, a cycle never ends. So the arrays are
checked before (`TreeBody.check`). For export, the walk consists of operations of torch.
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

_DAMAGED = "the trees of this model are damaged"
_MOST_LEVELS = 10_000
# bits of LightGBM's decision types
_DEFAULT_LEFT = 2
_MISSING_IS_NAN = 8


class Tree(NamedTuple):
    """A tree of N nodes, numbered from its root, 0; the number of a child is larger
    than that of its parent.
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
    """Base of bodies that combine the leaves that samples reach in trees: [B, 1, F] ->
    [B, 1, K].
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
        """Make a body without trees, for ``num_features`` features, with leaves like
        ``values`` [0, W].
        """
        super().__init__()
        self.feature_width = num_outputs
        self._num_features = num_features
        self._predictors: list[Any] | None = None
        empty = torch.zeros(0, dtype=torch.int32)
        parts = {
            "nodes": empty.view(0, 4),
            "thresholds": torch.zeros(0),
            "values": values,
            "sizes": empty,
        }
        for name, part in parts.items():
            self.register_buffer(name, part.clone())
        self._width = values.shape[1]
        self.check()

    def add_trees(self, trees: Sequence[Tree]) -> None:
        """Append ``trees`` to the trees of this body."""
        sizes = np.array([len(tree.nodes) for tree in trees])
        nodes, thresholds, values = (
            torch.from_numpy(np.concatenate(parts))
            for parts in zip(*trees, strict=True)
        )
        rounded = (
            thresholds.float()
        )  # down: float32 inputs are split as by the threshold in float64
        lower = torch.where(
            rounded > thresholds,
            rounded.nextafter(rounded.new_tensor(-math.inf)),
            rounded,
        )
        parts = {
            "nodes": nodes,
            "thresholds": lower,
            "values": values,
            "sizes": torch.from_numpy(sizes),
        }
        for name, part in parts.items():
            setattr(
                self,
                name,
                torch.cat([getattr(self, name), part.to(getattr(self, name))]),
            )
        self.check()

    def check(self) -> None:
        """Raise UserError if the trees are damaged, or have more than `_MOST_LEVELS`
        levels.
        """
        nodes = self.nodes.cpu().numpy().astype(np.int64)
        sizes = self.sizes.cpu().numpy().astype(np.int64)
        number = len(self.thresholds)
        self._predictors = None
        if nodes.shape != (number, 4) or self.values.shape != (number, self._width):
            raise UserError(f"{_DAMAGED}: they have not as many values as nodes")
        if sizes.min(initial=1) < 1 or sizes.sum() != number:
            raise UserError(f"{_DAMAGED}: their sizes do not add up to {number} nodes")
        first = np.cumsum(sizes) - sizes
        own = np.arange(number) - np.repeat(first, sizes)
        children = nodes[:, 1:3]
        self._inner = inner = (children != own[:, None]).any(axis=1)
        if (children[inner] <= own[inner, None]).any() or (
            children >= np.repeat(sizes, sizes)[:, None]
        ).any():
            raise UserError(f"{_DAMAGED}: a child is not behind its parent in its tree")
        if (
            nodes[:, 0].min(initial=0) < 0
            or nodes[:, 0].max(initial=0) >= self._num_features
        ):
            raise UserError(
                f"{_DAMAGED}: a feature is not one of 0 to {self._num_features - 1}"
            )
        if (
            len(np.unique((children + np.repeat(first, sizes)[:, None])[inner]))
            < 2 * inner.sum()
        ):
            raise UserError(f"{_DAMAGED}: a node has two parents")
        self._levels = 0
        level = first
        absolute = children + np.repeat(first, sizes)[:, None]
        while len(level := level[inner[level]]):
            level = np.unique(absolute[level])
            self._levels = self._levels + 1
            if self._levels > _MOST_LEVELS:
                raise UserError(
                    f"{_DAMAGED}: they have more than {_MOST_LEVELS} levels"
                )

    def leaves(self, tokens_BTD: Tensor) -> Tensor:
        """Return the values [B, number of trees, W] of the leaves that samples reach."""
        rows = tokens_BTD.flatten(1).float()
        if rows.shape[1] != self._num_features:
            raise ValueError(
                f"expected {self._num_features} features, got {rows.shape[1]}"
            )
        if torch.compiler.is_exporting():
            return self.values[self._walked(rows)]
        if self._predictors is None:
            self._predictors = self._compiled()
        table = rows.cpu().numpy().astype(np.float64)
        threads = torch.get_num_threads()
        no_categories = np.zeros((0, 8), np.uint32)
        no_places = np.zeros(table.shape[1], np.uint32)
        found = [
            tree.predict(table, no_categories, no_places, threads)
            for tree in self._predictors
        ]
        # In the order of rows, in which the leaves of a sample are added.
        places = np.ascontiguousarray(
            np.array(found, np.int64).reshape(len(found), len(table)).T
        )
        return self.values[torch.from_numpy(places).to(self.values.device)]

    def _compiled(self) -> list[Any]:
        """Return scikit-learn's trees, whose leaves have their places in ``values`` as
        values.
        """
        from sklearn.ensemble._hist_gradient_boosting.common import (
            PREDICTOR_RECORD_DTYPE,
        )
        from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor

        records = np.zeros(len(self.nodes), PREDICTOR_RECORD_DTYPE)
        none = np.zeros((0, 8), np.uint32)
        feature, left, right, missing_right = self.nodes.cpu().numpy().T
        columns = {
            "feature_idx": feature,
            "left": left,
            "right": right,
            "missing_go_to_left": missing_right == 0,
            "is_leaf": ~self._inner,
            "num_threshold": self.thresholds.cpu().numpy(),
            "value": np.arange(len(records)),
        }
        for name, column in columns.items():
            records[name] = column
        ends = np.cumsum(self.sizes.cpu().numpy())
        return [
            TreePredictor(part, none, none)
            for part in np.split(records, ends[:-1])
            if len(part)
        ]

    def _walked(self, rows_BF: Tensor) -> Tensor:
        """Return the places [B, number of trees] in ``values``; after as many steps as
        levels, all are leaves.
        """
        first = self.sizes.cumsum(0) - self.sizes
        places = first.expand(rows_BF.shape[0], -1)
        for _ in range(self._levels):
            feature, left, right, missing_right = self.nodes[places].long().unbind(2)
            values = rows_BF.gather(1, feature)
            to_right = (values > self.thresholds[places]) | (
                values.isnan() & (missing_right > 0)
            )
            places = first + torch.where(to_right, right, left)
        return places


class ForestBody(TreeBody):
    """Body that averages the leaves that samples reach: [B, 1, F] -> [B, 1, K]; 0
    without trees.
    """

    def __init__(self, width: int, num_outputs: int) -> None:
        """Make a body without trees, for ``width`` features."""
        super().__init__(width, num_outputs, torch.zeros(0, num_outputs))

    @property
    def num_values(self) -> int:
        """Number of fitted values; no missing value goes right, so that this is not
        fitted.
        """
        return super().num_values - len(self.nodes)

    def forward(
        self, tokens_BTD: Tensor, grid: tuple[int, int] | None = None
    ) -> Tensor:
        """Return the mean values [B, 1, K] of the leaves; ``grid`` is not used."""
        leaves = self.leaves(tokens_BTD)
        return (
            leaves.mean(dim=1, keepdim=True)
            if len(self.sizes)
            else leaves.sum(dim=1, keepdim=True)
        )


class BoostedBody(TreeBody):
    """Body that sums the leaves that samples reach: [B, 1, F] -> [B, 1, K]; the trees
    take turns for K outputs.

    With two classes, the trees have one output, the log-odds of class 1; the logit of
    class 0 is 0.
    """

    def __init__(self, target: Target, num_features: int) -> None:
        """Make a body without trees, which predicts 0, for ``num_features`` features."""
        binary = target.kind == "classes" and target.size == 2
        self.num_trained = 1 if binary else target.num_outputs
        """Number of outputs that have trees; of two classes, only the second has trees.
        """
        super().__init__(
            num_features, target.num_outputs, torch.zeros(0, 1, dtype=torch.float64)
        )

    @property
    def num_values(self) -> int:
        """Number of fitted values: the leaves' outputs and the thresholds of the
        splits.
        """
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
        """Return ``start_BK`` (None: 0) plus the leaves' values, added one by one as by
        LightGBM: float64 [B, K].

        K counts the outputs that have trees.
        """
        values = self.leaves(tokens_BTD)
        turns = values.reshape(
            values.shape[0], len(self.sizes) // self.num_trained, self.num_trained
        )
        start = (
            values.new_zeros(values.shape[0], self.num_trained)
            if start_BK is None
            else start_BK
        )
        return torch.cat([start[:, None], turns], dim=1).cumsum(dim=1)[:, -1]

    def forward(
        self, tokens_BTD: Tensor, grid: tuple[int, int] | None = None
    ) -> Tensor:
        """Return the sums [B, 1, K]; ``grid`` is not used."""
        raw = self.sums(tokens_BTD).to(tokens_BTD)
        return nn.functional.pad(raw, (self.feature_width - self.num_trained, 0))[
            :, None
        ]


def of_forest(tree: Any) -> Tree:
    """Return a tree of scikit-learn (``tree_``); missing values go left."""
    own = np.arange(tree.node_count)
    children = [
        np.where(side < 0, own, side)
        for side in (tree.children_left, tree.children_right)
    ]
    nodes = np.stack([tree.feature.clip(0), *children, np.zeros_like(own)], axis=1)
    return Tree(nodes, tree.threshold, tree.value.reshape(len(own), -1))


def renumbered(trees: Sequence[Tree], features: slice | Tensor) -> list[Tree]:
    """Return trees whose feature k is number k of ``features``."""
    if isinstance(features, slice):
        return list(trees)
    numbers = features.cpu().numpy()
    return [
        each._replace(
            nodes=np.concatenate(
                [numbers[each.nodes[:, :1]], each.nodes[:, 1:]], axis=1
            )
        )
        for each in trees
    ]


def of_boosters(boosters: Sequence[Any]) -> list[Tree]:
    """Return the trees of boosters of LightGBM, which take turns; a tree of 0 takes the
    place of one that is missing.

    The trees split by numbers, and have constant leaves. Splits are those of
    ``Tree::NumericalDecision`` in ``tree.h``.
    """
    none = Tree(np.zeros((1, 4), np.int64), np.zeros(1), np.zeros((1, 1)))
    texts = (
        booster.model_to_string().partition("\nend of trees\n")[0].split("\nTree=")[1:]
        for booster in boosters
    )
    each = [[_of_text(text) for text in trees] for trees in texts]
    return [tree for turn in zip_longest(*each, fillvalue=none) for tree in turn]


def _of_text(text: str) -> Tree:
    """Return a tree in LightGBM's format, lines ``name=numbers``; its splits come
    first, then its leaves.
    """
    lines = dict(line.partition("=")[::2] for line in text.splitlines())
    names = ("split_feature", "left_child", "right_child", "decision_type", "threshold")
    feature, left, right, decision, threshold = (
        np.array(lines.get(name, "").split(), np.float64) for name in names
    )
    leaves = np.array(lines["leaf_value"].split(), np.float64)
    own = np.arange(2 * len(feature) + 1)
    zeros = np.zeros(len(leaves))
    bits = decision.astype(np.int64)
    left, right = (  # a child below zero is the leaf -child - 1
        np.append(
            np.where(side < 0, len(feature) - 1 - side, side), own[len(feature) :]
        )
        for side in (left, right)
    )
    # If training data had no missing values, one is taken as 0.
    missing_right = np.where(
        bits & _MISSING_IS_NAN, bits & _DEFAULT_LEFT == 0, threshold < 0
    )
    nodes = np.stack(
        [np.append(feature, zeros), left, right, np.append(missing_right, zeros)],
        axis=1,
    )
    return Tree(
        nodes.astype(np.int64),
        np.append(threshold, zeros),
        np.append(0 * threshold, leaves)[:, None],
    )


class OutputHead(nn.Module):
    """Head without parameters: the body's only feature is the prediction."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self._shape = shape

    def forward(self, features_BSF: Tensor) -> Tensor:
        """Return the predictions [B, *output_shape]."""
        return features_BSF.reshape(-1, *self._shape)
