"""Residual convolutional networks without pretraining, as a `CrossModalModel`.

The networks are wide residual networks (Zagoruyko and Komodakis, 2016,
arXiv:1605.07146) for images, their 1-D counterpart for series, and U-Nets (Ronneberger
et al., 2015, arXiv:1505.04597) of the same blocks for fields. Group norm (16 channels a
group) replaces batch norm: a body keeps no state between calls, and gradients must not
depend on the size of micro-batches. Tensor suffixes as in :mod:`orca_ray.models.body`.
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
"""Number of stages of residual and of plain networks."""
_GROUP_WIDTH = 16
"""Number of channels that group norm normalises together."""
_SHIFTS = ((1, 1), (0, 1), (2, 1), (1, 0), (1, 2))
"""Top left corners of views in a grid of tokens that is padded by one token: (1, 1) is
the grid itself.
"""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Shape of a convolutional network.

    Kernel and dilation hold for all convolutions but 1 x 1 shortcuts.
    """

    kernel: int
    """Side of the kernels, an odd number."""
    dilation: int
    """Distance between neighbouring points that a kernel sees."""
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
    """Name in `torch.nn.functional` of a residual block's activation."""
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
            if x.shape[1] > 1:
                x = x.contiguous(memory_format=torch.channels_last)
            x = self.projection(x).contiguous(memory_format=torch.channels_last)
        else:
            x = self.projection(x)
        tokens: Tensor = x.flatten(2).transpose(1, 2)
        return tokens


class _StagesBody(Body):
    """Base of bodies that are stages of convolutions, [B, T, D] -> [B, S, F]."""

    def __init__(
        self,
        layout: Layout,
        blocks: list[nn.Module],
        norm: nn.Module,
        width: int,
        feature_layout: Layout,
    ) -> None:
        """Join ``blocks``, which map tokens of ``layout`` to features of ``width``."""
        super().__init__()
        self.modality = "sequence" if len(layout) == 1 else "image"
        self.feature_width = width
        self.blocks = nn.Sequential(*blocks)
        self.norm = norm
        self._layout = layout
        self._feature_layout = feature_layout

    def forward(
        self, tokens_BTD: Tensor, grid: tuple[int, int] | None = None
    ) -> Tensor:
        """Return the features [B, S, F] of tokens.

        ``grid`` is not used: the constructor got the layout.
        """
        num = tokens_BTD.shape[0]
        x = self.blocks(tokens_BTD.transpose(1, 2).reshape(num, -1, *self._layout))
        return F.relu(self.norm(x)).flatten(2).transpose(1, 2)

    def feature_layout(self, layout: Layout) -> Layout:
        """Return the layout of the features.

        ``layout`` is not used: the constructor got it.
        """
        return self._feature_layout


class ResidualBody(_StagesBody):
    """Body of a residual network: stages of residual blocks, [B, T, D] -> [B, S, F].

    With ``shrink``, each stage after the first has half the resolution and twice the
    channels of the one before it.
    """

    def __init__(
        self, layout: Layout, architecture: Architecture, *, shrink: bool
    ) -> None:
        width = architecture.width
        feature_layout = layout
        blocks: list[nn.Module] = []
        for number in range(NUM_STAGES * architecture.blocks):
            starts_later_stage = number > 0 and number % architecture.blocks == 0
            stride = 2 if shrink and starts_later_stage else 1
            blocks.append(
                _Block(width, width * stride, feature_layout, architecture, stride)
            )
            feature_layout = _strided(feature_layout, stride)
            width = width * stride
        norm = _norm(width, feature_layout)
        super().__init__(layout, blocks, norm, width, feature_layout)


