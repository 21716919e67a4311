"""Gradient-boosted trees as operations of torch, which can be exported; LightGBM's own library cannot.

Splits are those of ``Tree::NumericalDecision`` in LightGBM's ``tree.h``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from orca_ray.errors import UserError
from orca_ray.models.body import Body


@dataclass
class _Nodes:
    """The nodes of all trees by column; a leaf is its own child."""

    feature: list[int] = field(default_factory=list)
    threshold: list[float] = field(default_factory=list)
    missing_right: list[bool] = field(default_factory=list)
    """Whether samples without a value go to the right."""
    left: list[int] = field(default_factory=list)
    right: list[int] = field(default_factory=list)
    value: list[float] = field(default_factory=list)
    """Outputs of leaves, and 0."""

    def add(self, node: dict[str, Any]) -> tuple[int, int]:
        """Add a node of `lightgbm.Booster.dump_model` and those below it; return its number and their depth."""
        number = len(self.value)
        self.feature.append(node.get("split_feature", 0))
        self.threshold.append(node.get("threshold", 0.0))
        self.missing_right.append(False)
        self.left.append(number)
        self.right.append(number)
        self.value.append(node.get("leaf_value", 0.0))
        if "split_feature" not in node:
            return number, 0
        if node["decision_type"] != "<=":
            raise UserError("cannot export trees with splits by categories: train them on numbers")
        if node["missing_type"] not in ("None", "NaN"):
            raise UserError("cannot export trees that take zeros as missing: train them without zero_as_missing")
        as_zero = node["missing_type"] == "None"
        self.missing_right[number] = node["threshold"] < 0 if as_zero else not node["default_left"]
        self.left[number], left_depth = self.add(node["left_child"])
        self.right[number], right_depth = self.add(node["right_child"])
        return number, 1 + max(left_depth, right_depth)


class TreeArrays(Body):
    """Sums the leaves that samples reach, [B, T, C] -> [B, 1, K], as `orca_ray.models.trees.TreeBody` does.

    After as many steps as the deepest tree has levels, every sample is at a leaf of each tree.
    """

    modality = "sequence"
    roots: Tensor
    feature: Tensor
    threshold: Tensor
    missing_right: Tensor
    left: Tensor
    right: Tensor
    value: Tensor
    output: Tensor

    def __init__(self, boosters: Sequence[Any], num_outputs: int, num_trained: int) -> None:
        """Copy the trees of LightGBM's ``boosters``: one for each of ``num_outputs``, or one whose trees take turns.

        Only the last ``num_trained`` outputs have trees. Raises UserError for splits of another kind than numbers.
        """
        super().__init__()
        self.feature_width = num_outputs
        nodes, roots, outputs, depths = _Nodes(), list[int](), list[int](), [0]
        for label, booster in enumerate(boosters):
            for place, tree in enumerate(booster.dump_model()["tree_info"]):
                root, depth = nodes.add(tree["tree_structure"])
                roots.append(root)
                depths.append(depth)
                outputs.append(label if len(boosters) > 1 else place % num_trained)
        self._depth = max(depths)
        exact = np.array(nodes.threshold)
        threshold = exact.astype(np.float32)
        # Inputs are float32: the largest float32 that is not above a threshold splits them in the same way.
        threshold = np.where(threshold > exact, np.nextafter(threshold, np.float32(-np.inf)), threshold)
        self.register_buffer("threshold", torch.from_numpy(threshold))
        for name in ("feature", "missing_right", "left", "right"):
            kind = torch.bool if name == "missing_right" else torch.long
            self.register_buffer(name, torch.tensor(getattr(nodes, name), dtype=kind))
        self.register_buffer("value", torch.tensor(nodes.value, dtype=torch.float64))
        self.register_buffer("roots", torch.tensor(roots, dtype=torch.long))
        places = torch.tensor(outputs, dtype=torch.long) + (num_outputs - num_trained)
        self.register_buffer("output", torch.nn.functional.one_hot(places, num_outputs).double())

    def forward(self, tokens_BTD: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """Return the sums; ``grid`` is not used."""
        rows = in_order(tokens_BTD)
        nodes = self.roots.expand(rows.shape[0], -1)
        for _ in range(self._depth):
            values = rows.gather(1, self.feature[nodes])
            right = (values > self.threshold[nodes]) | (values.isnan() & self.missing_right[nodes])
            nodes = torch.where(right, self.right[nodes], self.left[nodes])
        sums: Tensor = self.value[nodes] @ self.output
        return sums.to(rows)[:, None]


def in_order(tokens_BTD: Tensor) -> Tensor:
    """Return tokens as trees see them, [B, C * T]."""
    return tokens_BTD.transpose(1, 2).flatten(1).float()
