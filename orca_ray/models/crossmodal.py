"""The whole model: a task's embedder, a body, and a head.

The head predicts from the body's features. Tensor suffixes as in
:mod:`orca_ray.models.body`; P counts points of an output patch, O output channels.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from orca_ray.data.rows import Target
from orca_ray.errors import UserError
from orca_ray.models.body import (
    Body,
    Layout,
    Pooling,
    seeded,
    set_dropout,
    switch_stochastic_depth_off,
)
from orca_ray.models.embedder import EMBEDDERS, Embedder, fold_shape
from orca_ray.models.modality import DenseHeadName, EmbedderConfig
from orca_ray.models.weights import BodyArchitecture, LoadedBody, load_body

NUM_COLOURS = 3
"""Channels of the image that `DecodedHead` predicts."""


def pooled(features_BSF: Tensor, pooling: Pooling) -> Tensor:
    """Return one feature per input, [B, F].

    It is the mean of the input's S features or, if ``pooling`` is ``last``, the last
    one.
    """
    return features_BSF.mean(dim=1) if pooling == "mean" else features_BSF[:, -1]


class PooledHead(nn.Module):
    """Head for classes, labels and scalars: a linear layer on the pooled features.

    Pooling is the mean over the S features, as in ORCA's code. For causal bodies it is
    the last feature, the only one that depends on all tokens (`Body.pooling`).
    """

    def __init__(
        self, feature_width: int, target: Target, pooling: Pooling = "mean"
    ) -> None:
        super().__init__()
        self.output = nn.Linear(feature_width, target.num_outputs)
        self._shape = target.output_shape
        self._pooling = pooling

    def forward(self, features_BSF: Tensor) -> Tensor:
        """Return the predictions [B, *output_shape] for features [B, S, F]."""
        predictions: Tensor = self.output(pooled(features_BSF, self._pooling))
        return predictions.reshape(-1, *self._shape)


class DenseHead(nn.Module):
    """Head for fields: features predict patches, which tile a canvas.

    The canvas has as many axes as the layout of the features. A 2-D field on a 1-D
    canvas is flattened row by row. A 1-D field on a 2-D canvas is folded into a nearly
    square image, as `fold_shape` does for inputs.
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
        """Predict fields of ``shape`` from features of ``layout``.

        The last axes of the fields, of sizes ``space``, are spatial. ``patch``: side of
        the embedder's patches, if input and field have the same size; predictions
        beyond the canvas are cut off. None: the smallest patches that cover the canvas;
        the predictions are interpolated to its size. ``pooled``: a patch consists of
        averages over the feature's components, as in ORCA's code, and is not learned.
        If there are several channels, each is an average over consecutive components;
        ORCA's tasks for text bodies have one channel.
        """
        super().__init__()
        self.layout = layout
        self._shape = shape
        self._num_points = math.prod(space)
        self.num_channels = math.prod(shape) // self._num_points
        same_dimensions = len(layout) == len(space)
        self.canvas: tuple[int, ...]
        if same_dimensions:
            self.canvas = space
        elif len(layout) == 1:
            self.canvas = (self._num_points,)
        else:
            self.canvas = fold_shape(self._num_points)
        self.patch: tuple[int, ...]
        if patch is not None and same_dimensions:
            self._crops = True
            self.patch = (patch,) * len(layout)
        else:
            self._crops = False
            self.patch = tuple(
                math.ceil(side / count)
                for side, count in zip(self.canvas, layout, strict=True)
            )
        num_outputs = self.num_channels * math.prod(self.patch)
        self.output = (
            nn.AdaptiveAvgPool1d(num_outputs)
            if pooled
            else nn.Linear(feature_width, num_outputs)
        )

    def forward(self, features_BSF: Tensor) -> Tensor:
        """Return the predicted fields [B, *shape] for features [B, S, F]."""
        field = _lay_out(self.output(features_BSF), self.layout, self.patch)
        if self._crops:
            for axis, side in enumerate(self.canvas, start=2):
                field = field.narrow(axis, 0, side)
        elif field.shape[2:] != self.canvas:
            mode = "linear" if len(self.canvas) == 1 else "bilinear"
            field = F.interpolate(
                field, size=self.canvas, mode=mode, align_corners=False
            )
        return field.flatten(2)[:, :, : self._num_points].reshape(-1, *self._shape)


