"""Vision transformers of the Hugging Face library and of timm.

The Hugging Face models are ViT, DeiT, DINOv2 with or without registers, and Swin.
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
from orca_ray.models.transformers_private import shrink_swin_window

_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""Mean and standard deviation of each colour by which ViT and BEiT were pretrained."""


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
        """Return the features [B, S, F] after the final norm.

        The tokens' ``grid`` (gh, gw) is required.
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
        """Return the grid of the features.

        Each patch merging halves the sides, odd ones rounded up.
        """
        return tuple(
            math.ceil(side / 2 ** (len(self.encoder.layers) - 1)) for side in layout
        )

    def fit_grid(self, grid: tuple[int, int]) -> None:
        """Shrink windows that are larger than the grid of their stage.

        Position biases that are still used stay. A window that covers the whole grid is
        not shifted, as in Liu et al. (2021), Hugging Face and timm.
        """
        for stage in self.encoder.layers:
            for block in stage.blocks:
                if min(grid) <= block.window_size:
                    block.shift_size = 0
                    shrink_swin_window(block, min(grid))
            if stage.downsample is not None:
                grid = ((grid[0] + 1) // 2, (grid[1] + 1) // 2)


class _PatchDtype(nn.Module):
    """Module with an empty ``projection.weight``.

    ViTModel.forward reads the dtype of that weight.
    """

    def __init__(self, projection: nn.Conv2d) -> None:
        super().__init__()
        self.projection = nn.Module()
        self.projection.register_buffer(
            "weight", projection.weight.detach()[:0].clone(), persistent=False
        )


def _stem(model: Any) -> ImageStem:
    """Return the stem of a Hugging Face image encoder, and remove its pooler.

    Raises UserError for other models.
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
    image_size = getattr(patches, "image_size", (0, 0))
    grid = tuple(side // projection.kernel_size[0] for side in image_size)
    token_names = ("cls_token", "distillation_token", "register_tokens")
    tokens = [getattr(embeddings, name, None) for name in token_names]
    table = getattr(embeddings, "position_embeddings", None)
    prefix, places = prefix_and_places(tokens, table, grid, projection)
    is_half = model.config.model_type in ("vit", "beit")
    statistics = _HALF if is_half else IMAGENET_STATISTICS
    norm = getattr(embeddings, "norm", None)
    if norm is None:
        norm = nn.Identity()
    # Of these models, only Dinov2WithRegisters anti-aliases.
    antialias = hasattr(embeddings, "register_tokens")
    return ImageStem(projection, norm, prefix, places, statistics, antialias)


def _cut_vit(model: Any) -> tuple[Body, Stem]:
    """Cut a ViT-like encoder in place, and return its body and its stem."""
    stem = _stem(model)
    embeddings = GivenEmbeddings()
    embeddings.patch_embeddings = _PatchDtype(
        model.embeddings.patch_embeddings.projection
    )
    model.embeddings = embeddings
    return EncoderBody(model, "image", len(stem.prefix)), stem


def _cut_swin(model: Any) -> tuple[Body, Stem]:
    """Cut a Swin encoder in place, and return its body and its stem."""
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
    """Body of timm's VisionTransformer, [B, T, D] -> [B, T, D].

    It consists of all layers after the position embeddings.
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
    """Body of timm's SwinTransformer, [B, gh * gw, D] -> [B, S, F].

    It consists of all layers after the patch embedding.
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
        """Return the features [B, S, F] after the final norm, row by row.

        The tokens' ``grid`` (gh, gw) is required.
        """
        assert grid is not None, "Swin needs the grid of its tokens"
        tokens_BHWD = tokens_BTD.reshape(tokens_BTD.shape[0], *grid, -1)
        features: Tensor = self.norm(self.layers(tokens_BHWD))
        return features.flatten(1, 2)

    def feature_layout(self, layout: Layout) -> Layout:
        """Return the grid of the features.

        Each patch merging halves the sides, odd ones rounded up.
        """
        return tuple(math.ceil(side / 2 ** (len(self.layers) - 1)) for side in layout)

    def fit_grid(self, grid: tuple[int, int]) -> None:
        """Set the grid of each stage.

        timm shrinks windows that exceed the grid and interpolates their biases.
        """
        stages = zip(self.layers, self._windows, strict=True)
        for number, (stage, window) in enumerate(stages):
            scale = 2 ** max(number - 1, 0)
            stage_grid = tuple(math.ceil(side / scale) for side in grid)
            stage.set_input_size(stage_grid, window)


def _cut_timm(
    model: Any, body_class: Callable[[Any, ImageStem], Body]
) -> tuple[Body, Stem]:
    """Return the body, made by ``body_class``, and the stem of a model of timm."""
    patches = model.patch_embed
    tokens = [getattr(model, name, None) for name in ("cls_token", "reg_token")]
    table = getattr(model, "pos_embed", None)
    prefix, places = prefix_and_places(tokens, table, patches.grid_size, patches.proj)
    preprocessing = model.pretrained_cfg
    statistics = (tuple(preprocessing["mean"]), tuple(preprocessing["std"]))
    norm = patches.norm if isinstance(patches.norm, nn.Module) else nn.Identity()
    stem = ImageStem(patches.proj, norm, prefix, places, statistics, antialias=True)
    return body_class(model, stem), stem


def _is_timm(model: Any, class_name: str) -> bool:
    """Return whether ``model`` is of a class "module:name" of ``timm.models``."""
    return isinstance(model, resolve_name(f"timm.models.{class_name}"))


def _set_timm_swin_depths(model: Any, depths: list[int]) -> None:
    for stage, depth in zip(model.layers, depths, strict=True):
        stage.blocks = stage.blocks[:depth]


def _set_timm_vit_depths(model: Any, depths: list[int]) -> None:
    (num_layers,) = depths
    model.blocks = model.blocks[:num_layers]


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
        resembles=lambda model: _is_timm(model, "swin_transformer:SwinTransformer"),
        depths=lambda model: [len(stage.blocks) for stage in model.layers],
        set_depths=_set_timm_swin_depths,
        cut=lambda model: _cut_timm(model, TimmSwinBody),
    ),
    Family(
        name="plain ViTs of timm",
        modality="image",
        library="timm",
        resembles=lambda model: _is_timm(model, "vision_transformer:VisionTransformer"),
        depths=lambda model: [len(model.blocks)],
        set_depths=_set_timm_vit_depths,
        cut=lambda model: _cut_timm(model, TimmViTBody),
    ),
)
