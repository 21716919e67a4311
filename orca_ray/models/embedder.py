"""Embedders, which map a task's raw input to tokens.

Tensor suffixes as in :mod:`orca_ray.models.body`; L is the length of a 1-D input.
"""

import copy
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from orca_ray.data.rows import ModalityName
from orca_ray.models.body import ImageStem, Layout, Stem, TextStem
from orca_ray.models.modality import EmbedderConfig, patch_side


class Embedder(nn.Module):
    """Base of modules that map standardised inputs to tokens [B, T, D].

    Inputs are [B, C, L] or [B, C, H, W].
    """

    layout: Layout
    """Layout of the tokens, not counting prefix tokens."""
    patch: int | None = None
    """Side of the patches that the padded input is cut into; None: the input is resized
    instead of padded.
    """
    image_size: int | None = None
    """Side in pixels that the input is resized to; None: the input is padded instead of
    resized.
    """


class PatchEmbedder(Embedder):
    """Base of embedders for a pretrained body; a token is a patch of the input.

    The embedder has its own trainable copies of the body's position embeddings and
    norm; with the initialisation ``random``, the norm is new. ``dropout`` has an effect
    with the initialisation ``body`` only, as in ORCA's code.
    """

    def __init__(
        self, layout: Layout, stem: Stem, config: EmbedderConfig, dropout: float
    ) -> None:
        super().__init__()
        self.layout = layout
        positions = stem.positions(layout)
        self.positions = (
            None if positions is None else nn.Parameter(positions.detach().clone())
        )
        self.norm = copy.deepcopy(stem.norm).requires_grad_(True)
        if config.initialisation == "random":
            for name, parameter in self.norm.named_parameters():
                nn.init.constant_(parameter, 1.0 if name == "weight" else 0.0)
        self.dropout = nn.Dropout(dropout if config.initialisation == "body" else 0.0)


class SequenceEmbedder(PatchEmbedder):
    """Embedder for 1-D bodies: each patch of a series or image becomes a token.

    A series is cut as `EmbedderConfig.patching` says, an image into square patches in
    row-major order. The right and lower edges are padded with zeros, which are the mean
    of a standardised input. Position embeddings are added before the norm, as in the
    body; with the initialisations ``paper`` and ``random`` after the norm, as in ORCA's
    code. Position embeddings include that of the body's first segment, which ORCA's
    code omits; in RoBERTa it is zero.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        stem: TextStem,
        config: EmbedderConfig,
        dropout: float,
        seed: int,
    ) -> None:
        size = input_shape[1:]
        patch = patch_side(
            size, config.sequence_length, divides=config.patching == "divide"
        )
        super().__init__(
            tuple(math.ceil(side / patch) for side in size), stem, config, dropout
        )
        self.patch = patch
        convolution = nn.Conv1d if len(size) == 1 else nn.Conv2d
        self.projection = convolution(input_shape[0], stem.width, patch, stride=patch)
        _WORD_KERNELS[config.initialisation](self.projection, stem, seed)
        self._positions_first = config.initialisation == "body"
        # In the order of F.pad: last axis first, [before, after] for each axis.
        self._padding: list[int] = []
        for side, count in zip(size[::-1], self.layout[::-1], strict=True):
            self._padding += [0, count * patch - side]

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens [B, T, D] of inputs [B, C, L] or [B, C, H, W]."""
        if any(self._padding):
            x = F.pad(x, self._padding)
        patches = _project(self.projection, x)
        positions = 0 if self.positions is None else self.positions
        if self._positions_first:
            tokens = self.norm(patches + positions)
        else:
            tokens = self.norm(patches) + positions
        embedded: Tensor = self.dropout(tokens)
        return embedded


