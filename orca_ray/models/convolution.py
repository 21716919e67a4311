"""Residual convolutional networks without pretraining, as a `CrossModalModel`: stem
convolution, trunk and head.

Wide residual networks (Zagoruyko and Komodakis, 2016, arXiv:1605.07146) for images, and
their 1-D counterpart for series; of the same blocks, U-Nets (Ronneberger et al., 2015,
arXiv:1505.04597) for fields. Group norm (16 channels a group) replaces batch norm: a
body keeps no state between calls, and gradients must not depend on the size of
micro-batches. Tensor suffixes as in :mod:`orca_ray.models.body`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from orca_ray.data.rows import Target
from orca_ray.models.body import Body, Layout, seeded
from orca_ray.models.crossmodal import CrossModalModel, build_head
from orca_ray.models.embedder import Embedder

NUM_STAGES = 3
_GROUP_WIDTH = 16
_SHIFTS = ((1, 1), (0, 1), (2, 1), (1, 0), (1, 2))
"""Top left corners of views in a grid of tokens that is padded by one token: (1, 1) is
the grid itself.
"""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Record of a convolutional network's shape; kernel and dilation hold for all
    convolutions but 1 x 1 shortcuts.
    """

    kernel: int
    """Side of the kernels, an odd number."""
    dilation: int
    blocks: int
    """Number of residual blocks, of two convolutions each, in each of the `NUM_STAGES`
    stages.
    """
    width: int
    """Number of channels in the first stage."""
    dropout: float = 0.0
    """Probability of dropout between the two convolutions of a block."""
    padding: str = "zeros"
    """Padding of the convolutions: ``zeros`` or ``circular``, for periodic inputs."""
    activation: str = "relu"
    """Name in `torch.nn.functional`."""
    standardised: bool = False
    """Whether the weights of each output channel have mean 0 and a learned norm (Qiao
    et al., 2019, "Weight standardization", arXiv:1903.10520), with which group norm
    trains as fast as batch norm.
    """
    plain: bool = False
    """Whether the stages have plain convolutions instead of residual blocks; see
    `PlainBody`.
    """
    views: int = 1
    """Number of copies of an image of which plain stages compute features for a
    prediction; see `_SHIFTS`.
    """


class ConvolutionalEmbedder(Embedder):
    """Embedder whose tokens are the outputs of one convolution.

    A table's features are channels of one position.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        architecture: Architecture,
        *,
        table: bool,
        stride: int,
    ) -> None:
        super().__init__()
        self._table = table
        channels, *size = (math.prod(input_shape), 1) if table else input_shape
        self.layout = tuple(math.ceil(side / stride) for side in size)
        self.projection = _convolution(
            channels, architecture.width, tuple(size), architecture, stride
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens [B, T, D] of inputs [B, C, L] or [B, C, H, W]."""
        if self._table:
            x = x.flatten(1)[:, :, None]
        if x.ndim == 4 and x.device.type == "cpu":
            # CPUs take 0.6 to 0.8 of the time with the channels last in memory, as in
            # all tokens. Inputs of one channel stay as they are: converted, they are
            # slower.
            x = (
                x
                if x.shape[1] == 1
                else x.contiguous(memory_format=torch.channels_last)
            )
            x = self.projection(x).contiguous(memory_format=torch.channels_last)
        else:
            x = self.projection(x)
        tokens: Tensor = x.flatten(2).transpose(1, 2)
        return tokens


class ConvolutionalBody(Body):
    """Body of a convolutional network: stages of residual blocks, [B, T, D] -> [B, S,
    F].

    With ``shrink``, each stage after the first has half the resolution and twice the
    channels of the one before it.
    """

    def __init__(
        self, layout: Layout, architecture: Architecture, *, shrink: bool
    ) -> None:
        super().__init__()
        self.modality = "sequence" if len(layout) == 1 else "image"
        self._layout = layout
        width = architecture.width
        blocks = []
        for number in range(NUM_STAGES * architecture.blocks):
            stride = 2 if shrink and number and number % architecture.blocks == 0 else 1
            blocks.append(_Block(width, width * stride, layout, architecture, stride))
            layout = _strided(layout, stride)
            width = width * stride
        self.blocks = nn.Sequential(*blocks)
        self.norm: nn.Module = _norm(width, layout)
        self.feature_width = width
        self._feature_layout = layout

    def forward(
        self, tokens_BTD: Tensor, grid: tuple[int, int] | None = None
    ) -> Tensor:
        """Return the features [B, S, F] of tokens; ``grid`` is not used: the
        constructor got the layout.
        """
        x = self.blocks(
            tokens_BTD.transpose(1, 2).reshape(tokens_BTD.shape[0], -1, *self._layout)
        )
        return F.relu(self.norm(x)).flatten(2).transpose(1, 2)

    def feature_layout(self, layout: Layout) -> Layout:
        """Return the layout of the features; ``layout`` is not used: the constructor
        got it.
        """
        return self._feature_layout


