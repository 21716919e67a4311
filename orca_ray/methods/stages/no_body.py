"""The network of `no_body`: one attention layer."""

from torch import Tensor, nn

from orca_ray.models.body import Body
from orca_ray.models.weights import LoadedBody

HEAD_WIDTH = 64


class AttentionBody(Body):
    """One layer of multi-head self-attention with a residual connection and a norm, [B, T, D] -> [B, T, D]."""

    def __init__(self, replaced: LoadedBody, dropout: float) -> None:
        """Initialise at random. The number of tokens and their width are those of the body ``replaced``."""
        super().__init__()
        width = replaced.stem.width
        self.modality, self.num_prefix_tokens = replaced.body.modality, replaced.body.num_prefix_tokens
        self.feature_width = width
        num_heads = width // HEAD_WIDTH if width % HEAD_WIDTH == 0 else 1
        self.attention = nn.MultiheadAttention(width, num_heads, dropout, batch_first=True)
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens_BTD: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """Return the features; ``grid`` is not used."""
        attended, _ = self.attention(tokens_BTD, tokens_BTD, tokens_BTD, need_weights=False)
        features: Tensor = self.norm(tokens_BTD + attended)
        return features
