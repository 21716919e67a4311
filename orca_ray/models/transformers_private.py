"""Private parts of transformers 5.24 that bodies use, as there are no public ones.

`tests/models/test_transformers_private.py` says what breaks when one of them changes.
"""

from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from transformers.initialization import no_init_weights
from transformers.models.mpnet.modeling_mpnet import MPNetSelfAttention


def attention_of(config: Any) -> str | None:
    """Return the attention implementation that a configuration asks for.

    None means the library's default. The public argument ``attn_implementation`` can
    only be written.
    """
    attention: str | None = getattr(config, "_attn_implementation", None)
    return attention


def skip_initialisation() -> AbstractContextManager[None]:
    """Return a context in which new models are not initialised at random.

    The public way to build a model without initialising it needs a file of weights.
    """
    context: AbstractContextManager[None] = no_init_weights()
    return context


class FusedMPNetSelfAttention(MPNetSelfAttention):  # type: ignore[misc]  # transformers is not typed
    """MPNet's self-attention, computed by a fused kernel.

    The library has no fused attention for MPNet. Position biases become part of the
    attention mask.
    """

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_bias: Tensor | None = None,
        output_attentions: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, ...]:
        """Return the attended states [B, T, D] in a tuple.

        If ``output_attentions``, call the base class's method, which returns attention
        weights, too.
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


def fuse_mpnet_attention(model: nn.Module) -> None:
    """Let every self-attention of an MPNet model be computed by a fused kernel."""
    for module in model.modules():
        if type(module) is MPNetSelfAttention:
            module.__class__ = FusedMPNetSelfAttention


def shrink_swin_window(block: Any, window: int) -> None:
    """Reduce a Swin block's window to ``window`` tokens a side.

    Position biases of offsets inside such a window are kept. The library shrinks a
    window without its table of position biases, and then fails.
    """
    bias = block.attention.relative_position_bias
    old_window = int(bias.window_size[0])
    if window == old_window:
        return
    table = bias.relative_position_bias_table.detach()
    num_heads = table.shape[1]
    square = table.view(2 * old_window - 1, 2 * old_window - 1, num_heads)
    offsets = slice(old_window - window, old_window + window - 1)
    kept = square[offsets, offsets].reshape(-1, num_heads).clone()
    smaller = type(bias)(num_heads, (window, window))
    smaller.relative_position_bias_table = nn.Parameter(kept)
    block.attention.relative_position_bias = smaller.to(table.device)
    block.window_size = window
