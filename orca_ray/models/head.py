"""Heads: they map a body's features to predictions of the target's shape.

Tensor suffixes as in :mod:`orca_ray.models.body`; P counts points of an output patch, O output channels.
"""

import math

from torch import Tensor, nn
from torch.nn import functional as F

from orca_ray.data.rows import Target
from orca_ray.models.body import Layout, Pooling
from orca_ray.models.embedder import fold_shape
from orca_ray.models.modality import DenseHeadName


def pooled(features_BSF: Tensor, pooling: Pooling) -> Tensor:
    """Return the features [B, F] of whole inputs: the mean over the S features of each, or its last feature."""
    return features_BSF.mean(dim=1) if pooling == "mean" else features_BSF[:, -1]


class PooledHead(nn.Module):
    """Head for classes, labels and scalars: the mean over the S features, then a linear layer, as in ORCA's code.

    For causal bodies it uses the last feature, the only one that depends on all tokens (`Body.pooling`).
    """

    def __init__(self, feature_width: int, target: Target, pooling: Pooling = "mean") -> None:
        super().__init__()
        self.output = nn.Linear(feature_width, target.num_outputs)
        self._shape, self._pooling = target.output_shape, pooling

    def forward(self, features_BSF: Tensor) -> Tensor:
        """Predict [B, *output_shape]."""
        predictions: Tensor = self.output(pooled(features_BSF, self._pooling))
        return predictions.reshape(-1, *self._shape)


class DenseHead(nn.Module):
    """Head for fields: each feature predicts one patch of the field, and the patches tile a canvas.

    The canvas has as many axes as the layout of the features. A 2-D field on a 1-D canvas is flattened row by row. A
    1-D field on a 2-D canvas is folded into a nearly square image, as `fold_shape` does for inputs.
    """

    def __init__(
        self,
        feature_width: int,
        layout: Layout,
        shape: tuple[int, ...],
        space: Layout,
        patch: int | None,
        *,
        pooled: bool = False,
    ) -> None:
        """Predict fields of ``shape``, whose last axes, of sizes ``space``, are spatial, from features of ``layout``.

        ``patch``: side of the embedder's patches, if input and field have the same size; predictions beyond the canvas
        are cut off. None: the smallest patches that cover the canvas; the predictions are interpolated to its size.
        ``pooled``: a patch consists of averages over the feature's components, as in ORCA's code, and is not learned.
        If there are several channels, each is an average over consecutive components; ORCA's tasks for text bodies have
        one channel.
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
        num_outputs = self.num_channels * math.prod(self.patch)
        self.output = nn.AdaptiveAvgPool1d(num_outputs) if pooled else nn.Linear(feature_width, num_outputs)

    def forward(self, features_BSF: Tensor) -> Tensor:
        """Predict [B, *shape]."""
        field = _lay_out(self.output(features_BSF), self.layout, self.patch)
        if self._crops:
            for axis, side in enumerate(self.canvas, start=2):
                field = field.narrow(axis, 0, side)
        elif field.shape[2:] != self.canvas:
            mode = "linear" if len(self.canvas) == 1 else "bilinear"
            field = F.interpolate(field, size=self.canvas, mode=mode, align_corners=False)
        return field.flatten(2)[:, :, : self._num_points].reshape(-1, *self._shape)


class DecodedHead(DenseHead):
    """Head for fields of image bodies in ORCA's code: Hugging Face's decoder of masked images, then averages.

    A linear layer maps each feature to its part of an RGB image of the embedder's size. Averages over the colours give
    the O channels, and averages over pixels the size of the field. The layer starts as the decoder does without
    pretrained weights, which the checkpoints of ORCA's bodies lack. A 1-D field is folded as by `DenseHead`.
    """

    _NUM_COLOURS = 3

    def __init__(
        self, feature_width: int, layout: Layout, shape: tuple[int, ...], space: Layout, image_size: int
    ) -> None:
        """Predict fields of ``shape``, whose last axes, of sizes ``space``, are spatial."""
        super().__init__(feature_width, layout, shape, space, patch=None, pooled=True)
        self.patch = tuple(math.ceil(image_size / side) for side in layout)
        self.output = nn.Linear(feature_width, self._NUM_COLOURS * math.prod(self.patch))
        nn.init.normal_(self.output.weight, std=0.02)
        nn.init.zeros_(self.output.bias)

    def forward(self, features_BSF: Tensor) -> Tensor:
        """Predict [B, *shape]."""
        image = _lay_out(self.output(features_BSF), self.layout, self.patch)
        channels = F.adaptive_avg_pool1d(image.flatten(2).transpose(1, 2), self.num_channels).transpose(1, 2)
        height, width = self.canvas
        field = F.adaptive_avg_pool2d(channels.reshape(image.shape[0], -1, *image.shape[2:]), (height, width))
        return field.flatten(2)[:, :, : self._num_points].reshape(-1, *self._shape)


def _lay_out(patches_BSP: Tensor, layout: Layout, patch: tuple[int, ...]) -> Tensor:
    """Tile patches: [B, S, O * P] -> [B, O, *(layout * patch)]."""
    blocks = patches_BSP.reshape(-1, *layout, patches_BSP.shape[2] // math.prod(patch), *patch)
    if len(layout) == 1:
        return blocks.transpose(1, 2).flatten(2)
    return blocks.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def build_head(
    feature_width: int,
    layout: Layout,
    target: Target,
    input_size: tuple[int, ...],
    patch: int | None,
    image_size: int | None = None,
    dense: DenseHeadName = "learned",
    pooling: Pooling = "mean",
) -> nn.Module:
    """Build the head of ``target``, given the features' layout and the input's spatial size.

    ``patch`` and ``image_size`` are the embedder's, ``dense`` is that of `HeadConfig`, ``pooling`` that of `Body`. A
    dense target with two axes is a field (height, width) if the input is 2-D, and (channels, length) if it is 1-D.
    """
    if target.kind != "dense":
        return PooledHead(feature_width, target, pooling)
    plane = len(target.shape) >= 3 or (len(target.shape) == 2 and len(input_size) == 2)
    space = target.shape[-2:] if plane else target.shape[-1:]
    averages = dense == "pooled"
    if averages and image_size is not None:
        return DecodedHead(feature_width, layout, target.shape, space, image_size)
    patch = patch if space == tuple(input_size) else None
    return DenseHead(feature_width, layout, target.shape, space, patch, pooled=averages)
