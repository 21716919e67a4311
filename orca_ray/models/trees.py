"""Gradient-boosted trees of LightGBM as a network, for the method ``gradient_boosting``.

The trees are text, LightGBM's own format, in a buffer of bytes: they are saved and loaded with all other weights.
"""

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
from orca_ray.models.tree_arrays import TreeArrays, in_order

_SEPARATOR = "\0"


class TreeBody(Body):
    """Maps tables [B, T, C] to the sums [B, 1, K] of the trees' outputs for K outputs, on the CPU.

    With two classes, the trees have one output, the log-odds of class 1; the logit of class 0 is 0.
    """

    modality = "sequence"
    resized = ("text",)
    """Buffers whose size follows from training; they are loaded with any size."""
    text: Tensor

    def __init__(self, target: Target) -> None:
        """Make a model without trees, which predicts 0."""
        super().__init__()
        self.feature_width = target.num_outputs
        binary = target.kind == "classes" and target.size == 2
        self.num_trained = 1 if binary else target.num_outputs
        """Number of outputs that have trees; of two classes, only the second."""
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
        """The boosters; raises UserError if LightGBM is missing or cannot read them."""
        if self._boosters is None:
            self._boosters = _parsed(self.models)
        return self._boosters

    @property
    def num_values(self) -> int:
        """Number of fitted values: the leaves' outputs and the thresholds of the splits."""
        leaves = re.findall(r"^num_leaves=(\d+)", "\n".join(self.models), re.MULTILINE)
        return sum(2 * int(number) - 1 for number in leaves)

    def forward(self, tokens_BTD: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """Return the raw predictions; ``grid`` is not used."""
        rows = in_order(tokens_BTD).cpu().numpy()
        if not self.boosters:
            return tokens_BTD.new_zeros(len(rows), 1, self.feature_width)
        threads = torch.get_num_threads()
        outputs = [each.predict(rows, raw_score=True, num_threads=threads) for each in self.boosters]
        raw = torch.from_numpy(np.column_stack(outputs)).to(tokens_BTD)
        return nn.functional.pad(raw, (self.feature_width - self.num_trained, 0))[:, None]

    def exportable(self) -> Body:
        """Return the trees as operations of torch; LightGBM's own library cannot be exported."""
        return TreeArrays(self.boosters, self.feature_width, self.num_trained)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        stored = state_dict.get(f"{prefix}text")
        if stored is not None:  # of another length
            self.text = torch.empty_like(stored, device=self.text.device)
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._boosters = _parsed(self.models)  # now, so that a missing package is known before the first prediction


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
    """Return the features [B, C * T] of the inputs ``x`` [B, C, ...] as the trees see them."""
    with torch.no_grad():
        return np.asarray(in_order(model.embed(x)).cpu())


def build_trees(
    *, input_shape: tuple[int, ...], target: Target, statistics: tuple[Tensor, Tensor] | None = None
) -> CrossModalModel:
    """Build a model without trees for inputs of ``input_shape``; ``statistics`` as in `build_model`."""
    return CrossModalModel(PointEmbedder(input_shape), TreeBody(target), _Outputs(target.output_shape), statistics)
