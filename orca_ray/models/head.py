"""Heads: they map a body's features to predictions of the target's shape.

Tensor suffixes as in :mod:`orca_ray.models.body`; P is the length of one output patch, O the number of output channels.
"""

import math

from torch import Tensor, nn
from torch.nn import functional as F

from orca_ray.data.rows import Target
from orca_ray.models.body import Layout
from orca_ray.models.embedder import fold_shape


class PooledHead(nn.Module):
    """Mean over features, then one linear layer, as in the reference: for classes, labels and scalars."""

    def __init__(self, feature_width: int, target: Target) -> None:
        super().__init__()
        self.output = nn.Linear(feature_width, target.num_outputs)
        self._shape = target.output_shape

    def forward(self, features_BSF: Tensor) -> Tensor:
        """Predict [B, *output_shape]."""
        predictions: Tensor = self.output(features_BSF.mean(dim=1))
        return predictions.reshape(-1, *self._shape)


class DenseHead(nn.Module):
    """Each feature predicts the patch of the field at its own position; the patches tile a canvas.

    The canvas has as many dimensions as the layout of the features. A field with more or fewer is unrolled row by row,
    or folded into a nearly square image, as the embedder does with inputs.
    """

    def __init__(
        self, feature_width: int, layout: Layout, shape: tuple[int, ...], space: Layout, patch: int | None
    ) -> None:
        """Predict ``shape``, whose last axes ``space`` are spatial, from features with the layout ``layout``.

        ``patch`` is the side of the embedder's patches, if they tile a field of this size; predictions beyond the
        canvas are cut off. None: the smallest patches that cover the canvas, resized to fit.
        """
        super().__init__()
        self.layout = layout
        self._shape = shape
        self._num_points = math.prod(space)
        self.num_channels = math.prod(shape) // self._num_points
        same_dimensions = len(layout) == len(space)
        folded = (self._num_points,) if len(layout) == 1 else fold_shape(self._num_points)
        self.canvas = space if same_dimensions else folded
        self._crops = patch is not None and same_dimensions
        fitting = tuple(math.ceil(side / count) for side, count in zip(self.canvas, layout, strict=True))
        self.patch = (patch,) * len(layout) if patch is not None and same_dimensions else fitting
        self.output = nn.Linear(feature_width, self.num_channels * math.prod(self.patch))

    def forward(self, features_BSF: Tensor) -> Tensor:
        """Predict [B, *shape]."""
        field = self._lay_out(self.output(features_BSF))
        if self._crops:
            for axis, side in enumerate(self.canvas, start=2):
                field = field.narrow(axis, 0, side)
        elif field.shape[2:] != self.canvas:
            mode = "linear" if len(self.canvas) == 1 else "bilinear"
            field = F.interpolate(field, size=self.canvas, mode=mode, align_corners=False)
        return field.flatten(2)[:, :, : self._num_points].reshape(-1, *self._shape)

    def _lay_out(self, patches_BSP: Tensor) -> Tensor:
        """Tile patches: [B, S, O * P] -> [B, O, *(layout * patch)]."""
        blocks = patches_BSP.reshape(-1, *self.layout, self.num_channels, *self.patch)
        if len(self.layout) == 1:
            return blocks.transpose(1, 2).flatten(2)
        return blocks.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def build_head(
    feature_width: int, layout: Layout, target: Target, input_size: tuple[int, ...], patch: int | None
) -> nn.Module:
    """Build the head of ``target``, given the features' layout, the input's spatial size and the embedder's patch.

    A dense target of two axes is a field (H, W) for a 2-D input and (C, L) for a 1-D one.
    """
    if target.kind != "dense":
        return PooledHead(feature_width, target)
    plane = len(target.shape) >= 3 or (len(target.shape) == 2 and len(input_size) == 2)
    space = target.shape[-2:] if plane else target.shape[-1:]
    return DenseHead(feature_width, layout, target.shape, space, patch if space == tuple(input_size) else None)
