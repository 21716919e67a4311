"""Bodies (pretrained transformers without embedding and head) and their stems.

A stem is the embedding of a pretrained transformer. Tensor suffixes: B batch, T input
tokens, S output features, D token width, F feature width, C channels, H and W sides. A
*layout* is the spatial arrangement of tokens: ``(T,)`` for a sequence, ``(gh, gw)`` for
a grid in row-major order.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from orca_ray.data.rows import ModalityName
from orca_ray.errors import UserError

Layout = tuple[int, ...]
Pooling = Literal["mean", "last"]


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Seed torch's generators for the block, and then restore their state.

    The generators are that of the CPU, and that of ``device`` if it is a GPU.
    """
    devices: list[int] = []
    if device is not None and device.type == "cuda":
        index = device.index
        devices = [torch.cuda.current_device() if index is None else index]
    with torch.random.fork_rng(devices=devices):
        if devices:
            torch.manual_seed(seed)
        else:
            torch.default_generator.manual_seed(seed)
        yield


class Body(nn.Module, ABC):
    """Base of modules that map embedded tokens to features, such as transformers.

    A body consists of its layers and its final norm. The embedder has already added the
    position embeddings and applied the embedding norm, so a body must not apply them
    again. A body keeps no state between calls.
    """

    modality: ModalityName
    feature_width: int
    """F, the width of output features."""
    num_prefix_tokens: int = 0
    """Number of leading tokens, such as CLS and registers, that are not part of the
    layout.
    """
    pooling: Pooling = "mean"
    """Feature of a whole input: the mean of its features, or the last feature if no
    other one depends on all tokens.
    """
    num_views: int = 1
    """Number of views of an input whose features are computed in evaluation mode,
    unless `one_view` is set.
    """
    one_view: bool = False
    """Whether only the features of the input itself are computed even in evaluation
    mode. It is set while a network in training is validated.
    """

    @abstractmethod
    def forward(
        self, tokens_BTD: Tensor, grid: tuple[int, int] | None = None
    ) -> Tensor:
        """Return the features [B, S, F] of tokens.

        ``grid``: sides (gh, gw) of the tokens' grid; only Swin uses it.
        """

    def feature_layout(self, layout: Layout) -> Layout:
        """Return the layout of the features for tokens of ``layout``.

        Neither layout counts prefix tokens.
        """
        return layout

    def fit_grid(self, grid: tuple[int, int]) -> None:
        """Adapt parameters that depend on the grid, such as Swin's windows.

        It is called once, before training.
        """


