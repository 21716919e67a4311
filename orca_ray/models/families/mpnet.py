"""MPNet: a text encoder whose attention transformers does not fuse."""

from typing import Any

from torch import Tensor
from torch.nn import functional as F
from transformers.models.mpnet.modeling_mpnet import MPNetSelfAttention

from orca_ray.models.body import Body, Stem
from orca_ray.models.families.text import cut_text
from orca_ray.models.family import Family


class FusedMPNetSelfAttention(MPNetSelfAttention):  # type: ignore[misc]  # transformers is not typed
    """MPNet's self-attention as one kernel; relative positions become a bias on the scores, as masks are."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_bias: Tensor | None = None,
        output_attentions: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, ...]:
        """Return the attended states [B, T, D] in a tuple; attention probabilities are computed by transformers."""
        if output_attentions:
            return super().forward(hidden_states, attention_mask, position_bias, output_attentions, **kwargs)  # type: ignore[no-any-return]
        heads = (*hidden_states.shape[:-1], self.num_attention_heads, self.attention_head_size)
        q, k, v = (project(hidden_states).view(heads).transpose(1, 2) for project in (self.q, self.k, self.v))
        bias = position_bias
        if attention_mask is not None:
            bias = attention_mask if bias is None else bias + attention_mask
        attended = F.scaled_dot_product_attention(
            q, k, v, None if bias is None else bias.to(q.dtype), self.dropout.p if self.training else 0.0
        )
        return (self.o(attended.transpose(1, 2).flatten(2)),)


def _cut(model: Any) -> tuple[Body, Stem]:
    for part in model.modules():
        if type(part) is MPNetSelfAttention:
            part.__class__ = FusedMPNetSelfAttention
    return cut_text(model)


FAMILY = Family(name="MPNet", modality="sequence", model_types=("mpnet",), cut=_cut)
