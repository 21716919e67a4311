"""Interfaces of bodies (pretrained transformers without embedding and head) and of stems (their embeddings).

Tensor suffixes: B batch, T input tokens, S output features, D token width, F feature width, C channels, H and W sides.
A *layout* is the spatial arrangement of tokens: ``(T,)`` for a sequence, ``(gh, gw)`` for a grid in row-major order.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from orca_ray.data.rows import ModalityName
from orca_ray.errors import UserError
from orca_ray.models.modality import ContextName

Layout = tuple[int, ...]
Pooling = Literal["mean", "last"]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's CPU generator inside the block and restore it afterwards; CUDA generators are not touched."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


class Body(nn.Module, ABC):
    """A transformer that maps embedded tokens to features.

    A body consists of its layers and its final norm. The embedder has already added the position embeddings and applied
    the embedding norm, so a body must not apply them again. A body keeps no state between calls.
    """

    modality: ModalityName
    feature_width: int
    "F, the width of output features"
    num_prefix_tokens: int = 0
    "Number of leading tokens, such as CLS and registers, that are not part of the layout"
    pooling: Pooling = "mean"
    "Feature of a whole input: the mean of all, or the last one if only that depends on all tokens"

    @abstractmethod
    def forward(self, tokens_BTD: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """Return the features [B, S, F] of tokens. ``grid``: layout of the tokens without the prefix; Swin needs it."""

    def feature_layout(self, layout: Layout) -> Layout:
        """Return the layout of the features for tokens of ``layout``; prefix tokens are part of no layout."""
        return layout

    def fit_grid(self, grid: tuple[int, int]) -> None:
        """Adapt parameters that depend on the grid, such as Swin's windows; called once, before training."""

    def exportable(self) -> "Body":
        """Return a body of torch's operations alone that computes the same, for exported networks."""
        return self

    def set_context(self, context: ContextName) -> None:
        """Set which tokens the features of a causal body depend on; UserError for other bodies, unless ``causal``."""
        if context != "causal":
            raise UserError(
                f"decoder.context {context!r} is for decoders, such as GPT-2: this body's tokens attend to all others, "
                "so leave it 'causal', which changes nothing"
            )


class EncoderBody(Body):
    """A Hugging Face encoder whose embedding module is replaced by `GivenEmbeddings`, [B, T, D] -> [B, T, F].

    It uses no attention mask: all inputs of a task have the same number of tokens, and padding is treated as input.
    """

    def __init__(self, encoder: Any, modality: ModalityName, num_prefix_tokens: int = 0) -> None:
        super().__init__()
        self.encoder = encoder
        self.modality = modality
        self.feature_width = int(encoder.config.hidden_size)
        self.num_prefix_tokens = num_prefix_tokens

    def forward(self, tokens_BTD: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """Return the encoder's last hidden state; ``grid`` is not used."""
        named = {"inputs_embeds": tokens_BTD} if self.modality == "sequence" else {"pixel_values": tokens_BTD}
        features: Tensor = self.encoder(**named).last_hidden_state
        return features


def num_values(parameter: nn.Parameter) -> int:
    """Return the number of values of a parameter; one with 4-bit values stores two in a byte."""
    quantised = getattr(parameter, "quant_state", None)
    return parameter.numel() if quantised is None else math.prod(quantised.shape)


def set_dropout(module: nn.Module, probability: float) -> None:
    """Set the probability of all dropout in ``module``, attention dropout included."""
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = probability
        # Attention modules of the Hugging Face library store the probability as a number and pass it to SDPA.
        for name in ("attention_dropout", "dropout_prob"):
            if isinstance(getattr(part, name, None), float | int):
                setattr(part, name, probability)


def has_stochastic_depth(module: nn.Module) -> bool:
    """Return whether a layer of ``module`` is skipped in training with a probability above 0."""
    rates = (getattr(part, "drop_prob", None) for part in module.modules())
    return any(isinstance(rate, float | int) and rate > 0 for rate in rates)


def switch_stochastic_depth_off(module: nn.Module) -> None:
    """Set the probability of skipping a layer in training to 0 for all layers of ``module``."""
    for part in module.modules():
        if isinstance(getattr(part, "drop_prob", None), float | int):
            setattr(part, "drop_prob", 0.0)  # noqa: B010 (mypy assumes that attributes of a module are modules)


class Stem(nn.Module, ABC):
    """The embedding of a pretrained model. Its parameters are frozen and shared by all callers: only read them."""

    width: int
    norm: nn.Module
    "Norm of embedded tokens; the identity if the body has none"

    @abstractmethod
    def positions(self, layout: Layout) -> Tensor | None:
        """Return position embeddings [T, D] for a ``layout`` of T tokens; None if the body uses relative positions."""

    @abstractmethod
    def token_rms(self) -> float:
        """Return the root mean square for tokens before positions and norm, close to that of pretrained tokens."""

    @abstractmethod
    def embed_raw(self, inputs: Tensor) -> Tensor:
        """Embed the inputs of pretraining as tokens [B, T, D]: token ids [B, T], or pixels [B, 3, H, W] in 0 … 255."""


class GivenEmbeddings(nn.Module):
    """Replaces the embedding module of a Hugging Face model: returns the already embedded tokens unchanged."""

    def forward(self, *given: Any, **named: Any) -> Tensor:
        """Return the argument ``inputs_embeds`` if it is given, else the first argument that is a tensor."""
        embedded = named.get("inputs_embeds")
        candidates = (*given, *named.values()) if embedded is None else (embedded,)
        return next(value for value in candidates if isinstance(value, Tensor))


def repeated_layers(module: nn.Module) -> list[nn.Module]:
    """Return the layers of a transformer: the members of each innermost module list whose members share a class."""
    found: list[nn.Module] = []
    for part in module.modules():
        members = list(part.children())
        if not isinstance(part, nn.ModuleList | nn.Sequential) or not members:
            continue
        alike = len({type(member) for member in members}) == 1 and all(list(m.children()) for m in members)
        if alike and not any(repeated_layers(member) for member in members):
            found += members
    return found


def checkpoint_layers(module: nn.Module) -> int:
    """Make every repeated layer of ``module`` recompute its activations in training; return the number of layers.

    Gradients do not change: random states are stored, so dropout masks are the same. Evaluation is not affected.
    """
    layers = repeated_layers(module)
    for layer in layers:
        if "forward" not in layer.__dict__:  # otherwise it is already wrapped
            layer.forward = partial(_recomputed, layer, layer.forward)
    return len(layers)


def _recomputed(layer: nn.Module, forward: Callable[..., Any], *given: Any, **named: Any) -> Any:
    if layer.training and torch.is_grad_enabled():
        return checkpoint(forward, *given, use_reentrant=False, **named)
    return forward(*given, **named)
