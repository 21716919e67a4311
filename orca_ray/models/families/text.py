"""Hugging Face text encoders: MPNet, and BERT-like ones such as BERT, RoBERTa,
DistilBERT, ModernBERT and ELECTRA.
"""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.mpnet.modeling_mpnet import MPNetSelfAttention

from orca_ray.errors import UserError
from orca_ray.models.body import Body, EncoderBody, GivenEmbeddings, Stem, TextStem
from orca_ray.models.family import Family


def _cut(model: Any) -> tuple[Body, Stem]:
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
    norm = (
        getattr(embeddings, "LayerNorm", None)
        or getattr(embeddings, "norm", None)
        or nn.Identity()
    )
    places = _places(embeddings)
    model.embeddings = GivenEmbeddings()
    if hasattr(model, "pooler"):
        model.pooler = None  # its parameters would never get a gradient
    return EncoderBody(model, "sequence"), TextStem(words, places, norm)


def _places(embeddings: Any) -> Tensor | None:
    """Return position embeddings [P, D] plus a segment embedding, if there is one; None
    if positions are relative.
    """
    table = getattr(embeddings, "position_embeddings", None)
    if table is None:
        return None
    # The RoBERTa family numbers positions from padding_idx + 1
    # (create_position_ids_from_inputs_embeds).
    roberta_like = hasattr(embeddings, "create_position_ids_from_inputs_embeds")
    places: Tensor = table.weight.detach()[
        embeddings.padding_idx + 1 if roberta_like else 0 :
    ]
    segments = getattr(embeddings, "token_type_embeddings", None)
    return places.clone() if segments is None else places + segments.weight.detach()[0]


class FusedMPNetSelfAttention(MPNetSelfAttention):  # type: ignore[misc]  # transformers is not typed
    """MPNet's self-attention module, computed by a fused kernel; position biases are
    part of its attention mask.
    """

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_bias: Tensor | None = None,
        output_attentions: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, ...]:
        """Return the attended states [B, T, D] in a tuple; if ``output_attentions``,
        call the base class's method.
        """
        if output_attentions:
            return super().forward(  # type: ignore[no-any-return]
                hidden_states,
                attention_mask,
                position_bias,
                output_attentions,
                **kwargs,
            )
        heads = (
            *hidden_states.shape[:-1],
            self.num_attention_heads,
            self.attention_head_size,
        )
        q, k, v = (
            project(hidden_states).view(heads).transpose(1, 2)
            for project in (self.q, self.k, self.v)
        )
        bias = position_bias
        if attention_mask is not None:
            bias = attention_mask if bias is None else bias + attention_mask
        attended = F.scaled_dot_product_attention(
            q,
            k,
            v,
            None if bias is None else bias.to(q.dtype),
            self.dropout.p if self.training else 0.0,
        )
        return (self.o(attended.transpose(1, 2).flatten(2)),)


def _cut_mpnet(model: Any) -> tuple[Body, Stem]:
    for part in model.modules():
        if type(part) is MPNetSelfAttention:
            part.__class__ = FusedMPNetSelfAttention
    return _cut(model)


FAMILIES = (
    Family(name="MPNet", modality="sequence", model_types=("mpnet",), cut=_cut_mpnet),
    Family(
        name="BERT-like text encoders",
        modality="sequence",
        resembles=lambda config: (
            not (hasattr(config, "image_size") and hasattr(config, "patch_size"))
        ),
        cut=_cut,
    ),
)
