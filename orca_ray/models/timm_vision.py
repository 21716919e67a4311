"""Bodies for images from timm: plain ViTs and Swin."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from orca_ray.errors import UserError, nearest
from orca_ray.models.body import Body, Layout
from orca_ray.models.vision import ImageStem


def check_timm(name: str) -> None:
    """Raise UserError for a name that timm does not know."""
    import timm

    if not timm.is_model(name):
        close = nearest(name.split(".")[0], timm.list_models())
        question = f" Did you mean 'timm:{close}'?" if close else ""
        raise UserError(f"unknown timm body {name!r}.{question} `timm.list_models()` lists them all.")


def create_timm(name: str, pretrained: bool) -> Any:
    """Create a timm model without its classifier; UserError for a misspelt name or weights that cannot be had."""
    import timm

    check_timm(name)
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0)
    except Exception as error:  # timm passes on whatever the hub client raises
        raise UserError(f"cannot get the weights of timm body {name!r}: {str(error).splitlines()[0]}") from error


def cut_timm(model: Any, layers: int | None) -> tuple[Body, ImageStem]:
    """Cut a timm ViT or Swin into body and stem, keeping ``layers`` layers; ``model`` is used up."""
    from timm.models.swin_transformer import SwinTransformer
    from timm.models.vision_transformer import VisionTransformer

    if isinstance(model, VisionTransformer):
        stem = _stem(model, *_prefix_and_places(model))
        model.blocks = model.blocks[: _checked(layers, len(model.blocks))]
        return TimmViTBody(model, stem), stem
    if isinstance(model, SwinTransformer):
        stem = _stem(model, torch.zeros(0, model.patch_embed.proj.out_channels), None)
        depths = shallower([len(stage.blocks) for stage in model.layers], layers)
        for stage, depth in zip(model.layers, depths, strict=True):
            stage.blocks = stage.blocks[:depth]
        return TimmSwinBody(model, stem), stem
    raise UserError(f"cannot use timm's {type(model).__name__} as a body: plain ViTs and Swin are supported")


class TimmViTBody(Body):
    """timm's VisionTransformer after its positions, [B, T, D] -> [B, T, D]."""

    modality = "image"

    def __init__(self, model: Any, stem: ImageStem) -> None:
        super().__init__()
        self.norm_pre = model.norm_pre
        self.blocks = model.blocks
        self.norm = model.norm
        self.width = self.feature_width = stem.width
        self.max_tokens = None if stem.places is None else stem.places.shape[0] * stem.places.shape[1]
        self.num_prefix_tokens = len(stem.prefix)

    def forward(self, tokens_BTD: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """Return the features after the final norm; ``grid`` is ignored."""
        features: Tensor = self.norm(self.blocks(self.norm_pre(tokens_BTD)))
        return features


class TimmSwinBody(Body):
    """timm's SwinTransformer after its patch embedding, [B, gh * gw, D] -> [B, S, F]."""

    modality = "image"
    max_tokens = None

    def __init__(self, model: Any, stem: ImageStem) -> None:
        super().__init__()
        self.layers = model.layers
        self.norm = model.norm
        self.width = stem.width
        self.feature_width = int(model.num_features)
        self._windows = [tuple(stage.blocks[0].window_size) for stage in model.layers]

    def forward(self, tokens_BTD: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """Return the features after the final norm, in row-major order."""
        assert grid is not None, "Swin needs the grid of its tokens"
        features: Tensor = self.norm(self.layers(tokens_BTD.reshape(len(tokens_BTD), *grid, -1)))
        return features.flatten(1, 2)

    def feature_layout(self, layout: Layout) -> Layout:
        """The grid after all patch mergings (odd sides are padded, so halves round up)."""
        return tuple(math.ceil(side / 2 ** (len(self.layers) - 1)) for side in layout)

    def fit_grid(self, grid: tuple[int, int]) -> None:
        """Tell each stage its grid; timm interpolates the position biases of windows that no longer fit."""
        for index, (stage, window) in enumerate(zip(self.layers, self._windows, strict=True)):
            scale = 2 ** max(index - 1, 0)
            stage.set_input_size(tuple(math.ceil(side / scale) for side in grid), window)


def shallower(depths: list[int], layers: int | None) -> list[int]:
    """Cut the depths of a hierarchical model to ``layers`` blocks in all, off the end of the deepest stage.

    The features keep their width and resolution, and the first stages stay as pretrained.
    """
    depths = list(depths)
    if layers is None:
        return depths
    if not len(depths) <= layers <= sum(depths):
        raise UserError(
            f"this body has {len(depths)} stages of {depths} layers: keep {len(depths)} to {sum(depths)}, not {layers}"
        )
    for _ in range(sum(depths) - layers):
        depths[depths.index(max(depths))] -= 1
    return depths


def _checked(layers: int | None, depth: int) -> int:
    if layers is not None and layers > depth:
        raise UserError(f"this body has {depth} layers, {layers} were asked for")
    return depth if layers is None else layers


def _stem(model: Any, prefix: Tensor, places: Tensor | None) -> ImageStem:
    statistics = (tuple(model.pretrained_cfg["mean"]), tuple(model.pretrained_cfg["std"]))
    norm = model.patch_embed.norm
    return ImageStem(
        model.patch_embed.proj, norm if isinstance(norm, nn.Module) else nn.Identity(), prefix, places, statistics, True
    )


def _prefix_and_places(model: Any) -> tuple[Tensor, Tensor | None]:
    """Prefix tokens [P, D] with their positions added, and positions [gh, gw, D] of the grid."""
    width = model.patch_embed.proj.out_channels
    tokens = [token.detach()[0] for token in (model.cls_token, model.reg_token) if token is not None]
    prefix = torch.cat(tokens) if tokens else torch.zeros(0, width)
    if model.pos_embed is None:
        return prefix, None
    table = model.pos_embed.detach()[0]
    rows, columns = model.patch_embed.grid_size
    placed = table.shape[0] - rows * columns  # no_embed_class: the prefix gets no position
    return torch.cat((prefix[:placed] + table[:placed], prefix[placed:])), table[placed:].view(rows, columns, width)
