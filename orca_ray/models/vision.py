"""Bodies for images: Hugging Face ViT, DeiT, DINOv2 (with or without registers) and Swin."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from orca_ray.errors import UserError
from orca_ray.models.body import Body, GivenEmbeddings, Layout, Stem

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class ImageStem(Stem):
    """Patch embedding, the norm after it, prefix tokens (CLS, registers) and the grid of positions."""

    def __init__(
        self,
        projection: nn.Conv2d,
        norm: nn.Module,
        prefix: Tensor,
        places: Tensor | None,
        statistics: tuple[tuple[float, ...], tuple[float, ...]],
        antialias: bool = False,
    ) -> None:
        """Take the patch convolution, the norm, ``prefix`` [P, D] with its positions added, ``places`` [gh, gw, D].

        ``statistics`` are mean and standard deviation per colour of the pixels the body was pretrained on;
        ``antialias`` says whether the body's own code smooths positions when it shrinks their grid.
        """
        super().__init__()
        kernel_height, kernel_width = (int(size) for size in projection.kernel_size)
        if kernel_height != kernel_width or projection.stride != projection.kernel_size:
            raise UserError(f"patches must be square and not overlap, this body's are {projection}")
        self.kernel = nn.Parameter(projection.weight.detach(), requires_grad=False)
        bias = projection.bias
        zeros = torch.zeros(projection.out_channels)
        self.bias = nn.Parameter(zeros if bias is None else bias.detach(), requires_grad=False)
        self.norm = norm.requires_grad_(False)
        self.prefix = nn.Parameter(prefix.detach(), requires_grad=False)
        self.places = None if places is None else nn.Parameter(places.detach(), requires_grad=False)
        self.patch_size = kernel_height
        self.width = projection.out_channels
        self.image_mean, self.image_std = statistics
        self._antialias = antialias

    def positions(self, layout: Layout) -> Tensor | None:
        """Positions of a grid ``(gh, gw)``, [gh * gw, D], bicubically interpolated as the body's own library does."""
        if self.places is None:
            return None
        if tuple(layout) == tuple(self.places.shape[:2]):
            return self.places.flatten(0, 1)
        table = self.places.permute(2, 0, 1)[None]
        resized = F.interpolate(table, size=tuple(layout), mode="bicubic", antialias=self._antialias)
        return resized[0].flatten(1).T

    def embed_images(self, pixels_BCHW: Tensor) -> Tensor:
        """Embed normalised RGB images [B, 3, H, W] as the pretrained body does, [B, T, D]; T counts the prefix."""
        patches = F.conv2d(pixels_BCHW, self.kernel, self.bias, stride=self.patch_size)
        tokens = self.norm(patches.flatten(2).transpose(1, 2))
        places = self.positions((patches.shape[2], patches.shape[3]))
        tokens = tokens if places is None else tokens + places
        return torch.cat((self.prefix.expand(tokens.shape[0], -1, -1), tokens), dim=1)

    def token_rms(self) -> float:
        """Root mean square of patch tokens, before norm and positions, over grey images with a natural spectrum.

        Pretrained kernels answer white noise twice as strongly as photographs (vit-s14: 0.28 against 0.14; here 0.15).
        """
        patches = F.conv2d(
            natural_noise(8, 8 * self.patch_size).expand(-1, 3, -1, -1), self.kernel, self.bias, self.patch_size
        )
        return float(patches.square().mean().sqrt())


def natural_noise(num_images: int, size: int) -> Tensor:
    """Grey random images [N, 1, size, size] of mean 0 and variance 1 with a natural spectrum; always the same ones.

    The amplitude falls as f^-1.2, the average over natural scenes (Tolhurst, Tadmor and Chao 1992).
    """
    generator = torch.Generator().manual_seed(0)
    white = torch.fft.fft2(torch.randn(num_images, 1, size, size, generator=generator))
    rows = torch.fft.fftfreq(size)[:, None]
    frequency = (rows.square() + torch.fft.fftfreq(size)[None].square()).sqrt()
    images: Tensor = torch.fft.ifft2(white / frequency.clamp_min(1 / size) ** 1.2).real
    standardised: Tensor = (images - images.mean()) / images.std()
    return standardised


