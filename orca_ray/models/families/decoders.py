"""Decoders of language models as bodies.

They are GPT-2, GPT-NeoX (Pythia), Llama, Mistral and Qwen.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from orca_ray.models.body import Body, EncoderBody, Pooling, Stem, TextStem
from orca_ray.models.family import Family


class DecoderBody(EncoderBody):
    """Body of a decoder, without its embedding, [B, T, D] -> [B, T, F].

    Its attention stays causal: feature t depends on the tokens up to t. So the last
    feature, the only one that depends on all tokens, represents the input.
    """

    pooling: Pooling = "last"

    def __init__(self, decoder: Any) -> None:
        super().__init__(decoder, "sequence")


class DecoderStem(TextStem):
    """Stem of a decoder, plus a norm for the embedder's tokens.

    The norm gives them the mean length ‖t‖ of the body's tokens t. It is a LayerNorm
    with gain g = mean ‖t‖ / sqrt(D) over the body's tokens t (arXiv:2512.08374): words
    plus, if the body adds them, positions. Its bias is 0, and its outputs have the norm
    g sqrt(D).
    """

    def __init__(self, word_embeddings: Tensor, places: Tensor | None) -> None:
        """Embed words by ``word_embeddings`` [V, D].

        ``places`` [P, D]: position embeddings; None: positions are rotary.
        """
        num_words, width = word_embeddings.shape
        tokens = word_embeddings
        if places is not None:
            tokens = word_embeddings + places[torch.arange(num_words) % len(places)]
        mean_length = float(tokens.norm(dim=1).mean())
        # eps is smaller than the variance of any body's tokens.
        norm = nn.LayerNorm(width, eps=1e-12)
        nn.init.constant_(norm.weight, mean_length / math.sqrt(width))
        super().__init__(word_embeddings, places, norm)

    def embed_raw(self, inputs: Tensor) -> Tensor:
        """Return the embeddings [B, T, D] of token ids [B, T].

        They are those of the pretrained decoder, without the added norm.
        """
        tokens = F.embedding(inputs, self.word_embeddings)
        places = self.positions((inputs.shape[1],))
        return tokens if places is None else tokens + places


class _NoPositions(nn.Module):
    """Module that replaces a table of positions by zero.

    The embedder has already added positions.
    """

    def forward(self, positions: Tensor) -> Tensor:
        return torch.zeros((), device=positions.device)  # is added to each token


def _cut(model: Any) -> tuple[Body, Stem]:
    """Cut a decoder in place, and return its body and its stem."""
    words = model.get_input_embeddings().weight.detach()
    places = None
    model.set_input_embeddings(None)
    if hasattr(model, "wpe"):
        places = model.wpe.weight.detach()
        model.wpe = _NoPositions()
    # The embedder has its own dropout of embedded tokens.
    for dropout in ("drop", "emb_dropout"):
        if hasattr(model, dropout):
            setattr(model, dropout, nn.Identity())
    model.config.use_cache = False
    return DecoderBody(model), DecoderStem(words, places)


FAMILY = Family(
    name="decoders (GPT-2, GPT-NeoX, Llama, Mistral, Qwen)",
    modality="sequence",
    model_types=("gpt2", "gpt_neox", "llama", "mistral", "qwen2", "qwen3"),
    cut=_cut,
)