class DecodedHead(DenseHead):
    """Head for fields of image bodies in ORCA's code.

    It is Hugging Face's decoder of masked images, followed by averages. A linear layer
    maps each feature to its part of an RGB image of the embedder's size. Averages over
    the colours give the O channels, and averages over pixels the size of the field. The
    layer starts as the decoder does without pretrained weights, which the checkpoints
    of ORCA's bodies lack. A 1-D field is folded as by `DenseHead`.
    """

    def __init__(
        self,
        feature_width: int,
        layout: Layout,
        shape: tuple[int, ...],
        space: Layout,
        image_size: int,
    ) -> None:
        """Predict fields of ``shape``.

        Its last axes, of sizes ``space``, are spatial.
        """
        super().__init__(feature_width, layout, shape, space, patch=None, pooled=True)
        self.patch = tuple(math.ceil(image_size / side) for side in layout)
        self.output = nn.Linear(feature_width, NUM_COLOURS * math.prod(self.patch))
        nn.init.normal_(self.output.weight, std=0.02)
        nn.init.zeros_(self.output.bias)

    def forward(self, features_BSF: Tensor) -> Tensor:
        """Return the predicted fields [B, *shape] for features [B, S, F]."""
        image = _lay_out(self.output(features_BSF), self.layout, self.patch)
        colours_last = image.flatten(2).transpose(1, 2)
        channels_last = F.adaptive_avg_pool1d(colours_last, self.num_channels)
        channels = channels_last.transpose(1, 2)
        height, width = self.canvas
        field = F.adaptive_avg_pool2d(
            channels.reshape(image.shape[0], -1, *image.shape[2:]), (height, width)
        )
        return field.flatten(2)[:, :, : self._num_points].reshape(-1, *self._shape)


def _lay_out(patches_BSP: Tensor, layout: Layout, patch: tuple[int, ...]) -> Tensor:
    """Tile patches: [B, S, O * P] -> [B, O, *(layout * patch)]."""
    num_channels = patches_BSP.shape[2] // math.prod(patch)
    blocks = patches_BSP.reshape(-1, *layout, num_channels, *patch)
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
    """Build the head of ``target``.

    ``layout`` is that of the features, ``input_size`` the input's spatial size.
    ``patch`` and ``image_size`` are the embedder's, ``dense`` is `HeadConfig.dense`,
    ``pooling`` is `Body.pooling`. A dense target with two axes is a field (height,
    width) for a 2-D input, and (channels, length) for a 1-D input.
    """
    if target.kind != "dense":
        return PooledHead(feature_width, target, pooling)
    if len(target.shape) == 2:
        is_plane = len(input_size) == 2
    else:
        is_plane = len(target.shape) >= 3
    space = target.shape[-2:] if is_plane else target.shape[-1:]
    is_pooled = dense == "pooled"
    if is_pooled and image_size is not None:
        return DecodedHead(feature_width, layout, target.shape, space, image_size)
    # Predictions of patches lie where the embedder's patches lie only if input and
    # field have the same size.
    if space != tuple(input_size):
        patch = None
    return DenseHead(
        feature_width, layout, target.shape, space, patch, pooled=is_pooled
    )


