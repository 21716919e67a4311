"""The stem of text encoders."""

import math

from torch import Tensor, nn
from torch.nn import functional as F

from orca_ray.models.body import Layout, Stem


class TextStem(Stem):
    """Word embeddings, position embeddings, the embedding of the first segment, and the norm of their sum."""

    def __init__(self, word_embeddings: Tensor, places: Tensor | None, norm: nn.Module) -> None:
        """Take ``word_embeddings`` [V, D], ``places`` [P, D] (position plus segment; None: relative) and the norm."""
        super().__init__()
        self.word_embeddings = nn.Parameter(word_embeddings, requires_grad=False)
        self.places = None if places is None else nn.Parameter(places, requires_grad=False)
        self.norm = norm.requires_grad_(False)
        self.width = word_embeddings.shape[1]

    def positions(self, layout: Layout) -> Tensor | None:
        """Return positions plus segment in reading order, [T, D], interpolated beyond the pretrained length."""
        if self.places is None:
            return None
        num_tokens = math.prod(layout)
        if num_tokens <= self.places.shape[0]:
            return self.places[:num_tokens]
        stretched = F.interpolate(self.places.T[None], size=num_tokens, mode="linear", align_corners=True)
        return stretched[0].T

    def embed_tokens(self, ids_BS: Tensor) -> Tensor:
        """Embed token ids [B, S] as the pretrained encoder does, [B, S, D]."""
        tokens = F.embedding(ids_BS, self.word_embeddings)
        places = self.positions((ids_BS.shape[1],))
        embedded: Tensor = self.norm(tokens if places is None else tokens + places)
        return embedded

    def token_rms(self) -> float:
        """Return the root mean square of the word embeddings, or of the position embeddings if that is smaller.

        In a signal, the position of a value matters as much as the value, more than in text. A linear probe on the
        frozen minilm-l6 (four layers, digits as 64 tokens, one seed) has an error of 0.275 with the words' RMS and of
        0.228 with half of it; after fine-tuning (mfeat-fourier, three seeds) the seeds' spread exceeds the difference.
        """
        words = float(self.word_embeddings.square().mean().sqrt())
        return words if self.places is None else min(words, float(self.places.square().mean().sqrt()))