class ImageEmbedder(PatchEmbedder):
    """Embedder for 2-D bodies: each patch of the resized input becomes a token.

    It embeds and normalises patches, adds positions and prepends the prefix. A 1-D
    input is first folded row by row into a nearly square image, whose last row is
    padded with zeros. Positions and prefix are copies of the body's, whatever the
    initialisation; image bodies of ORCA's code have neither.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        stem: ImageStem,
        config: EmbedderConfig,
        dropout: float,
        seed: int,
    ) -> None:
        side = max(1, round(config.image_size / stem.patch_size))
        super().__init__((side, side), stem, config, dropout)
        self.image_size: int = side * stem.patch_size
        self.projection = nn.Conv2d(
            input_shape[0], stem.width, stem.patch_size, stride=stem.patch_size
        )
        _PATCH_KERNELS[config.initialisation](self.projection, stem, seed)
        self.prefix = (
            nn.Parameter(stem.prefix.detach().clone()) if len(stem.prefix) else None
        )
        self._fold = fold_shape(input_shape[1]) if len(input_shape) == 2 else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens [B, P + gh * gw, D]: P prefix tokens, then patches.

        Inputs are [B, C, L] or [B, C, H, W].
        """
        if self._fold is not None:
            padded = F.pad(x, (0, math.prod(self._fold) - x.shape[2]))
            x = padded.reshape(*x.shape[:2], *self._fold)
        size = (self.image_size, self.image_size)
        if x.shape[2:] != size:
            x = F.interpolate(x, size=size, mode="bilinear", antialias=True)
        tokens = self.norm(_project(self.projection, x))
        if self.positions is not None:
            tokens = tokens + self.positions
        if self.prefix is not None:
            prefix = self.prefix.expand(x.shape[0], -1, -1).to(tokens.dtype)
            tokens = torch.cat((prefix, tokens), dim=1)
        embedded: Tensor = self.dropout(tokens)
        return embedded


