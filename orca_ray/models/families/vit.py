"""Plain vision transformers of transformers: ViT, DeiT, BEiT, DINOv2 with or without registers."""

from typing import Any

import torch
from torch import Tensor, nn

from orca_ray.errors import UserError
from orca_ray.models.body import Body, GivenEmbeddings, Stem
from orca_ray.models.family import Family
from orca_ray.models.vision import HALF, IMAGENET, ImageStem


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


def cut_vit(model: Any) -> tuple[Body, Stem]:
    """Cut an encoder with patch embeddings into body and stem; ``model`` is used up."""
    stem = hugging_face_stem(model)
    given = GivenEmbeddings()
    given.patch_embeddings = _PatchDtype(model.embeddings.patch_embeddings.projection)
    model.embeddings = given
    max_tokens = None if stem.places is None else stem.places.shape[0] * stem.places.shape[1]
    return ViTBody(model, stem.width, max_tokens, stem.prefix.shape[0]), stem


def hugging_face_stem(model: Any) -> ImageStem:
    """Return the stem of an image encoder of transformers, whose pooler is dropped; raises UserError for others."""
    embeddings = getattr(model, "embeddings", None)
    projection = getattr(getattr(embeddings, "patch_embeddings", None), "projection", None)
    if not isinstance(projection, nn.Conv2d):
        raise UserError(
            f"cannot use a {type(model).__name__} as a body: it must be a ViT-like or Swin encoder with patch "
            "embeddings, such as ViT, DeiT, DINOv2 or Swin"
        )
    if hasattr(model, "pooler"):
        model.pooler = None
    prefix, places = _prefix_and_places(embeddings)
    statistics = HALF if model.config.model_type in ("vit", "beit") else IMAGENET
    norm = getattr(embeddings, "norm", None) or nn.Identity()
    antialias = hasattr(embeddings, "register_tokens")  # in transformers, Dinov2WithRegisters alone does it
    return ImageStem(projection, norm, prefix, places, statistics, antialias)


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


def _is_plain(config: Any) -> bool:
    return hasattr(config, "image_size") and hasattr(config, "patch_size") and not hasattr(config, "depths")


FAMILY = Family(name="ViT, DeiT and DINOv2", modality="image", resembles=_is_plain, cut=cut_vit)
