"""The body protocol: a pretrained transformer without its own embedder and head, and its stem.

Tensor suffixes: B batch, T tokens in, S tokens out, D token width, F feature width, C channels, H W height and width.
A *layout* is the spatial arrangement of tokens: ``(T,)`` for a sequence, ``(gh, gw)`` for a grid in row-major order.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from orca_ray.data.bodies import ModalityName

Layout = tuple[int, ...]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's CPU generator inside the block and restore it afterwards; CUDA generators are not touched."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


class Body(nn.Module, ABC):
    """A transformer that maps embedded tokens to features.

    A body owns its layers and its final norm. The embedder adds position embeddings and applies the embedding norm, so
    tokens reach the first layer unchanged. A body keeps no state between calls.
    """

    modality: ModalityName
    feature_width: int
    "F, the width of output features"
    num_prefix_tokens: int = 0
    "Number of leading tokens without a position in the layout (CLS, registers)"

    @abstractmethod
    def forward(self, tokens_BTD: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """Return features [B, S, F]; hierarchical bodies need ``grid``, the layout of the tokens after the prefix."""

    def feature_layout(self, layout: Layout) -> Layout:
        """Return the layout of the features after the prefix, given that of the tokens after the prefix."""
        return layout

    def fit_grid(self, grid: tuple[int, int]) -> None:
        """Adapt parameters that depend on the grid, such as Swin's windows; called once, before training."""


class EncoderBody(Body):
    """A transformers encoder with `GivenEmbeddings`, [B, T, D] -> [B, T, F].

    It needs no attention mask: all sequences of a task have one length, and padding is part of the input.
    """

    def __init__(self, encoder: Any, modality: ModalityName, num_prefix_tokens: int = 0) -> None:
        super().__init__()
        self.encoder = encoder
        self.modality = modality
        self.feature_width = int(encoder.config.hidden_size)
        self.num_prefix_tokens = num_prefix_tokens

    def forward(self, tokens_BTD: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """Return the last hidden state; ``grid`` is ignored."""
        named = {"inputs_embeds": tokens_BTD} if self.modality == "sequence" else {"pixel_values": tokens_BTD}
        features: Tensor = self.encoder(**named).last_hidden_state
        return features


def set_dropout(module: nn.Module, probability: float) -> None:
    """Set the probability of all dropout in ``module``, attention dropout included."""
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = probability
        # Attention modules of recent transformers store the probability and pass it to SDPA.
        for name in ("attention_dropout", "dropout_prob"):
            if isinstance(getattr(part, name, None), float | int):
                setattr(part, name, probability)


def has_stochastic_depth(module: nn.Module) -> bool:
    """Return whether training may skip some layer of ``module``."""
    rates = (getattr(part, "drop_prob", None) for part in module.modules())
    return any(isinstance(rate, float | int) and rate > 0 for rate in rates)


def switch_stochastic_depth_off(module: nn.Module) -> None:
    """Let training skip no layer of ``module``."""
    for part in module.modules():
        if isinstance(getattr(part, "drop_prob", None), float | int):
            setattr(part, "drop_prob", 0.0)  # noqa: B010 (mypy takes a module's attributes for modules)


class Stem(nn.Module, ABC):
    """The body's own embedding part, frozen and shared between callers: read or copy it, never train it."""

    width: int
    norm: nn.Module
    "Norm of embedded tokens; the identity if the body has none"

    @abstractmethod
    def positions(self, layout: Layout) -> Tensor | None:
        """Return the position embeddings of a layout, [number of tokens, D]; None if positions are relative."""

    @abstractmethod
    def token_rms(self) -> float:
        """Return the root mean square of the body's own tokens before positions and norm."""


class GivenEmbeddings(nn.Module):
    """Replaces the embedding module of a transformers model and returns the tokens that the model is given."""

    def forward(self, *given: Any, **named: Any) -> Tensor:
        """Return the embedded tokens, whichever argument the model passes them in."""
        embedded = named.get("inputs_embeds")
        candidates = (*given, *named.values()) if embedded is None else (embedded,)
        return next(value for value in candidates if isinstance(value, Tensor))