class ViTBody(Body):
    """A plain vision transformer, [B, T, D] -> [B, T, D], prefix tokens first."""

    modality = "image"

    def __init__(self, encoder: Any, width: int, max_tokens: int | None, num_prefix_tokens: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.width = width
        self.feature_width = width
        self.max_tokens = max_tokens
        self.num_prefix_tokens = num_prefix_tokens

    def forward(self, tokens_BTD: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """Return the last hidden state after the final norm; ``grid`` is ignored."""
        features: Tensor = self.encoder(tokens_BTD).last_hidden_state
        return features


class SwinBody(Body):
    """Hierarchical Swin, [B, gh * gw, D] -> [B, S, 8 D for four stages]; each stage but the last halves the grid."""

    modality = "image"

    def __init__(self, model: Any, max_tokens: int | None) -> None:
        super().__init__()
        self.encoder = model.encoder
        self.final_norm = model.layernorm
        self.width = int(model.config.embed_dim)
        self.feature_width = int(model.num_features)
        self.max_tokens = max_tokens

    def forward(self, tokens_BTD: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """Return the last hidden state after the final norm."""
        assert grid is not None, "Swin needs the grid of its tokens"
        # always_partition: the model would otherwise overwrite its window size with the smallest grid it has seen,
        # and fail on windows smaller than its bias table; fit_grid does that part properly.
        features: Tensor = self.encoder(tokens_BTD, grid, always_partition=True).last_hidden_state
        normed: Tensor = self.final_norm(features)
        return normed

    def feature_layout(self, layout: Layout) -> Layout:
        """The grid after all patch mergings (odd sides are padded, so halves round up)."""
        halvings = len(self.encoder.layers) - 1
        return tuple(math.ceil(side / 2**halvings) for side in layout)

    def fit_grid(self, grid: tuple[int, int]) -> None:
        """Shrink windows larger than their stage's grid, keeping the biases of the offsets that still occur.

        A window that covers the whole grid is not shifted (Liu et al. 2021, as in both libraries).
        """
        for stage in self.encoder.layers:
            for block in stage.blocks:
                if min(grid) <= block.window_size:
                    block.shift_size = 0
                    _shrink_window(block, min(grid))
            if stage.downsample is not None:
                grid = ((grid[0] + 1) // 2, (grid[1] + 1) // 2)


def _shrink_window(block: Any, window: int) -> None:
    """Cut a Swin block's relative position table down to offsets within ``window``."""
    bias = block.attention.relative_position_bias
    old = int(bias.window_size[0])
    if window == old:
        return
    table = bias.relative_position_bias_table.detach()
    square = table.view(2 * old - 1, 2 * old - 1, -1)
    kept = square[old - window : old + window - 1, old - window : old + window - 1]
    smaller = type(bias)(table.shape[1], (window, window))
    smaller.relative_position_bias_table = nn.Parameter(kept.reshape(-1, table.shape[1]).clone())
    block.attention.relative_position_bias = smaller.to(table.device)
    block.window_size = window


def cut_image(model: Any) -> tuple[Body, ImageStem]:
    """Cut a Hugging Face image encoder into body and stem; ``model`` is used up."""
    embeddings = getattr(model, "embeddings", None)
    projection = getattr(getattr(embeddings, "patch_embeddings", None), "projection", None)
    if not isinstance(projection, nn.Conv2d):
        raise UserError(
            f"cannot use a {type(model).__name__} as a body: it must be a ViT-like or Swin encoder with patch "
            "embeddings, such as ViT, DeiT, DINOv2 or Swin"
        )
    prefix, places = _prefix_and_places(embeddings)
    statistics = HALF if model.config.model_type in ("vit", "beit") else IMAGENET
    norm = getattr(embeddings, "norm", None) or nn.Identity()
    antialias = hasattr(embeddings, "register_tokens")  # Dinov2WithRegisters alone of transformers' does it
    stem = ImageStem(projection, norm, prefix, places, statistics, antialias)
    max_tokens = None if places is None else places.shape[0] * places.shape[1]
    if hasattr(model, "pooler"):
        model.pooler = None
    if hasattr(model.config, "depths"):
        if not hasattr(model.encoder.layers[0], "blocks"):
            raise UserError(
                f"cannot use a {type(model).__name__} as a body: of the hierarchical ones Swin is supported"
            )
        return SwinBody(model, max_tokens), stem
    given = GivenEmbeddings()
    given.patch_embeddings = _PatchDtype(projection)
    model.embeddings = given
    return ViTBody(model, stem.width, max_tokens, prefix.shape[0]), stem


class _PatchDtype(nn.Module):
    """An empty ``projection.weight``, for ViTModel.forward reads its dtype."""

    def __init__(self, projection: nn.Conv2d) -> None:
        super().__init__()
        self.projection = nn.Module()
        self.projection.register_buffer("weight", projection.weight.detach()[:0].clone(), persistent=False)


def _prefix_and_places(embeddings: Any) -> tuple[Tensor, Tensor | None]:
    """Prefix tokens [P, D] with their positions added, and positions [gh, gw, D] of the grid."""
    width = embeddings.patch_embeddings.projection.out_channels
    names = ("cls_token", "distillation_token", "register_tokens")
    tokens = [getattr(embeddings, name).detach()[0] for name in names if getattr(embeddings, name, None) is not None]
    prefix = torch.cat(tokens) if tokens else torch.zeros(0, width)
    table = getattr(embeddings, "position_embeddings", None)
    if table is None:
        return prefix, None
    size = embeddings.patch_embeddings.image_size
    rows, columns = (side // embeddings.patch_embeddings.projection.kernel_size[0] for side in size)
    table = table.detach()[0]
    placed = table.shape[0] - rows * columns  # registers get no position
    prefix = torch.cat((prefix[:placed] + table[:placed], prefix[placed:]))
    return prefix, table[placed:].view(rows, columns, width)
