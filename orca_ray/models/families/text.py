"""Hugging Face text encoders such as BERT, RoBERTa, MPNet, DistilBERT, ModernBERT and ELECTRA."""

from typing import Any

from torch import Tensor, nn

from orca_ray.errors import UserError
from orca_ray.models.body import Body, EncoderBody, GivenEmbeddings, Stem, TextStem
from orca_ray.models.family import Family


def _cut(model: Any) -> tuple[Body, Stem]:
    embeddings = getattr(model, "embeddings", None)
    if embeddings is None or model.config.is_encoder_decoder or getattr(model.config, "is_decoder", False):
        raise UserError(
            f"cannot use a {type(model).__name__} as a body: it must be an encoder with an `embeddings` module, "
            "such as BERT, RoBERTa, MPNet, DistilBERT or ModernBERT"
        )
    words = model.get_input_embeddings().weight.detach()
    norm = getattr(embeddings, "LayerNorm", None) or getattr(embeddings, "norm", None) or nn.Identity()
    places = _places(embeddings)
    model.embeddings = GivenEmbeddings()
    if hasattr(model, "pooler"):
        model.pooler = None  # its parameters would never get a gradient
    return EncoderBody(model, "sequence"), TextStem(words, places, norm)


def _places(embeddings: Any) -> Tensor | None:
    """Return position embeddings [P, D] plus a segment embedding, if there is one; None if positions are relative."""
    table = getattr(embeddings, "position_embeddings", None)
    if table is None:
        return None
    # The RoBERTa family numbers positions from padding_idx + 1 (create_position_ids_from_inputs_embeds).
    roberta_like = hasattr(embeddings, "create_position_ids_from_inputs_embeds")
    places: Tensor = table.weight.detach()[embeddings.padding_idx + 1 if roberta_like else 0 :]
    segments = getattr(embeddings, "token_type_embeddings", None)
    return places.clone() if segments is None else places + segments.weight.detach()[0]


FAMILY = Family(
    name="BERT-like text encoders",
    modality="sequence",
    resembles=lambda config: not (hasattr(config, "image_size") and hasattr(config, "patch_size")),
    cut=_cut,
)
