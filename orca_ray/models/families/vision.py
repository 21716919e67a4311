"""Vision transformers of the Hugging Face library (ViT, DeiT, DINOv2 with or without
registers; Swin) and of timm.
"""

import math
from collections.abc import Callable
from pkgutil import resolve_name
from typing import Any

from torch import Tensor, nn

from orca_ray.data.rows import IMAGENET_STATISTICS
from orca_ray.errors import UserError
from orca_ray.models.body import (
    Body,
    EncoderBody,
    GivenEmbeddings,
    ImageStem,
    Layout,
    Stem,
    prefix_and_places,
)
from orca_ray.models.family import Family

_HALF = ((0.5,) * 3, (0.5,) * 3)


class SwinBody(Body):
    """Body of Hugging Face's Swin, [B, gh * gw, D] -> [B, S, F].

    All stages but the last halve the sides of the grid and double the width.
    """

    modality = "image"

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder = model.encoder
        self.final_norm = model.layernorm
        self.feature_width = int(model.num_features)

    def forward(
        self, tokens_BTD: Tensor, grid: tuple[int, int] | None = None
    ) -> Tensor:
        """Return the features [B, S, F] after the final norm; the tokens' ``grid`` (gh,
        gw) is required.
        """
        assert grid is not None, "Swin needs the grid of its tokens"
        # Without always_partition, the model would reduce its window size, permanently,
        # to the smallest grid that it has processed, and then fail because its
        # position-bias table is larger than the windows.
        features: Tensor = self.final_norm(
            self.encoder(tokens_BTD, grid, always_partition=True).last_hidden_state
        )
        return features

    def feature_layout(self, layout: Layout) -> Layout:
        """Return the grid of the features: each patch merging halves the sides, odd
        ones rounded up.
        """
        return tuple(
            math.ceil(side / 2 ** (len(self.encoder.layers) - 1)) for side in layout
        )

    def fit_grid(self, grid: tuple[int, int]) -> None:
        """Shrink windows that are larger than the grid of their stage; keep the
        position biases that are still used.

        A window that covers the whole grid is not shifted, as in Liu et al. (2021),
        Hugging Face and timm.
        """
        for stage in self.encoder.layers:
            for block in stage.blocks:
                if min(grid) <= block.window_size:
                    block.shift_size = 0
                    _shrink_window(block, min(grid))
            if stage.downsample is not None:
                grid = ((grid[0] + 1) // 2, (grid[1] + 1) // 2)


def _shrink_window(block: Any, window: int) -> None:
    """Reduce a block's window to ``window`` tokens a side, and its position biases to
    offsets inside such a window.
    """
    bias = block.attention.relative_position_bias
    old = int(bias.window_size[0])
    if window == old:
        return
    table = bias.relative_position_bias_table.detach()
    square = table.view(2 * old - 1, 2 * old - 1, -1)
    kept = square[old - window : old + window - 1, old - window : old + window - 1]
    smaller = type(bias)(table.shape[1], (window, window))
    smaller.relative_position_bias_table = nn.Parameter(
        kept.reshape(-1, table.shape[1]).clone()
    )
    block.attention.relative_position_bias = smaller.to(table.device)
    block.window_size = window


class _PatchDtype(nn.Module):
    """Holds an empty ``projection.weight``, because ViTModel.forward reads its dtype."""

    def __init__(self, projection: nn.Conv2d) -> None:
        super().__init__()
        self.projection = nn.Module()
        self.projection.register_buffer(
            "weight", projection.weight.detach()[:0].clone(), persistent=False
        )


def _stem(model: Any) -> ImageStem:
    """Return the stem of a Hugging Face image encoder and remove its pooler; raises
    UserError for other models.
    """
    embeddings = getattr(model, "embeddings", None)
    patches = getattr(embeddings, "patch_embeddings", None)
    projection = getattr(patches, "projection", None)
    if not isinstance(projection, nn.Conv2d) or embeddings is None or patches is None:
        raise UserError(
            f"cannot use a {type(model).__name__} as a body: it must be a ViT-like or"
            " Swin encoder with patch embeddings, such as ViT, DeiT, DINOv2 or Swin"
        )
    if hasattr(model, "pooler"):
        model.pooler = None
    names = ("cls_token", "distillation_token", "register_tokens")
    grid = tuple(
        side // projection.kernel_size[0]
        for side in getattr(patches, "image_size", (0, 0))
    )
    tokens = [getattr(embeddings, name, None) for name in names]
    prefix, places = prefix_and_places(
        tokens, getattr(embeddings, "position_embeddings", None), grid, projection
    )
    statistics = (
        _HALF if model.config.model_type in ("vit", "beit") else IMAGENET_STATISTICS
    )
    norm = getattr(embeddings, "norm", None) or nn.Identity()
    antialias = hasattr(
        embeddings, "register_tokens"
    )  # of these models, only Dinov2WithRegisters anti-aliases
    return ImageStem(projection, norm, prefix, places, statistics, antialias)


def _cut_vit(model: Any) -> tuple[Body, Stem]:
    stem = _stem(model)
    given = GivenEmbeddings()
    given.patch_embeddings = _PatchDtype(model.embeddings.patch_embeddings.projection)
    model.embeddings = given
    return EncoderBody(model, "image", len(stem.prefix)), stem


def _cut_swin(model: Any) -> tuple[Body, Stem]:
    stem = _stem(model)
    if not hasattr(model.encoder.layers[0], "blocks"):
        raise UserError(
            f"cannot use a {type(model).__name__} as a body: of the hierarchical ones"
            " Swin is supported"
        )
    return SwinBody(model), stem


def _has_patches(config: Any) -> bool:
    return hasattr(config, "image_size") and hasattr(config, "patch_size")


class TimmViTBody(Body):
    """Body of timm's VisionTransformer: all that follows the position embeddings, [B,
    T, D] -> [B, T, D].
    """

    modality = "image"

    def __init__(self, model: Any, stem: ImageStem) -> None:
        super().__init__()
        self.norm_pre = model.norm_pre
        self.blocks = model.blocks
        self.norm = model.norm
        self.feature_width = stem.width
        self.num_prefix_tokens = len(stem.prefix)

    def forward(
        self, tokens_BTD: Tensor, grid: tuple[int, int] | None = None
    ) -> Tensor:
        """Return the features [B, T, D] after the final norm; ``grid`` is not used."""
        features: Tensor = self.norm(self.blocks(self.norm_pre(tokens_BTD)))
        return features


class TimmSwinBody(Body):
    """Body of timm's SwinTransformer: all that follows the patch embedding, [B, gh *
    gw, D] -> [B, S, F].
    """

    modality = "image"

    def __init__(self, model: Any, stem: ImageStem) -> None:
        super().__init__()
        self.layers = model.layers
        self.norm = model.norm
        self.feature_width = int(model.num_features)
        self._windows = [tuple(stage.blocks[0].window_size) for stage in model.layers]

    def forward(
        self, tokens_BTD: Tensor, grid: tuple[int, int] | None = None
    ) -> Tensor:
        """Return the features [B, S, F] after the final norm, row by row; the tokens'
        ``grid`` (gh, gw) is required.
        """
        assert grid is not None, "Swin needs the grid of its tokens"
        features: Tensor = self.norm(
            self.layers(tokens_BTD.reshape(tokens_BTD.shape[0], *grid, -1))
        )
        return features.flatten(1, 2)

    def feature_layout(self, layout: Layout) -> Layout:
        """Return the grid of the features: each patch merging halves the sides, odd
        ones rounded up.
        """
        return tuple(math.ceil(side / 2 ** (len(self.layers) - 1)) for side in layout)

    def fit_grid(self, grid: tuple[int, int]) -> None:
        """Set the grid of each stage. timm shrinks windows that exceed the grid and
        interpolates their biases.
        """
        for index, (stage, window) in enumerate(
            zip(self.layers, self._windows, strict=True)
        ):
            scale = 2 ** max(index - 1, 0)
            stage.set_input_size(
                tuple(math.ceil(side / scale) for side in grid), window
            )


def _cut_timm(model: Any, body: Callable[[Any, ImageStem], Body]) -> tuple[Body, Stem]:
    patches = model.patch_embed
    tokens = [getattr(model, name, None) for name in ("cls_token", "reg_token")]
    prefix, places = prefix_and_places(
        tokens, getattr(model, "pos_embed", None), patches.grid_size, patches.proj
    )
    statistics = (
        tuple(model.pretrained_cfg["mean"]),
        tuple(model.pretrained_cfg["std"]),
    )
    norm = patches.norm if isinstance(patches.norm, nn.Module) else nn.Identity()
    stem = ImageStem(patches.proj, norm, prefix, places, statistics, antialias=True)
    return body(model, stem), stem


def _set_swin_depths(model: Any, depths: list[int]) -> None:
    for stage, depth in zip(model.layers, depths, strict=True):
        stage.blocks = stage.blocks[:depth]


FAMILIES = (
    Family(
        name="ViT, DeiT and DINOv2",
        modality="image",
        resembles=lambda config: _has_patches(config) and not hasattr(config, "depths"),
        cut=_cut_vit,
    ),
    Family(
        name="Swin",
        modality="image",
        resembles=lambda config: _has_patches(config) and hasattr(config, "depths"),
        depths=lambda config: config.depths,
        set_depths=lambda config, depths: setattr(config, "depths", depths),
        cut=_cut_swin,
    ),
    Family(
        name="Swin of timm",
        modality="image",
        library="timm",
        resembles=lambda model: isinstance(
            model, resolve_name("timm.models.swin_transformer:SwinTransformer")
        ),
        depths=lambda model: [len(stage.blocks) for stage in model.layers],
        set_depths=_set_swin_depths,
        cut=lambda model: _cut_timm(model, TimmSwinBody),
    ),
    Family(
        name="plain ViTs of timm",
        modality="image",
        library="timm",
        resembles=lambda model: isinstance(
            model, resolve_name("timm.models.vision_transformer:VisionTransformer")
        ),
        depths=lambda model: [len(model.blocks)],
        set_depths=lambda model, depths: setattr(
            model, "blocks", model.blocks[: depths[0]]
        ),
        cut=lambda model: _cut_timm(model, TimmViTBody),
    ),
)
