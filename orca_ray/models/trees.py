"""Gradient-boosted trees of LightGBM as a network, for the method ``gradient_boosting``.

The trees are text, LightGBM's own format, in a buffer of bytes: they are saved and loaded with all other weights.
For export the trees become operations of torch (`TreeArrays`), because LightGBM cannot be exported. No library converts
them: onnxmltools 1.16 writes ONNX but no torch program, and hummingbird-ml 0.4.12 requires onnx 1.16 or older.
"""

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from orca_ray.data.rows import Target
from orca_ray.errors import UserError
from orca_ray.models.body import Body
from orca_ray.models.crossmodal import CrossModalModel
from orca_ray.models.embedder import PointEmbedder

_SEPARATOR = "\0"


class TreeBody(Body):
    """Body that maps tables [B, T, C] to the sums [B, 1, K] of leaf values for K outputs, by LightGBM on the CPU.

    With two classes, the trees have one output, the log-odds of class 1; the logit of class 0 is 0.
    """

    modality = "sequence"
    resized = ("text",)
    """Buffers whose size follows from training; they are loaded with any size."""
    text: Tensor

    def __init__(self, target: Target) -> None:
        super().__init__()
        self.feature_width = target.num_outputs
        binary = target.kind == "classes" and target.size == 2
        self.num_trained = 1 if binary else target.num_outputs
        """Number of outputs that have trees; of two classes, only the second has trees."""
        self.register_buffer("text", torch.zeros(0, dtype=torch.uint8))
        self._boosters: list[Any] | None = None

    @property
    def models(self) -> list[str]:
        """The boosters in LightGBM's text format: one for each label, else one; empty before the first tree."""
        text = bytes(self.text.cpu().numpy()).decode()
        return text.split(_SEPARATOR) if text else []

    def set_models(self, models: Sequence[str]) -> None:
        """Replace the boosters by ``models``, in LightGBM's text format."""
        content = np.frombuffer(_SEPARATOR.join(models).encode(), np.uint8).copy()
        self.text = torch.from_numpy(content).to(self.text.device)
        self._boosters = None

    @property
    def boosters(self) -> list[Any]:
        """The boosters as objects of LightGBM; raises UserError if LightGBM is missing or cannot read their text."""
        if self._boosters is None:
            self._boosters = _parsed(self.models)
        return self._boosters

    @property
    def num_values(self) -> int:
        """Number of fitted values: the leaves' outputs and the thresholds of the splits."""
        leaves = re.findall(r"^num_leaves=(\d+)", "\n".join(self.models), re.MULTILINE)
        return sum(2 * int(number) - 1 for number in leaves)

    def forward(self, tokens_BTD: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """Return the raw predictions, 0 without trees; ``grid`` is not used."""
        rows = in_order(tokens_BTD).cpu().numpy()
        if not self.boosters:
            return tokens_BTD.new_zeros(len(rows), 1, self.feature_width)
        threads = torch.get_num_threads()
        outputs = [each.predict(rows, raw_score=True, num_threads=threads) for each in self.boosters]
        raw = torch.from_numpy(np.column_stack(outputs)).to(tokens_BTD)
        return nn.functional.pad(raw, (self.feature_width - self.num_trained, 0))[:, None]

    def exportable(self) -> Body:
        """Return a `TreeArrays` of the same trees."""
        return TreeArrays(self.boosters, self.feature_width, self.num_trained)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        stored = state_dict.get(f"{prefix}text")
        if stored is not None:  # of another length
            self.text = torch.empty_like(stored, device=self.text.device)
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._boosters = _parsed(self.models)  # now, so that a missing package is known before the first prediction


class TreeArrays(Body):
    """Body that sums the values of the leaves that samples reach, as `TreeBody` does, by torch: [B, T, C] -> [B, 1, K].

    After as many steps as the deepest tree has levels, every sample is at a leaf of each tree; a leaf is its own child.
    Splits are those of ``Tree::NumericalDecision`` in LightGBM's ``tree.h``.
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

        Only the last ``num_trained`` outputs have trees. Raises UserError for splits by categories or zeros as missing.
        """
        super().__init__()
        self.feature_width = num_outputs
        nodes, roots, outputs, depths = list[_Node](), list[int](), list[int](), [0]
        for label, booster in enumerate(boosters):
            for place, tree in enumerate(booster.dump_model()["tree_info"]):
                roots.append(len(nodes))
                depths.append(_add_nodes(tree["tree_structure"], nodes))
                outputs.append(label if len(boosters) > 1 else place % num_trained)
        self._depth = max(depths)
        columns = torch.tensor(nodes, dtype=torch.float64).reshape(-1, len(_Node._fields)).unbind(1)
        for name, column in zip(_Node._fields, columns, strict=True):
            kinds = {"threshold": torch.float64, "value": torch.float64, "missing_right": torch.bool}
            self.register_buffer(name, column.to(kinds.get(name, torch.long)))
        # Inputs are float32: the largest float32 that is not above a threshold splits them in the same way.
        rounded = self.threshold.float()
        self.threshold = torch.where(
            rounded > self.threshold, rounded.nextafter(rounded.new_tensor(-math.inf)), rounded
        )
        self.register_buffer("roots", torch.tensor(roots, dtype=torch.long))
        places = torch.tensor(outputs, dtype=torch.long) + (num_outputs - num_trained)
        self.register_buffer("output", nn.functional.one_hot(places, num_outputs).double())

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


class _Node(NamedTuple):
    """A node of a tree."""

    left: int
    right: int
    value: float
    """Output of a leaf; 0 for a split."""
    feature: int = 0
    threshold: float = 0.0
    missing_right: bool = False
    """Whether samples without a value go to the right."""


def _add_nodes(node: dict[str, Any], nodes: list[_Node]) -> int:
    """Append a node of `lightgbm.Booster.dump_model` and all nodes below it to ``nodes``; return the depth below it."""
    number = len(nodes)
    nodes.append(_Node(number, number, node.get("leaf_value", 0.0)))
    if "split_feature" not in node:
        return 0
    if node["decision_type"] != "<=":
        raise UserError("cannot export trees with splits by categories: train them on numbers")
    if node["missing_type"] not in ("None", "NaN"):
        raise UserError("cannot export trees that take zeros as missing: train them without zero_as_missing")
    right_if_missing = node["threshold"] < 0 if node["missing_type"] == "None" else not node["default_left"]
    left_depth, right = _add_nodes(node["left_child"], nodes), len(nodes)
    right_depth = _add_nodes(node["right_child"], nodes)
    nodes[number] = _Node(number + 1, right, 0.0, node["split_feature"], node["threshold"], right_if_missing)
    return 1 + max(left_depth, right_depth)


def in_order(tokens_BTD: Tensor) -> Tensor:
    """Return tokens [B, T, C] as float32 rows [B, C * T] for trees, channel by channel."""
    return tokens_BTD.transpose(1, 2).flatten(1).float()


def _parsed(models: Sequence[str]) -> list[Any]:
    if not models:
        return []
    try:
        import lightgbm
    except ModuleNotFoundError as error:
        raise UserError(f"these trees need the package {error.name!r}: pip install 'orca-ray[trees]'") from error
    try:
        return [lightgbm.Booster(model_str=text) for text in models]
    except lightgbm.basic.LightGBMError as error:
        raise UserError(f"LightGBM {lightgbm.__version__} cannot read the trees of this model: {error}") from error


class _Outputs(nn.Module):
    """Head without parameters: the body's only feature is the prediction."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self._shape = shape

    def forward(self, features_BSF: Tensor) -> Tensor:
        return features_BSF.reshape(-1, *self._shape)


def table_rows(model: CrossModalModel, x: Tensor) -> np.ndarray:
    """Return the rows [B, C * T] on which trees are trained (`in_order`), for inputs ``x`` [B, C, ...]."""
    with torch.no_grad():
        return np.asarray(in_order(model.embed(x)).cpu())


def build_trees(
    *, input_shape: tuple[int, ...], target: Target, statistics: tuple[Tensor, Tensor] | None = None
) -> CrossModalModel:
    """Build a model without trees for inputs of ``input_shape``; ``statistics`` as in `build_model`."""
    return CrossModalModel(PointEmbedder(input_shape), TreeBody(target), _Outputs(target.output_shape), statistics)