class EncoderBody(Body):
    """Body of a Hugging Face encoder without embedding, [B, T, D] -> [B, T, F].

    `GivenEmbeddings` replaces the embedding module. There is no attention mask: all
    inputs of a task have the same number of tokens, and padding is treated as input.
    """

    def __init__(
        self, encoder: Any, modality: ModalityName, num_prefix_tokens: int = 0
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.modality = modality
        self.feature_width = int(encoder.config.hidden_size)
        self.num_prefix_tokens = num_prefix_tokens

    def forward(
        self, tokens_BTD: Tensor, grid: tuple[int, int] | None = None
    ) -> Tensor:
        """Return the encoder's last hidden state [B, T, F]; ``grid`` is not used."""
        argument = "inputs_embeds" if self.modality == "sequence" else "pixel_values"
        features: Tensor = self.encoder(**{argument: tokens_BTD}).last_hidden_state
        return features


def set_dropout(module: nn.Module, probability: float) -> None:
    """Set the probability of all dropout in ``module``, attention included."""
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = probability
        # Attention modules of the Hugging Face library store the probability as a
        # number and pass it to SDPA.
        for name in ("attention_dropout", "dropout_prob"):
            if isinstance(getattr(part, name, None), float | int):
                setattr(part, name, probability)


def has_stochastic_depth(module: nn.Module) -> bool:
    """Return whether training skips layers of ``module`` at random."""
    rates = (getattr(part, "drop_prob", None) for part in module.modules())
    return any(isinstance(rate, float | int) and rate > 0 for rate in rates)


def switch_stochastic_depth_off(module: nn.Module) -> None:
    """Set the probability of skipping a layer in training to 0, for all layers."""
    for part in module.modules():
        if isinstance(getattr(part, "drop_prob", None), float | int):
            setattr(part, "drop_prob", 0.0)  # noqa: B010 (mypy assumes that attributes of a module are modules)


class Stem(nn.Module, ABC):
    """Base of modules that embed inputs as a pretrained model does.

    Do not change their shared, frozen parameters.
    """

    width: int
    norm: nn.Module
    """Norm of embedded tokens; the identity if the pretrained model has none."""

    @abstractmethod
    def positions(self, layout: Layout) -> Tensor | None:
        """Return position embeddings [T, D] for a ``layout`` of T tokens.

        None if the body uses relative positions.
        """

    @abstractmethod
    def token_rms(self) -> float:
        """Return the root mean square that an embedder's tokens should have.

        Positions and norm are applied to the tokens later.
        """

    @abstractmethod
    def embed_raw(self, inputs: Tensor) -> Tensor:
        """Return the tokens [B, T, D] of raw inputs.

        Inputs are token ids [B, T], or images [B, 3, H, W] with values from 0 to 255.
        """


class GivenEmbeddings(nn.Module):
    """Module that replaces a Hugging Face model's embedding module.

    It returns the tokens, which are already embedded, unchanged.
    """

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the argument ``inputs_embeds``, else the first tensor."""
        embedded = kwargs.get("inputs_embeds")
        candidates = (*args, *kwargs.values()) if embedded is None else (embedded,)
        return next(value for value in candidates if isinstance(value, Tensor))


def repeated_layers(module: nn.Module) -> list[nn.Module]:
    """Return the layers of a transformer.

    They are the members of each innermost module list whose members share a class and
    have parts.
    """
    layers: list[nn.Module] = []
    for part in module.modules():
        members = list(part.children())
        if not isinstance(part, nn.ModuleList | nn.Sequential) or not members:
            continue
        has_one_class = len({type(member) for member in members}) == 1
        have_parts = all(list(member.children()) for member in members)
        if not has_one_class or not have_parts:
            continue
        if not any(repeated_layers(member) for member in members):
            layers += members
    return layers


def checkpoint_layers(module: nn.Module) -> int:
    """Make the repeated layers recompute their activations in the backward pass.

    Returns the number of layers. Gradients do not change: random states are stored, so
    dropout masks are the same. Evaluation is not affected.
    """
    layers = repeated_layers(module)
    for layer in layers:
        if "forward" not in layer.__dict__:  # otherwise it is already wrapped
            layer.forward = partial(_recomputed, layer, layer.forward)
    return len(layers)


def _recomputed(
    layer: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    if layer.training and torch.is_grad_enabled():
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)
    return forward(*args, **kwargs)


class TextStem(Stem):
    """Stem of a text encoder: word, position and segment embeddings, and norm.

    The segment is the first one. The norm is applied to the sum of the embeddings.
    """

    def __init__(
        self, word_embeddings: Tensor, places: Tensor | None, norm: nn.Module
    ) -> None:
        """Embed words by ``word_embeddings`` [V, D].

        ``places`` [P, D]: position plus segment embeddings; None: relative positions.
        """
        super().__init__()
        self.word_embeddings = nn.Parameter(word_embeddings, requires_grad=False)
        self.places = (
            None if places is None else nn.Parameter(places, requires_grad=False)
        )
        self.norm = norm.requires_grad_(False)
        self.width = word_embeddings.shape[1]

    def positions(self, layout: Layout) -> Tensor | None:
        """Return position plus segment embeddings [T, D].

        They are interpolated if the body has fewer than T. None for relative positions.
        """
        if self.places is None:
            return None
        num_tokens = math.prod(layout)
        if num_tokens <= self.places.shape[0]:
            return self.places[:num_tokens]
        return F.interpolate(
            self.places.T[None], size=num_tokens, mode="linear", align_corners=True
        )[0].T

    def embed_raw(self, inputs: Tensor) -> Tensor:
        """Return the embeddings [B, T, D] of token ids [B, T].

        They are computed as by the pretrained encoder.
        """
        tokens = F.embedding(inputs, self.word_embeddings)
        places = self.positions((inputs.shape[1],))
        embedded: Tensor = self.norm(tokens if places is None else tokens + places)
        return embedded

    def token_rms(self) -> float:
        """Return the RMS of the word embeddings, at most that of the positions.

        Signals need stronger positions than text: where a value occurs matters as much
        as the value. A linear probe on frozen minilm-l6 (four layers, digits as 64
        tokens, one seed) has error 0.275 with the words' RMS and 0.228 with half that
        RMS. After fine-tuning (mfeat-fourier, three seeds), seeds differ more than
        these two choices.
        """
        words = float(self.word_embeddings.square().mean().sqrt())
        if self.places is None:
            return words
        return min(words, float(self.places.square().mean().sqrt()))


class ImageStem(Stem):
    """Module that embeds images as its body does.

    It consists of patch convolution, norm, position embeddings and prefix tokens.
    """

    image_mean: Tensor
    """Mean of each colour in pretraining, [3, 1, 1], with pixel values scaled to 0 … 1.
    """
    image_std: Tensor
    """Standard deviation of each colour, [3, 1, 1]."""

    def __init__(
        self,
        projection: nn.Conv2d,
        norm: nn.Module,
        prefix: Tensor,
        places: Tensor | None,
        statistics: tuple[tuple[float, ...], tuple[float, ...]],
        antialias: bool = False,
    ) -> None:
        """Take over the patch convolution ``projection``.

        ``prefix`` [P, D]: prefix tokens (CLS, registers) plus their positions.
        ``places`` [gh, gw, D]: position embeddings of the grid of patches; None:
        relative positions. ``statistics``: mean and standard deviation of each colour
        in pretraining. ``antialias``: whether the body's own code filters when it
        shrinks ``places``. Raises UserError unless patches are square and adjacent.
        """
        super().__init__()
        kernel_height, kernel_width = (int(size) for size in projection.kernel_size)
        if kernel_height != kernel_width or projection.stride != projection.kernel_size:
            raise UserError(
                f"patches must be square and not overlap, this body's are {projection}"
            )
        self.kernel = nn.Parameter(projection.weight.detach(), requires_grad=False)
        bias = torch.zeros(projection.out_channels)
        if projection.bias is not None:
            bias = projection.bias.detach()
        self.bias = nn.Parameter(bias, requires_grad=False)
        self.norm = norm.requires_grad_(False)
        self.prefix = nn.Parameter(prefix.detach(), requires_grad=False)
        self.places = None
        if places is not None:
            self.places = nn.Parameter(places.detach(), requires_grad=False)
        self.patch_size = kernel_height
        self.width = projection.out_channels
        mean, std = (
            torch.tensor(values, dtype=torch.float32).view(-1, 1, 1)
            for values in statistics
        )
        self.register_buffer("image_mean", mean)
        self.register_buffer("image_std", std)
        self._antialias = antialias

    def positions(self, layout: Layout) -> Tensor | None:
        """Return interpolated position embeddings [gh * gw, D] of a grid.

        ``layout`` is the grid. None for relative positions.
        """
        if self.places is None:
            return None
        if tuple(layout) == tuple(self.places.shape[:2]):
            return self.places.flatten(0, 1)
        table = self.places.permute(2, 0, 1)[None]
        resized = F.interpolate(
            table, size=tuple(layout), mode="bicubic", antialias=self._antialias
        )
        return resized[0].flatten(1).T

    def embed_images(self, pixels_BCHW: Tensor) -> Tensor:
        """Return the tokens [B, T, D] of normalised RGB images [B, 3, H, W].

        T includes prefix tokens.
        """
        patches = F.conv2d(pixels_BCHW, self.kernel, self.bias, stride=self.patch_size)
        tokens = self.norm(patches.flatten(2).transpose(1, 2))
        places = self.positions((patches.shape[2], patches.shape[3]))
        tokens = tokens if places is None else tokens + places
        prefix = self.prefix.expand(tokens.shape[0], -1, -1)
        return torch.cat((prefix, tokens), dim=1)

    def embed_raw(self, inputs: Tensor) -> Tensor:
        """Return the tokens [B, T, D] of RGB images [B, 3, H, W].

        The images have values from 0 to 255, and are normalised first.
        """
        pixels = inputs.float() / 255
        return self.embed_images((pixels - self.image_mean) / self.image_std)

    def token_rms(self) -> float:
        """Return the RMS of patch tokens for images of `natural_noise`.

        Norm and positions are not applied. White noise is unsuitable: for vit-s14 it
        gives 0.28, photographs give 0.14, and this noise gives 0.15.
        """
        noise = natural_noise(num_images=8, size=8 * self.patch_size).expand(
            -1, 3, -1, -1
        )
        patches = F.conv2d(noise, self.kernel, self.bias, self.patch_size)
        return float(patches.square().mean().sqrt())


def prefix_and_places(
    tokens: Sequence[Tensor | None],
    table: Tensor | None,
    grid: Sequence[int],
    projection: nn.Conv2d,
) -> tuple[Tensor, Tensor | None]:
    """Return prefix tokens [P, D] and the position embeddings of the grid.

    The positions of prefix tokens are added to them. The position embeddings [gh, gw,
    D] are None if ``table`` is. ``tokens``: parameters of prefix tokens (CLS,
    registers), each [1, n, D] or None. ``table``: position embeddings [1, N, D] of the
    first prefix tokens, if these have any, then of the ``grid``; None: positions are
    relative.
    """
    width = projection.out_channels
    present_tokens = [token.detach()[0] for token in tokens if token is not None]
    prefix = torch.cat(present_tokens) if present_tokens else torch.zeros(0, width)
    if table is None:
        return prefix, None
    rows, columns = grid
    table_ND = table.detach()[0]
    # Registers have no positions; CLS often has one.
    num_placed = table_ND.shape[0] - rows * columns
    placed = prefix[:num_placed] + table_ND[:num_placed]
    prefix = torch.cat((placed, prefix[num_placed:]))
    return prefix, table_ND[num_placed:].view(rows, columns, width)


def natural_noise(num_images: int, size: int) -> Tensor:
    """Return random grey images [N, 1, size, size], N = ``num_images``.

    They have mean 0 and variance 1, and a fixed seed. Their amplitude falls with
    frequency f as f^-1.2, as natural scenes do on average (Tolhurst, Tadmor and Chao
    1992).
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(num_images, 1, size, size, generator=generator)
    white = torch.fft.fft2(noise)
    squares = torch.fft.fftfreq(size).square()
    frequency = (squares[:, None] + squares[None]).sqrt()
    amplitude_divisor = frequency.clamp_min(1 / size) ** 1.2
    images: Tensor = torch.fft.ifft2(white / amplitude_divisor).real
    return (images - images.mean()) / images.std()