class PlainBody(_StagesBody):
    """Body of plain convolutions on images, [B, T, D] -> [B, S, F].

    After Simonyan and Zisserman, 2015, arXiv:1409.1556. A stage has two convolutions
    for each block; the embedder is the first convolution of the first stage. Norm and
    ReLU follow each convolution, and dropout follows the second one of a block. A stage
    ends with a max pool over the sides that have at least two positions. Each stage has
    twice the channels of the one before it.
    """

    views: Tensor

    def __init__(self, layout: Layout, architecture: Architecture) -> None:
        """Make a body for tokens of ``layout`` [H, W]."""
        width = architecture.width
        feature_layout = layout
        layers: list[nn.Module] = [_norm(width, layout), nn.ReLU()]
        for stage in range(NUM_STAGES):
            layers += _plain_stage(stage, width, feature_layout, architecture)
            if stage > 0:
                width *= 2
            if max(feature_layout) >= 2:
                pool = tuple(min(2, side) for side in feature_layout)
                layers.append(nn.MaxPool2d(pool))
                feature_layout = tuple(
                    side // pooled
                    for side, pooled in zip(feature_layout, pool, strict=True)
                )
        super().__init__(layout, layers, nn.Identity(), width, feature_layout)
        self.num_views = architecture.views
        self.register_buffer(
            "views", _shifted_tokens(layout, architecture.views), persistent=False
        )

    def forward(
        self, tokens_BTD: Tensor, grid: tuple[int, int] | None = None
    ) -> Tensor:
        """Return the features [B, S, F] of tokens.

        Unless training, return those of all views, [B, views * S, F], because max pools
        make features depend on where an image lies (Zhang, 2019, arXiv:1904.11486). The
        head takes their mean. ``grid`` is not used: the constructor got the layout.
        """
        if self.training or self.one_view or self.num_views == 1:
            return super().forward(tokens_BTD)
        view_features = super().forward
        features = [view_features(tokens_BTD[:, view_T]) for view_T in self.views]
        return torch.cat(features, dim=1)


def _plain_stage(
    stage: int, width: int, layout: Layout, architecture: Architecture
) -> list[nn.Module]:
    """Return the layers of a stage of `PlainBody`, without its pool.

    ``width`` is the number of input channels, which all stages but the first double.
    The first convolution of the first stage is the embedder.
    """
    layers: list[nn.Module] = []
    first = 1 if stage == 0 else 0
    for number in range(first, 2 * architecture.blocks):
        starts_later_stage = stage > 0 and number == 0
        out = 2 * width if starts_later_stage else width
        layers += [
            _convolution(width, out, layout, architecture),
            _norm(out, layout),
            nn.ReLU(),
        ]
        if architecture.dropout and number % 2:
            layers.append(nn.Dropout(architecture.dropout))
        width = out
    return layers


def _shifted_tokens(layout: Layout, num_views: int) -> Tensor:
    """Return the indices [views, T] of the tokens in shifted copies of an image."""
    rows, columns = layout
    tokens = F.pad(
        torch.arange(float(rows * columns)).reshape(1, rows, columns),
        (1, 1, 1, 1),  # one token on each side, as `_SHIFTS` expects
        mode="replicate",
    )
    views = [
        tokens[0, top : top + rows, left : left + columns]
        for top, left in _SHIFTS[:num_views]
    ]
    return torch.stack(views).long().flatten(1)