class PlainBody(ConvolutionalBody):
    """Body of plain convolutions (Simonyan and Zisserman, 2015, arXiv:1409.1556), [B,
    T, D] -> [B, S, F].

    A stage has two convolutions for each block; the embedder is the first of all. Norm
    and ReLU follow each convolution, dropout the second of a block, and a max pool each
    stage, of sides with at least two positions; each stage has twice the channels of
    the last.
    """

    views: Tensor

    def __init__(
        self, layout: Layout, architecture: Architecture, *, shrink: bool = True
    ) -> None:
        """Make a body for tokens of ``layout`` [H, W]; it always shrinks."""
        assert shrink, "features of plain stages have not the resolution of fields"
        Body.__init__(self)
        self.modality = "image"
        self._layout = layout
        width = architecture.width
        self.num_views = architecture.views
        layers: list[nn.Module] = [_norm(width, layout), nn.ReLU()]
        for stage in range(NUM_STAGES):
            for number in range(0 if stage else 1, 2 * architecture.blocks):
                out = 2 * width if stage and number == 0 else width
                layers += [
                    _convolution(width, out, layout, architecture),
                    _norm(out, layout),
                    nn.ReLU(),
                ]
                if architecture.dropout and number % 2:
                    layers.append(nn.Dropout(architecture.dropout))
                width = out
            if max(layout) >= 2:
                pool = tuple(min(2, side) for side in layout)
                layers.append(nn.MaxPool2d(pool))
                layout = tuple(
                    side // each for side, each in zip(layout, pool, strict=True)
                )
        self.blocks = nn.Sequential(*layers)
        self.norm = nn.Identity()
        self.feature_width = width
        self._feature_layout = layout
        rows, columns = self._layout
        tokens = F.pad(
            torch.arange(float(rows * columns)).reshape(1, rows, columns),
            (1, 1, 1, 1),
            mode="replicate",
        )
        views = [
            tokens[0, top : top + rows, left : left + columns]
            for top, left in _SHIFTS[: architecture.views]
        ]
        self.register_buffer(
            "views", torch.stack(views).long().flatten(1), persistent=False
        )

    def forward(
        self, tokens_BTD: Tensor, grid: tuple[int, int] | None = None
    ) -> Tensor:
        """Return the features [B, S, F] of tokens; unless training, those of all views,
        [B, views * S, F].

        Max pools make them depend on where an image lies (Zhang, 2019,
        arXiv:1904.11486). The head takes their mean.
        """
        if self.training or self.one_view or self.num_views == 1:
            return super().forward(tokens_BTD)
        of_view = super().forward
        return torch.cat(
            [of_view(tokens_BTD[:, tokens_T]) for tokens_T in self.views], dim=1
        )


class UNetBody(Body):
    """Body of a U-Net, [B, T, D] -> [B, T, D]: each level has half the resolution and
    twice the channels of the last.

    On the way back, a level's output is repeated to the resolution of the level above,
    and joined with its features.
    """

    def __init__(self, layout: Layout, architecture: Architecture, levels: int) -> None:
        """Make a body for tokens of ``layout``, with at most ``levels`` levels below
        it; sides are at least 2.
        """
        super().__init__()
        self.modality = "sequence" if len(layout) == 1 else "image"
        self._layout = layout
        self.feature_width = architecture.width
        layouts = [layout]
        widths = [architecture.width]
        while len(layouts) <= levels and min(layouts[-1]) >= 4:
            layouts.append(_strided(layouts[-1], 2))
            widths.append(2 * widths[-1])
        first = _Block(widths[0], widths[0], layout, architecture, 1)
        levels_below = list(zip(widths, widths[1:], layouts, strict=False))
        self.down = nn.ModuleList(
            [first, *(_Block(*each, architecture, 2) for each in levels_below)]
        )
        self.up = nn.ModuleList(
            [
                _Block(low + high, low, size, architecture, 1)
                for low, high, size in levels_below
            ]
        )
        self.norm = _norm(widths[0], layout)
        self._activation = getattr(F, architecture.activation)

    def forward(
        self, tokens_BTD: Tensor, grid: tuple[int, int] | None = None
    ) -> Tensor:
        """Return the features [B, T, D] of the points; ``grid`` is not used: the
        constructor got the layout.
        """
        x = tokens_BTD.transpose(1, 2).reshape(tokens_BTD.shape[0], -1, *self._layout)
        kept = []
        for block in self.down:
            x = block(x)
            kept.append(x)
        for block, above in zip(reversed(self.up), kept[-2::-1], strict=True):
            x = block(torch.cat([above, F.interpolate(x, size=above.shape[2:])], dim=1))
        features: Tensor = self._activation(self.norm(x)).flatten(2).transpose(1, 2)
        return features


