"""Heads: they map a body's features to predictions of the target's shape.

Tensor suffixes as in :mod:`orca_ray.models.body`; P counts points of an output patch, O output channels.
"""

import math

from torch import Tensor, nn
from torch.nn import functional as F

from orca_ray.data.rows import Target
from orca_ray.models.body import Layout
from orca_ray.models.embedder import fold_shape


class PooledHead(nn.Module):
    """Head for classes, labels and scalars: the mean over the S features, then a linear layer, as in ORCA's code."""

    def __init__(self, feature_width: int, target: Target) -> None:
        super().__init__()
        self.output = nn.Linear(feature_width, target.num_outputs)
        self._shape = target.output_shape

    def forward(self, features_BSF: Tensor) -> Tensor:
        """Predict [B, *output_shape]."""
        predictions: Tensor = self.output(features_BSF.mean(dim=1))
        return predictions.reshape(-1, *self._shape)


class DenseHead(nn.Module):
    """Head for fields: each feature predicts one patch of the field, and the patches tile a canvas.

    The canvas has as many axes as the layout of the features. A 2-D field on a 1-D canvas is flattened row by row. A
    1-D field on a 2-D canvas is folded into a nearly square image, as `fold_shape` does for inputs.
    """

    def __init__(
        self, feature_width: int, layout: Layout, shape: tuple[int, ...], space: Layout, patch: int | None
    ) -> None:
        """Predict fields of ``shape``, whose last axes, of sizes ``space``, are spatial, from features of ``layout``.

        ``patch``: side of the embedder's patches, if input and field have the same size; predictions beyond the canvas
        are cut off. None: the smallest patches that cover the canvas; the predictions are interpolated to its size.
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

    A dense target with two axes is a field (height, width) if the input is 2-D, and (channels, length) if it is 1-D.
    """
    if target.kind != "dense":
        return PooledHead(feature_width, target)
    plane = len(target.shape) >= 3 or (len(target.shape) == 2 and len(input_size) == 2)
    space = target.shape[-2:] if plane else target.shape[-1:]
    return DenseHead(feature_width, layout, target.shape, space, patch if space == tuple(input_size) else None)
