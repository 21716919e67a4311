"""Gradient-boosted trees of LightGBM as a network, for the method ``gradient_boosting``.

The trees are text, LightGBM's own format, in a buffer of bytes: they are saved and loaded with all other weights.
LightGBM believes what it reads: a child or feature outside its array makes it read any memory or end the process, a
cycle never ends. So the text is parsed and checked here, and LightGBM reads only what `_written` makes of the result.

For export the trees become operations of torch (`TreeArrays`), because LightGBM's own library cannot be exported. No
library does that: onnxmltools 1.16 writes ONNX but no torch program, and hummingbird-ml 0.4.12 requires onnx 1.16.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from orca_ray.data.rows import Target
from orca_ray.errors import UserError
from orca_ray.models.body import Body
from orca_ray.models.crossmodal import CrossModalModel
from orca_ray.models.embedder import PointEmbedder
from orca_ray.models.features import FittedBody, as_float32

_SEPARATOR = "\0"


class TreeBody(FittedBody):
    """Body that maps tables [B, T, C] to the sums [B, 1, K] of leaf values for K outputs, by LightGBM on the CPU.

    With two classes, the trees have one output, the log-odds of class 1; the logit of class 0 is 0.
    """

    resized = ("text",)
    text: Tensor

    def __init__(self, target: Target, num_features: int) -> None:
        """Make a model without trees, which predicts 0, for tables of ``num_features`` features (T times C)."""
        super().__init__()
        self._num_features = num_features
        self.feature_width = target.num_outputs
        binary = target.kind == "classes" and target.size == 2
        self.num_trained = 1 if binary else target.num_outputs
        """Number of outputs that have trees; of two classes, only the second has trees."""
        self.register_buffer("text", torch.zeros(0, dtype=torch.uint8))
        self._boosters: list[tuple[Any, np.ndarray]] | None = None

    @property
    def models(self) -> list[str]:
        """The boosters in LightGBM's text format: one per label, or one for other targets; empty before training."""
        try:
            text = bytes(self.text.cpu().numpy()).decode()
        except UnicodeDecodeError as error:
            raise UserError(f"{_DAMAGED}: their text is not UTF-8") from error
        return text.split(_SEPARATOR) if text else []

    def set_models(self, models: Sequence[str]) -> None:
        """Replace the boosters by ``models``, in LightGBM's text format."""
        content = np.frombuffer(_SEPARATOR.join(models).encode(), np.uint8).copy()
        self.text = torch.from_numpy(content).to(self.text.device)
        self._boosters = None

    @property
    def boosters(self) -> list[tuple[Any, np.ndarray]]:
        """The boosters; raises UserError if LightGBM is missing or a tree is damaged."""
        if self._boosters is None:
            self._boosters = [_booster(trees, self._turns) for trees in self._trees()]
        return self._boosters

    def _trees(self) -> list[list["_Tree"]]:
        found = [_parsed(text, self._num_features) for text in self.models]
        if len(found) not in (0, 1, self.num_trained) or any(len(trees) % self._turns for trees in found):
            counts = ", ".join(str(len(trees)) for trees in found)
            raise UserError(f"{_DAMAGED}: {counts} trees cannot take turns for {self.num_trained} outputs")
        return found

    @property
    def _turns(self) -> int:
        """Number of outputs for which the trees of one booster take turns."""
        return self.num_trained if len(self.models) == 1 else 1

    @property
    def num_values(self) -> int:
        """Number of fitted values: the leaves' outputs and the thresholds of the splits."""
        leaves = re.findall(r"^num_leaves=(\d+)", "\n".join(self.models), re.MULTILINE)
        return sum(2 * int(number) - 1 for number in leaves)

    def forward(self, tokens_BTD: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """Return the raw predictions [B, 1, K], all 0 if there are no trees; ``grid`` is not used."""
        rows = in_order(tokens_BTD).cpu().numpy()
        if not self.boosters:
            return tokens_BTD.new_zeros(len(rows), 1, self.feature_width)
        threads = torch.get_num_threads()
        outputs = [each.predict(rows[:, used], raw_score=True, num_threads=threads) for each, used in self.boosters]
        raw = torch.from_numpy(np.column_stack(outputs)).to(tokens_BTD)
        return nn.functional.pad(raw, (self.feature_width - self.num_trained, 0))[:, None]

    def exportable(self) -> Body:
        """Return a `TreeArrays`, which computes the same by torch; raises UserError if a tree is damaged."""
        return TreeArrays(self._trees(), self.feature_width, self.num_trained)

    def check(self) -> None:
        """Make the boosters, so that damage and a missing package are known before the first prediction."""
        self._boosters = None
        _ = self.boosters


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

    def __init__(self, boosters: Sequence[Sequence["_Tree"]], num_outputs: int, num_trained: int) -> None:
        """Join the trees of ``boosters``: one booster per output, or one whose trees take turns for all outputs.

        Only the last ``num_trained`` outputs have trees.
        """
        super().__init__()
        self.feature_width = num_outputs
        parts, roots, outputs = [np.zeros((len(_NODE), 0))], [0], list[int]()
        for label, trees in enumerate(boosters):
            for place, tree in enumerate(trees):
                parts.append(tree.nodes(roots[-1]))
                roots.append(roots[-1] + parts[-1].shape[1])
                outputs.append(label if len(boosters) > 1 else place % num_trained)
        self._depth = max((tree.depth for trees in boosters for tree in trees), default=0)
        for name, column in zip(_NODE, torch.from_numpy(np.concatenate(parts, axis=1)), strict=True):
            kinds = {"threshold": torch.float64, "value": torch.float64, "missing_right": torch.bool}
            self.register_buffer(name, column.to(kinds.get(name, torch.long)))
        self.threshold = as_float32(self.threshold)
        self.register_buffer("roots", torch.tensor(roots[:-1], dtype=torch.long))
        places = torch.tensor(outputs, dtype=torch.long) + (num_outputs - num_trained)
        self.register_buffer("output", nn.functional.one_hot(places, num_outputs).double())

    def forward(self, tokens_BTD: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """Return the sums [B, 1, K] of leaf values; ``grid`` is not used."""
        rows = in_order(tokens_BTD)
        nodes = self.roots.expand(rows.shape[0], -1)
        for _ in range(self._depth):
            values = rows.gather(1, self.feature[nodes])
            right = (values > self.threshold[nodes]) | (values.isnan() & self.missing_right[nodes])
            nodes = torch.where(right, self.right[nodes], self.left[nodes])
        sums: Tensor = self.value[nodes] @ self.output
        return sums.to(rows)[:, None]


_NODE = ("left", "right", "value", "feature", "threshold", "missing_right")
_INTEGERS = ("split_feature", "decision_type", "left_child", "right_child")
"""Numbers that a tree in LightGBM's format has for each split, beside ``threshold``."""
_NUMBERS = re.compile(r"(?:[-+.e0-9]{1,40}(?: |$))*")
_DAMAGED = "the trees of this model are damaged"
_DEFAULT_LEFT, _MISSING_IS_ZERO, _MISSING_IS_NAN = 2, 4, 8  # bits of a decision type; bit 1 is a split by categories


class _Tree:
    """A tree in LightGBM's text format, whose numbers are checked."""

    def __init__(self, text: str, num_features: int) -> None:
        """Parse the lines ``name=numbers`` of a tree; raises ValueError if it is none for ``num_features`` features.

        A split has a larger number than its parent, so that paths end. A child below zero is the leaf ``-child - 1``.
        """
        lines = dict(line.partition("=")[::2] for line in text.splitlines())
        self.fields = {name: lines.get(name, "") for name in (*_INTEGERS, "threshold", "leaf_value")}
        for name, field in self.fields.items():
            if not _NUMBERS.fullmatch(field):
                raise ValueError(f"{name} are not numbers")
        self._leaves = np.array(self.fields["leaf_value"].split(), np.float64)
        self._threshold = np.array(self.fields["threshold"].split(), np.float64)
        integers = [np.array(self.fields[name].split(), np.int64) for name in _INTEGERS]
        self.num_leaves = len(self._leaves)
        if lines.get("num_leaves") != str(self.num_leaves) or not self.num_leaves:
            raise ValueError(f"{self.num_leaves} values for {lines.get('num_leaves', 'no')} leaves")
        if any(len(numbers) != self.num_leaves - 1 for numbers in (*integers, self._threshold)):
            raise ValueError(f"{self.num_leaves} leaves and not one split less")
        self.feature, self._decision, self._left, self._right = integers
        if not np.isfinite(self._leaves).all() or not np.isfinite(self._threshold).all():
            raise ValueError("values are not finite")
        if ((self.feature < 0) | (self.feature >= num_features)).any():
            raise ValueError(f"a feature is not one of 0 to {num_features - 1}")
        children, numbers = np.concatenate([self._left, self._right]), np.arange(self.num_leaves - 1)
        expected = np.arange(-self.num_leaves, self.num_leaves - 1)
        if self.num_leaves > 1 and not np.array_equal(np.sort(np.append(children, 0)), expected):
            raise ValueError("not every node is the child of one split")
        if ((children >= 0) & (children <= np.concatenate([numbers, numbers]))).any():
            raise ValueError("a split is above its parent")
        if (self._decision & 1).any() or lines.get("num_cat", "0") != "0":
            raise ValueError("it splits by categories, not by numbers")
        if (self._decision & _MISSING_IS_ZERO).any() or ((self._decision < 0) | (self._decision > 10)).any():
            raise ValueError("it takes zeros as missing, or has an unknown type of split")
        if lines.get("is_linear", "0") != "0":
            raise ValueError("its leaves are linear models")

    @property
    def depth(self) -> int:
        """Number of splits on the longest path to a leaf."""
        depths = np.ones(self.num_leaves, np.int64)
        for split in range(self.num_leaves - 1):
            for child in (self._left[split], self._right[split]):
                if child >= 0:
                    depths[child] = depths[split] + 1
        return int(depths[: self.num_leaves - 1].max(initial=0))

    def nodes(self, first: int) -> np.ndarray:
        """Return the rows `_NODE` for all splits, then for all leaves [6, 2 * num_leaves - 1], numbered from ``first``.

        A leaf is its own child.
        """
        num_splits = self.num_leaves - 1
        left, right = (np.where(side < 0, num_splits + ~side, side) for side in (self._left, self._right))
        own, zeros = np.arange(num_splits, 2 * num_splits + 1), np.zeros(self.num_leaves)
        nan, default_left = self._decision & _MISSING_IS_NAN > 0, self._decision & _DEFAULT_LEFT > 0
        missing_right = np.where(nan, ~default_left, self._threshold < 0)  # without a type, NaN is taken as 0
        rows = [(left, own), (right, own), (np.zeros(num_splits), self._leaves), (self.feature, zeros),
                (self._threshold, zeros), (missing_right, zeros)]  # fmt: skip
        found = np.array([np.concatenate(row) for row in rows], np.float64)
        found[:2] += first
        return found


def _parsed(text: str, num_features: int) -> list[_Tree]:
    """Return the trees of a booster in LightGBM's text format; raises UserError if one of them is damaged."""
    found = []
    for number, part in enumerate(text.partition("\nend of trees\n")[0].split("\nTree=")[1:]):
        try:
            found.append(_Tree(part, num_features))
        except (ValueError, OverflowError) as error:
            raise UserError(f"{_DAMAGED}: tree {number}: {error}") from error
    if not found:
        raise UserError(f"{_DAMAGED}: there are none")
    return found


def _written(trees: Sequence[_Tree], used: np.ndarray, turns: int) -> str:
    """Return checked trees in LightGBM's text format; ``turns`` outputs have a tree each in turn.

    Features are numbered by their place in ``used``, so that the text is as long as the trees are large.
    """
    lines = [
        "tree", "version=v4", f"num_class={turns}", f"num_tree_per_iteration={turns}", "label_index=0",
        f"max_feature_idx={len(used) - 1}", "objective=regression",
        f"feature_names={' '.join(f'x{number}' for number in range(len(used)))}",
        f"feature_infos={' '.join(['none'] * len(used))}", "",
    ]  # fmt: skip
    for number, tree in enumerate(trees):
        fields = {**tree.fields, "split_feature": " ".join(map(str, np.searchsorted(used, tree.feature)))}
        lines += [f"Tree={number}", f"num_leaves={tree.num_leaves}", "num_cat=0"]
        lines += [f"{name}={field}" for name, field in fields.items()] + ["", ""]
    return "\n".join([*lines, "end of trees", ""])


def in_order(tokens_BTD: Tensor) -> Tensor:
    """Return tokens [B, T, C] as float32 rows [B, C * T] for trees, channel by channel."""
    return tokens_BTD.transpose(1, 2).flatten(1).float()


def _booster(trees: Sequence[_Tree], turns: int) -> tuple[Any, np.ndarray]:
    """Return the booster of checked trees, and the features that it takes: those that split, at least one."""
    try:
        import lightgbm
    except ModuleNotFoundError as error:
        raise UserError(f"these trees need the package {error.name!r}: pip install 'orca-ray[trees]'") from error
    used = np.unique(np.concatenate([tree.feature for tree in trees]))
    used = used if len(used) else np.zeros(1, np.int64)
    return lightgbm.Booster(model_str=_written(trees, used, turns)), used


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
    body = TreeBody(target, math.prod(input_shape))
    return CrossModalModel(PointEmbedder(input_shape), body, _Outputs(target.output_shape), statistics)
