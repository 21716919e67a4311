"""Plain vision transformers of transformers: ViT, DeiT and DINOv2 with or without registers."""

from typing import Any

from torch import nn

from orca_ray.data.bodies import IMAGENET_STATISTICS
from orca_ray.errors import UserError
from orca_ray.models.body import Body, EncoderBody, GivenEmbeddings, Stem
from orca_ray.models.family import Family
from orca_ray.models.stems import ImageStem, prefix_and_places

_HALF = ((0.5,) * 3, (0.5,) * 3)


def _cut(model: Any) -> tuple[Body, Stem]:
    stem = hugging_face_stem(model)
    given = GivenEmbeddings()
    given.patch_embeddings = _PatchDtype(model.embeddings.patch_embeddings.projection)
    model.embeddings = given
    return EncoderBody(model, "image", stem.width, len(stem.prefix)), stem


def hugging_face_stem(model: Any) -> ImageStem:
    """Return the stem of an image encoder of transformers and drop its pooler; raises UserError for other models."""
    embeddings = getattr(model, "embeddings", None)
    patches = getattr(embeddings, "patch_embeddings", None)
    projection = getattr(patches, "projection", None)
    if not isinstance(projection, nn.Conv2d) or embeddings is None or patches is None:
        raise UserError(
            f"cannot use a {type(model).__name__} as a body: it must be a ViT-like or Swin encoder with patch "
            "embeddings, such as ViT, DeiT, DINOv2 or Swin"
        )
    if hasattr(model, "pooler"):
        model.pooler = None
    names = ("cls_token", "distillation_token", "register_tokens")
    grid = tuple(side // projection.kernel_size[0] for side in getattr(patches, "image_size", (0, 0)))
    tokens = [getattr(embeddings, name, None) for name in names]
    prefix, places = prefix_and_places(tokens, getattr(embeddings, "position_embeddings", None), grid, projection)
    statistics = _HALF if model.config.model_type in ("vit", "beit") else IMAGENET_STATISTICS
    norm = getattr(embeddings, "norm", None) or nn.Identity()
    antialias = hasattr(embeddings, "register_tokens")  # in transformers, only Dinov2WithRegisters does it
    return ImageStem(projection, norm, prefix, places, statistics, antialias)


class _PatchDtype(nn.Module):
    """An empty ``projection.weight``, whose dtype ViTModel.forward reads."""

    def __init__(self, projection: nn.Conv2d) -> None:
        super().__init__()
        self.projection = nn.Module()
        self.projection.register_buffer("weight", projection.weight.detach()[:0].clone(), persistent=False)


def _resembles(config: Any) -> bool:
    return hasattr(config, "image_size") and hasattr(config, "patch_size") and not hasattr(config, "depths")


FAMILY = Family(name="ViT, DeiT and DINOv2", modality="image", resembles=_resembles, cut=_cut)
