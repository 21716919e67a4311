"""Hugging Face text encoders: MPNet, and BERT-like ones.

BERT-like encoders are BERT, RoBERTa, DistilBERT, ModernBERT, ELECTRA and others.
"""

from typing import Any

from torch import Tensor, nn

from orca_ray.errors import UserError
from orca_ray.models.body import Body, EncoderBody, GivenEmbeddings, Stem, TextStem
from orca_ray.models.family import Family
from orca_ray.models.transformers_private import fuse_mpnet_attention


def _cut(model: Any) -> tuple[Body, Stem]:
    """Cut an encoder in place, and return its body and its stem.

    Raises UserError if ``model`` is no such encoder.
    """
    embeddings = getattr(model, "embeddings", None)
    if (
        embeddings is None
        or model.config.is_encoder_decoder
        or getattr(model.config, "is_decoder", False)
    ):
        raise UserError(
            f"cannot use a {type(model).__name__} as a body: it must be an encoder with"
            " an `embeddings` module, such as BERT, RoBERTa, MPNet, DistilBERT or"
            " ModernBERT"
        )
    words = model.get_input_embeddings().weight.detach()
    norms = [getattr(embeddings, name, None) for name in ("LayerNorm", "norm")]
    norm = next((norm for norm in norms if norm is not None), nn.Identity())
    places = _places(embeddings)
    model.embeddings = GivenEmbeddings()
    if hasattr(model, "pooler"):
        model.pooler = None  # its parameters would never get a gradient
    return EncoderBody(model, "sequence"), TextStem(words, places, norm)


def _places(embeddings: Any) -> Tensor | None:
    """Return position embeddings [P, D] plus that of the first segment.

    None if positions are relative. Some models have no segments.
    """
    table = getattr(embeddings, "position_embeddings", None)
    if table is None:
        return None
    # The RoBERTa family numbers positions from padding_idx + 1
    # (create_position_ids_from_inputs_embeds).
    is_roberta_like = hasattr(embeddings, "create_position_ids_from_inputs_embeds")
    first_position = embeddings.padding_idx + 1 if is_roberta_like else 0
    places: Tensor = table.weight.detach()[first_position:]
    segments = getattr(embeddings, "token_type_embeddings", None)
    if segments is None:
        return places.clone()
    first_segment: Tensor = segments.weight.detach()[0]
    return places + first_segment


def _cut_mpnet(model: Any) -> tuple[Body, Stem]:
    fuse_mpnet_attention(model)
    return _cut(model)


def _has_no_patches(config: Any) -> bool:
    return not (hasattr(config, "image_size") and hasattr(config, "patch_size"))


FAMILIES = (
    Family(name="MPNet", modality="sequence", model_types=("mpnet",), cut=_cut_mpnet),
    Family(
        name="BERT-like text encoders",
        modality="sequence",
        resembles=_has_no_patches,
        cut=_cut,
    ),
)