class _Block(nn.Module):
    """Pre-activation residual block: norm, activation, convolution, norm, activation,
    dropout, convolution.
    """

    def __init__(
        self,
        width: int,
        out: int,
        size: Layout,
        architecture: Architecture,
        stride: int,
    ) -> None:
        super().__init__()
        self.norms = nn.ModuleList([_norm(width, size), _norm(out, size)])
        first = _convolution(width, out, size, architecture, stride)
        self.convolutions = nn.ModuleList(
            [first, _convolution(out, out, _strided(size, stride), architecture)]
        )
        self.dropout = nn.Dropout(architecture.dropout)
        self._activation = getattr(F, architecture.activation)
        pointwise = nn.Conv1d if len(size) == 1 else nn.Conv2d
        self.shortcut = (
            None
            if width == out
            else pointwise(width, out, 1, stride=stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        active = self._activation(self.norms[0](x))
        kept = x if self.shortcut is None else self.shortcut(active)
        inner = self._activation(self.norms[1](self.convolutions[0](active)))
        changed: Tensor = self.convolutions[1](self.dropout(inner))
        return kept + changed


def build_convolutional(
    architecture: Architecture,
    *,
    input_shape: tuple[int, ...],
    target: Target,
    table: bool,
    stride: int = 1,
    seed: int,
    statistics: tuple[Tensor, Tensor] | None = None,
) -> CrossModalModel:
    """Build a network for inputs of ``input_shape`` (C, L) or (C, H, W).

    If the target is dense, all layers keep the resolution and the width of the first
    layer. ``table``: the positions of the input have no order, so that every layer sees
    all of them; convolutions are then linear layers. ``stride`` is that of the
    embedder's convolution. ``seed`` determines the initial parameters. ``statistics``:
    mean and deviation of each input channel; None: inputs are already standardised.
    """
    with seeded(seed):
        embedder = ConvolutionalEmbedder(
            input_shape, architecture, table=table, stride=stride
        )
        kind = PlainBody if architecture.plain else ConvolutionalBody
        body = kind(embedder.layout, architecture, shrink=target.kind != "dense")
        layout = body.feature_layout(embedder.layout)
        patch = None if table else stride
        head = build_head(body.feature_width, layout, target, input_shape[1:], patch)
    return CrossModalModel(embedder, body, head, statistics)


def _strided(size: Layout, stride: int) -> Layout:
    return tuple(math.ceil(side / stride) for side in size)


def _norm(width: int, size: Layout) -> nn.GroupNorm:
    """Return a group norm; inputs of a single position have one group, as 16 channels
    have too poor statistics.
    """
    whole = width % _GROUP_WIDTH or math.prod(size) == 1
    return nn.GroupNorm(1 if whole else width // _GROUP_WIDTH, width)


def _convolution(
    width: int, out: int, size: Layout, architecture: Architecture, stride: int = 1
) -> nn.Module:
    """Return a convolution of inputs of ``size``, padded with zeros, without weights
    that would only see padding.
    """
    dilation = architecture.dilation
    half = [min(architecture.kernel // 2, (side - 1) // dilation) for side in size]
    kernel = tuple(2 * each + 1 for each in half)
    padding = tuple(dilation * each for each in half)
    kind: Callable[..., nn.Conv1d | nn.Conv2d] = (
        nn.Conv1d if len(size) == 1 else nn.Conv2d
    )
    made = kind(
        width,
        out,
        kernel,
        stride,
        padding,
        dilation,
        bias=False,
        padding_mode=architecture.padding,
    )
    nn.init.kaiming_normal_(made.weight, nonlinearity="relu")
    return (
        _Standardised(made)
        if architecture.standardised and made.weight[0].numel() > 1
        else made
    )


class _Standardised(nn.Module):
    """Convolution whose weights are standardised; see `Architecture.standardised`."""

    def __init__(self, convolution: nn.Conv1d | nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution
        self.norm = nn.Parameter(
            torch.full((convolution.out_channels, 1), math.sqrt(2))
        )

    def forward(self, x: Tensor) -> Tensor:
        flat = self.convolution.weight.flatten(1)
        made = self.norm * F.normalize(flat - flat.mean(dim=1, keepdim=True), dim=1)
        own = self.convolution
        convolve = F.conv1d if isinstance(self.convolution, nn.Conv1d) else F.conv2d
        convolved: Tensor = convolve(
            x,
            made.reshape(own.weight.shape),
            None,
            own.stride,
            own.padding,
            own.dilation,
        )
        return convolved
