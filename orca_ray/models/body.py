"""The body protocol: a pretrained transformer without its own embedder and head, and the stem it was cut from.

Tensor suffixes: B batch, T tokens in, S tokens out, D token width, F feature width, C channels, H W height and width.
A *layout* is how tokens lie in space: ``(T,)`` for a sequence, ``(gh, gw)`` for a grid in row-major order.
"""

import copy
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
    """Seed torch's CPU generator inside the block and give it back untouched; CUDA generators are left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


class Body(nn.Module, ABC):
    """A transformer that takes embedded tokens and returns features.

    A body owns its layers and its final norm. It adds neither positions nor embedding norms: the embedder does, so that
    tokens reach the first layer exactly as given. It keeps no state between calls.
    """

    modality: ModalityName
    width: int
    "D, numbers in one token going in"
    feature_width: int
    "F, numbers in one feature coming out"
    max_tokens: int | None
    "How many positions were pretrained; longer inputs get interpolated ones. None: positions are relative"
    num_prefix_tokens: int = 0
    "Leading tokens that stand for no place (CLS, registers)"

    @abstractmethod
    def forward(self, tokens_BTD: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """Return features [B, S, F]; hierarchical bodies need ``grid``, the layout of the tokens after the prefix."""

    def feature_layout(self, layout: Layout) -> Layout:
        """Layout of the features after the prefix, given that of the tokens after the prefix."""
        return layout

    def fit_grid(self, grid: tuple[int, int]) -> None:
        """Adapt parameters that depend on the grid (Swin's windows); called once, before training."""


def set_dropout(module: nn.Module, probability: float) -> None:
    """Set every dropout of ``module``, attention's included."""
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = probability
        # Attention modules of recent transformers hold the probability itself and hand it to SDPA.
        for name in ("attention_dropout", "dropout_prob"):
            if isinstance(getattr(part, name, None), float | int):
                setattr(part, name, probability)


def has_stochastic_depth(module: nn.Module) -> bool:
    """Whether some layer of ``module`` may be skipped while training."""
    rates = (getattr(part, "drop_prob", None) for part in module.modules())
    return any(isinstance(rate, float | int) and rate > 0 for rate in rates)


def switch_stochastic_depth_off(module: nn.Module) -> None:
    """Let no layer of ``module`` be skipped while training."""
    for part in module.modules():
        if isinstance(getattr(part, "drop_prob", None), float | int):
            setattr(part, "drop_prob", 0.0)  # noqa: B010 (mypy takes a module's attributes for modules)


class Stem(nn.Module, ABC):
    """The body's own embedding part, frozen and shared between callers: read it, copy from it, never train it."""

    width: int
    norm: nn.Module
    "Norm on embedded tokens (identity when the body has none)"

    @abstractmethod
    def positions(self, layout: Layout) -> Tensor | None:
        """What the body adds to each token for its place, [number of places, D]; None when positions are relative."""

    @abstractmethod
    def token_rms(self) -> float:
        """Root mean square of the body's own tokens before positions and norms are added."""

    def copy_norm(self) -> nn.Module:
        """A trainable copy of the norm on embedded tokens; identity when the body has none."""
        return copy.deepcopy(self.norm).requires_grad_(True)


class GivenEmbeddings(nn.Module):
    """Stands where a Hugging Face model keeps its embeddings and passes on the tokens it is given."""

    def forward(self, *given: Any, **named: Any) -> Tensor:
        """Return the embedded tokens, whichever argument the model put them in."""
        tokens = named.get("inputs_embeds")
        if tokens is None:
            tokens = next(value for value in (*given, *named.values()) if isinstance(value, Tensor))
        assert isinstance(tokens, Tensor)
        return tokens