class CrossModalModel(nn.Module):
    """Whole model, which maps raw inputs to predictions [B, *target.output_shape].

    Inputs are [B, C, L] or [B, C, H, W].
    """

    input_mean: Tensor | None
    input_deviation: Tensor | None

    def __init__(
        self,
        embedder: Embedder,
        body: Body,
        head: nn.Module,
        statistics: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Assemble the parts.

        ``statistics``: mean and deviation that standardise inputs, each [C, 1] or [C,
        1, 1].
        """
        super().__init__()
        mean, deviation = (None, None) if statistics is None else statistics
        # Not saved with the weights: whoever builds a model computes the statistics
        # from its data.
        self.register_buffer("input_mean", mean, persistent=False)
        self.register_buffer("input_deviation", deviation, persistent=False)
        self.embedder = embedder
        self.body = body
        self.head = head
        self._grid: tuple[int, int] | None = None
        if len(embedder.layout) == 2:
            rows, columns = embedder.layout
            self._grid = (rows, columns)

    def embed(self, x: Tensor) -> Tensor:
        """Return the tokens [B, T, D] of raw inputs.

        The inputs are standardised first, if the model has statistics.
        """
        if self.input_mean is not None and self.input_deviation is not None:
            x = (x - self.input_mean) / self.input_deviation
        tokens: Tensor = self.embedder(x)
        return tokens

    def features(self, x: Tensor) -> Tensor:
        """Return the mean over the tokens of each input, [B, D].

        The align stage uses it as the input's features.
        """
        return self.embed(x).mean(dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return predictions [B, *target.output_shape] for raw inputs.

        They are logits for classes and labels, else values. Under autocast, only the
        body computes in lower precision. Embedder and head keep float32: they are
        cheap, and the inputs and predictions of a regression need more precision than
        bfloat16 has.
        """
        with torch.autocast(x.device.type, enabled=False):
            tokens_BTD = self.embed(x)
        features_BSF = self.encode(tokens_BTD)
        with torch.autocast(x.device.type, enabled=False):
            predictions: Tensor = self.head(features_BSF)
        return predictions

    def encode(self, tokens_BTD: Tensor) -> Tensor:
        """Return the body's features [B, S, F] of embedded tokens, in float32.

        Features of prefix tokens are left out.
        """
        features: Tensor = self.body(tokens_BTD, self._grid)
        return features[:, self.body.num_prefix_tokens :].float()


def build_model(
    *,
    input_shape: tuple[int, ...],
    target: Target,
    body: str | BodyArchitecture,
    pretrained: bool,
    config: EmbedderConfig,
    dense_head: DenseHeadName = "learned",
    dropout: float = 0.0,
    stochastic_depth: bool = False,
    seed: int,
    statistics: tuple[Tensor, Tensor] | None = None,
    substitute: Callable[[LoadedBody], Body] | None = None,
) -> CrossModalModel:
    """Build a model for inputs of ``input_shape`` (C, L) or (C, H, W).

    ``statistics``: mean and deviation of each input channel; None: inputs are already
    standardised. ``dense_head`` is `HeadConfig.dense`. With ``stochastic_depth``,
    training skips layers with the probabilities that the body declares. ``substitute``
    returns the network that replaces the body and takes the same input. Equal arguments
    give equal parameters, and the global random state does not change.

    Raises UserError for an unknown body, unreadable weights, or an input shape that is
    neither 1-D nor 2-D.
    """
    if len(input_shape) not in (2, 3) or min(input_shape) < 1:
        raise UserError(
            "input shape must be (channels, length) or (channels, height, width), got"
            f" {input_shape}"
        )
    loaded = load_body(body, pretrained=pretrained, seed=seed)
    with seeded(seed):
        embedder = EMBEDDERS[loaded.body.modality](
            input_shape, loaded.stem, config, dropout, seed
        )
        network = loaded.body if substitute is None else substitute(loaded)
        if len(embedder.layout) == 2:
            network.fit_grid((embedder.layout[0], embedder.layout[1]))
        layout = network.feature_layout(embedder.layout)
        head = build_head(
            network.feature_width,
            layout,
            target,
            input_shape[1:],
            embedder.patch,
            embedder.image_size,
            dense_head,
            network.pooling,
        )
    set_dropout(network, dropout)
    if not stochastic_depth:
        switch_stochastic_depth_off(network)
    return CrossModalModel(embedder, network, head, statistics)
