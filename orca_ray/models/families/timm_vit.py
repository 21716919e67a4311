"""timm's plain vision transformers."""

from typing import Any

import torch
from torch import Tensor, nn

from orca_ray.models.body import Body, Stem
from orca_ray.models.family import Family
from orca_ray.models.vision import ImageStem


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


def timm_stem(model: Any, prefix: Tensor, places: Tensor | None) -> ImageStem:
    """Return the stem of a timm model, given its prefix tokens [P, D] and positions [gh, gw, D]."""
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


def _resembles(model: Any) -> bool:
    from timm.models.vision_transformer import VisionTransformer

    return isinstance(model, VisionTransformer)


def _set_depths(model: Any, depths: list[int]) -> None:
    model.blocks = model.blocks[: depths[0]]


def _cut(model: Any) -> tuple[Body, Stem]:
    stem = timm_stem(model, *_prefix_and_places(model))
    return TimmViTBody(model, stem), stem


FAMILY = Family(
    name="plain ViTs",
    modality="image",
    library="timm",
    resembles=_resembles,
    depths=lambda model: [len(model.blocks)],
    set_depths=_set_depths,
    cut=_cut,
)
