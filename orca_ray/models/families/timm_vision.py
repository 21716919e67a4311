"""timm's plain vision transformers and Swin."""

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from orca_ray.models.body import Body, Layout, Stem
from orca_ray.models.family import Family
from orca_ray.models.stems import ImageStem, prefix_and_places


class TimmViTBody(Body):
    """timm's VisionTransformer after its position embeddings, [B, T, D] -> [B, T, D]."""

    modality = "image"

    def __init__(self, model: Any, stem: ImageStem) -> None:
        super().__init__()
        self.norm_pre = model.norm_pre
        self.blocks = model.blocks
        self.norm = model.norm
        self.feature_width = stem.width
        self.num_prefix_tokens = len(stem.prefix)

    def forward(self, tokens_BTD: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """Return the features after the final norm; ``grid`` is not used."""
        features: Tensor = self.norm(self.blocks(self.norm_pre(tokens_BTD)))
        return features


class TimmSwinBody(Body):
    """timm's SwinTransformer after its patch embedding; tokens [B, gh * gw, D] -> features [B, S, F]."""

    modality = "image"

    def __init__(self, model: Any, stem: ImageStem) -> None:
        super().__init__()
        self.layers = model.layers
        self.norm = model.norm
        self.feature_width = int(model.num_features)
        self._windows = [tuple(stage.blocks[0].window_size) for stage in model.layers]

    def forward(self, tokens_BTD: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """Return the features after the final norm, in row-major order."""
        assert grid is not None, "Swin needs the grid of its tokens"
        features: Tensor = self.norm(self.layers(tokens_BTD.reshape(tokens_BTD.shape[0], *grid, -1)))
        return features.flatten(1, 2)

    def feature_layout(self, layout: Layout) -> Layout:
        """Return the grid of the features: each patch merging halves the sides, odd ones rounded up."""
        return tuple(math.ceil(side / 2 ** (len(self.layers) - 1)) for side in layout)

    def fit_grid(self, grid: tuple[int, int]) -> None:
        """Set the grid of each stage. timm shrinks larger windows and interpolates their position biases."""
        for index, (stage, window) in enumerate(zip(self.layers, self._windows, strict=True)):
            scale = 2 ** max(index - 1, 0)
            stage.set_input_size(tuple(math.ceil(side / scale) for side in grid), window)


def _cut(model: Any, body: Callable[[Any, ImageStem], Body]) -> tuple[Body, Stem]:
    patches = model.patch_embed
    tokens = [getattr(model, name, None) for name in ("cls_token", "reg_token")]
    prefix, places = prefix_and_places(tokens, getattr(model, "pos_embed", None), patches.grid_size, patches.proj)
    statistics = (tuple(model.pretrained_cfg["mean"]), tuple(model.pretrained_cfg["std"]))
    norm = patches.norm if isinstance(patches.norm, nn.Module) else nn.Identity()
    stem = ImageStem(patches.proj, norm, prefix, places, statistics, antialias=True)
    return body(model, stem), stem


def _is_vit(model: Any) -> bool:
    from timm.models.vision_transformer import VisionTransformer

    return isinstance(model, VisionTransformer)


def _is_swin(model: Any) -> bool:
    from timm.models.swin_transformer import SwinTransformer

    return isinstance(model, SwinTransformer)


def _set_swin_depths(model: Any, depths: list[int]) -> None:
    for stage, depth in zip(model.layers, depths, strict=True):
        stage.blocks = stage.blocks[:depth]


FAMILIES = (
    Family(
        name="Swin of timm",
        modality="image",
        library="timm",
        resembles=_is_swin,
        depths=lambda model: [len(stage.blocks) for stage in model.layers],
        set_depths=_set_swin_depths,
        cut=lambda model: _cut(model, TimmSwinBody),
    ),
    Family(
        name="plain ViTs of timm",
        modality="image",
        library="timm",
        resembles=_is_vit,
        depths=lambda model: [len(model.blocks)],
        set_depths=lambda model, depths: setattr(model, "blocks", model.blocks[: depths[0]]),
        cut=lambda model: _cut(model, TimmViTBody),
    ),
)