class UNetBody(Body):
    """Body of a U-Net, [B, T, D] -> [B, T, D].

    Each level has half the resolution and twice the channels of the level above. On the
    way back, a level's output is repeated to the resolution of the level above, and
    joined with the features of that level.
    """

    def __init__(self, layout: Layout, architecture: Architecture, levels: int) -> None:
        """Make a body for tokens of ``layout``, whose sides are at least 2.

        It has at most ``levels`` levels below the layout.
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
        first = _Block(widths[0], widths[0], layout, architecture, stride=1)
        levels_below = list(zip(widths, widths[1:], layouts, strict=False))
        self.down = nn.ModuleList([first])
        for high, low, size in levels_below:
            self.down.append(_Block(high, low, size, architecture, stride=2))
        self.up = nn.ModuleList()
        for high, low, size in levels_below:
            self.up.append(_Block(high + low, high, size, architecture, stride=1))
        self.norm = _norm(widths[0], layout)
        self._activation = getattr(F, architecture.activation)

    def forward(
        self, tokens_BTD: Tensor, grid: tuple[int, int] | None = None
    ) -> Tensor:
        """Return the features [B, T, D] of the points.

        ``grid`` is not used: the constructor got the layout.
        """
        x = tokens_BTD.transpose(1, 2).reshape(tokens_BTD.shape[0], -1, *self._layout)
        levels = []
        for block in self.down:
            x = block(x)
            levels.append(x)
        for block, above in zip(reversed(self.up), levels[-2::-1], strict=True):
            repeated = F.interpolate(x, size=above.shape[2:])
            x = block(torch.cat([above, repeated], dim=1))
        features: Tensor = self._activation(self.norm(x)).flatten(2).transpose(1, 2)
        return features


class _Block(nn.Module):
    """Pre-activation residual block: twice norm, activation and convolution.

    Dropout precedes the second convolution.
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
        self.shortcut = None
        if width != out:
            self.shortcut = pointwise(width, out, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = self._activation(self.norms[0](x))
        shortcut = x if self.shortcut is None else self.shortcut(active)
        inner = self._activation(self.norms[1](self.convolutions[0](active)))
        residual: Tensor = self.convolutions[1](self.dropout(inner))
        return shortcut + residual


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
        shrink = target.kind != "dense"
        body: _StagesBody
        if architecture.plain:
            assert shrink, "features of plain stages have not the resolution of fields"
            body = PlainBody(embedder.layout, architecture)
        else:
            body = ResidualBody(embedder.layout, architecture, shrink=shrink)
        layout = body.feature_layout(embedder.layout)
        patch = None if table else stride
        head = build_head(body.feature_width, layout, target, input_shape[1:], patch)
    return CrossModalModel(embedder, body, head, statistics)


def _strided(size: Layout, stride: int) -> Layout:
    return tuple(math.ceil(side / stride) for side in size)


def _norm(width: int, size: Layout) -> nn.GroupNorm:
    """Return a group norm for inputs of ``width`` channels and ``size``.

    Groups have `_GROUP_WIDTH` channels. There is one group if ``width`` is no multiple
    of it, or if inputs have a single position: so few numbers have no good statistics.
    """
    has_one_group = width % _GROUP_WIDTH != 0 or math.prod(size) == 1
    return nn.GroupNorm(1 if has_one_group else width // _GROUP_WIDTH, width)


def _convolution(
    width: int, out: int, size: Layout, architecture: Architecture, stride: int = 1
) -> nn.Module:
    """Return a padded convolution of inputs of ``size``.

    It has no weights that would only see padding.
    """
    dilation = architecture.dilation
    reaches = [min(architecture.kernel // 2, (side - 1) // dilation) for side in size]
    kind: Callable[..., nn.Conv1d | nn.Conv2d] = (
        nn.Conv1d if len(size) == 1 else nn.Conv2d
    )
    convolution = kind(
        width,
        out,
        kernel_size=tuple(2 * reach + 1 for reach in reaches),
        stride=stride,
        padding=tuple(dilation * reach for reach in reaches),
        dilation=dilation,
        bias=False,
        padding_mode=architecture.padding,
    )
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    if architecture.standardised and convolution.weight[0].numel() > 1:
        return _Standardised(convolution)
    return convolution


class _Standardised(nn.Module):
    """Convolution whose weights are standardised; see `Architecture.standardised`."""

    def __init__(self, convolution: nn.Conv1d | nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution
        self.norm = nn.Parameter(
            torch.full((convolution.out_channels, 1), math.sqrt(2))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of ``x`` by standardised weights."""
        layer = self.convolution
        flat = layer.weight.flatten(1)
        centred = flat - flat.mean(dim=1, keepdim=True)
        weight = (self.norm * F.normalize(centred, dim=1)).reshape(layer.weight.shape)
        convolve = F.conv1d if isinstance(layer, nn.Conv1d) else F.conv2d
        convolved: Tensor = convolve(
            x, weight, None, layer.stride, layer.padding, layer.dilation
        )
        return convolved
