"""timm's plain vision transformers."""

from typing import Any

from torch import Tensor, nn

from orca_ray.models.body import Body, Stem
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
        self.width = self.feature_width = stem.width
        self.num_prefix_tokens = len(stem.prefix)

    def forward(self, tokens_BTD: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """Return the features after the final norm; ``grid`` is ignored."""
        features: Tensor = self.norm(self.blocks(self.norm_pre(tokens_BTD)))
        return features


def timm_stem(model: Any) -> ImageStem:
    """Return the stem of a ViT or Swin of timm."""
    patches = model.patch_embed
    tokens = [getattr(model, name, None) for name in ("cls_token", "reg_token")]
    prefix, places = prefix_and_places(tokens, getattr(model, "pos_embed", None), patches.grid_size, patches.proj)
    statistics = (tuple(model.pretrained_cfg["mean"]), tuple(model.pretrained_cfg["std"]))
    norm = patches.norm if isinstance(patches.norm, nn.Module) else nn.Identity()
    return ImageStem(patches.proj, norm, prefix, places, statistics, antialias=True)


def _resembles(model: Any) -> bool:
    from timm.models.vision_transformer import VisionTransformer

    return isinstance(model, VisionTransformer)


def _cut(model: Any) -> tuple[Body, Stem]:
    stem = timm_stem(model)
    return TimmViTBody(model, stem), stem


FAMILY = Family(
    name="plain ViTs",
    modality="image",
    library="timm",
    resembles=_resembles,
    depths=lambda model: [len(model.blocks)],
    set_depths=lambda model, depths: setattr(model, "blocks", model.blocks[: depths[0]]),
    cut=_cut,
)