class PointEmbedder(Embedder):
    """Embedder without parameters: a token is the channels' values at a point.

    It serves networks that take inputs as they are.
    """

    def __init__(self, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.layout = tuple(input_shape[1:])

    def forward(self, x: Tensor) -> Tensor:
        """Return the points [B, T, C] of inputs [B, C, L] or [B, C, H, W]."""
        return x.flatten(2).transpose(1, 2)


EMBEDDERS: Mapping[ModalityName, Callable[..., PatchEmbedder]] = {
    "sequence": SequenceEmbedder,
    "image": ImageEmbedder,
}
"""Class of each modality's embedder, called with input shape, stem, `EmbedderConfig`,
dropout and seed.
"""


def _project(projection: nn.Conv1d | nn.Conv2d, x: Tensor) -> Tensor:
    """Return the tokens [B, T, D] that ``projection`` makes of patches of ``x``.

    The stride of ``projection`` is its kernel size, and the sides of ``x`` are
    multiples of it. One matrix product avoids the copy that a convolution needs.
    """
    patch = projection.kernel_size
    num, channels, *size = x.shape
    if len(size) == 1:
        patches = x.reshape(num, channels, -1, patch[0]).transpose(1, 2)
    else:
        rows = size[0] // patch[0]
        columns = size[1] // patch[1]
        cut = x.reshape(num, channels, rows, patch[0], columns, patch[1])
        patches = cut.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    return F.linear(patches.flatten(2), projection.weight.flatten(1), projection.bias)


def fold_shape(length: int) -> tuple[int, int]:
    """Return rows and columns of the image that ``length`` points are folded into.

    The image is nearly square.
    """
    rows = math.isqrt(length)
    return rows, math.ceil(length / rows)


@torch.no_grad()
def _copy_words(projection: nn.Conv1d | nn.Conv2d, stem: TextStem, seed: int) -> None:
    """Initialise the projection with statistics of the word embeddings.

    The kernel gets differences of random word embeddings, the bias the mean word
    embedding. For a patch of n values, each kernel column is s (e_i - e_j) / sqrt(2 n),
    with embeddings e of random words i, j. For white inputs of unit variance, tokens
    then have the mean of the body's word embeddings and s² times their covariance. For
    fully correlated inputs, they have the same mean and on average the same RMS. The
    scale s <= 1, `TextStem.token_rms` divided by the RMS of the word embeddings, keeps
    tokens from dominating position embeddings.
    """
    weight = projection.weight
    num_inputs = weight[0].numel()
    words = stem.word_embeddings
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.randint(len(words), (2, num_inputs), generator=generator)
    scale = stem.token_rms() / float(words.square().mean().sqrt())
    differences = words[pairs[0]] - words[pairs[1]]
    columns = differences * (scale / math.sqrt(2 * num_inputs))
    _set_weights(projection, columns.T.reshape(weight.shape), words.mean(dim=0))


@torch.no_grad()
def _copy_kernel(projection: nn.Conv1d | nn.Conv2d, stem: ImageStem, seed: int) -> None:
    """Distribute the pretrained RGB patch kernel over the input's channels.

    Channel c of C gets the part of the colour axis [0, 3] from 3c/C to 3(c+1)/C. So
    three channels get the pretrained kernel, and one channel gets its sum over colours;
    up to three equal channels are embedded as the body embeds grey. More than three are
    taken to be independent: the factor sqrt(C / 3) gives tokens the RMS that three
    independent channels have, for any C. Tokens of equal channels are larger than those
    of grey by this factor.
    """
    channels = projection.weight.shape[1]
    colours = stem.kernel.shape[1]
    edges = torch.arange(channels + 1) * (colours / channels)
    upper = torch.minimum(edges[1:, None], torch.arange(1, colours + 1))
    lower = torch.maximum(edges[:-1, None], torch.arange(colours))
    shares = (upper - lower).clamp_min(0)
    shares *= max(1.0, math.sqrt(channels / colours))
    kernel = torch.einsum("ck,dkij->dcij", shares.to(stem.kernel.dtype), stem.kernel)
    _set_weights(projection, kernel, stem.bias)


def _repeat_kernel(
    projection: nn.Conv1d | nn.Conv2d, stem: ImageStem, seed: int
) -> None:
    """Copy the pretrained patch kernel, repeated over channels, as in ORCA's code.

    Input channel c gets the kernel of colour c modulo 3.
    """
    channels = torch.arange(projection.weight.shape[1])
    kernel = stem.kernel[:, channels % stem.kernel.shape[1]]
    _set_weights(projection, kernel, stem.bias)


def _xavier(projection: nn.Conv1d | nn.Conv2d, stem: Stem, seed: int) -> None:
    """Draw the kernel from Xavier's uniform distribution, as in ORCA's code.

    The gain is sqrt(2); the bias becomes 0.
    """
    generator = torch.Generator().manual_seed(seed)
    weight = nn.init.xavier_uniform_(
        torch.empty_like(projection.weight), math.sqrt(2), generator
    )
    _set_weights(projection, weight, torch.zeros(len(weight)))


def _truncated_normal(projection: nn.Conv1d | nn.Conv2d, stem: Stem, seed: int) -> None:
    """Draw the kernel from a normal distribution, as in ORCA's code.

    The deviation is 0.02; the bias becomes 0.
    """
    generator = torch.Generator().manual_seed(seed)
    weight = nn.init.trunc_normal_(
        torch.empty_like(projection.weight), std=0.02, generator=generator
    )
    _set_weights(projection, weight, torch.zeros(len(weight)))


@torch.no_grad()
def _set_weights(
    projection: nn.Conv1d | nn.Conv2d, weight: Tensor, bias: Tensor
) -> None:
    """Overwrite the weight and the bias of ``projection``."""
    assert projection.bias is not None
    projection.weight.copy_(weight)
    projection.bias.copy_(bias)


_WORD_KERNELS = {"body": _copy_words, "paper": _xavier, "random": _xavier}
"""Functions that initialise a `SequenceEmbedder`'s projection, by initialisation."""
_PATCH_KERNELS = {
    "body": _copy_kernel,
    "paper": _repeat_kernel,
    "random": _truncated_normal,
}
"""Functions that initialise an `ImageEmbedder`'s projection, by initialisation."""
