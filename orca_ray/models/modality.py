"""Modalities (sequence, image): alignment sources, settings and numbers of tokens.

This module imports neither torch nor the Hugging Face library, so that a sweep can be
planned without them.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal, get_args

from orca_ray.data.rows import ModalityName
from orca_ray.errors import lookup
from orca_ray.models.names import listed_body
from orca_ray.options import Config, Number, must, one_of

Patching = Literal["pad", "divide"]
Initialisation = Literal["body", "paper", "random"]
DenseHeadName = Literal["learned", "pooled"]


@dataclass(frozen=True)
class EmbedderConfig(Config):
    """Settings of the embedder, which maps raw inputs to tokens."""

    sequence_length: Number = 64
    """Largest number of tokens of an input for a 1-D body; the patch length follows
    from it.
    """
    image_size: Annotated[
        int, partial(must, "1 to 4096", lambda value: 1 <= value <= 4096)
    ] = 56
    """Side in pixels that inputs of a 2-D body are resized to, rounded to a multiple of
    the body's patch side.
    """
    patching: Annotated[Patching, partial(one_of, get_args(Patching))] = "pad"
    """How a series is cut. ``pad``: into the smallest patches that give at most
    ``sequence_length`` tokens; the end is padded. ``divide``: the patch length must
    also divide the series, as in ORCA's code (if prime: one token).
    """
    initialisation: Annotated[
        Initialisation, partial(one_of, get_args(Initialisation))
    ] = "body"
    """Initial kernel and norm, and whether the norm precedes the positions. ``body``: a
    kernel computed from the body's own embedding, the body's norm and order. ``paper``,
    as ORCA's code with aligning: image bodies get their patch kernel repeated over the
    channels, text bodies a Xavier kernel, and positions after the norm; the norm is the
    body's. ``random``, as ORCA's code without aligning: the order of ``paper``, but a
    random kernel (text bodies: Xavier again) and a new norm.
    """


@dataclass(frozen=True)
class HeadConfig(Config):
    """Settings of the head, which maps the body's features to predictions."""

    dense: Annotated[DenseHeadName, partial(one_of, get_args(DenseHeadName))] = (
        "learned"
    )
    """Head for fields. ``learned``: a linear layer maps each feature to a patch.
    ``pooled``, as in ORCA's code: text bodies' patches are averages over a feature's
    components; with image bodies, a linear layer maps each feature to its part of an
    RGB image, whose colours and pixels are averaged.
    """


def patch_side(
    size: tuple[int, ...], most_tokens: int, *, divides: bool = False
) -> int:
    """Return the smallest patch side that gives at most ``most_tokens`` patches.

    ``size`` is the size of the input, which is padded to whole patches. With
    ``divides``, the side must also divide the length of a series, so that no padding is
    needed; images ignore this.
    """
    points_per_token = math.prod(size) / most_tokens
    side = max(1, math.floor(math.pow(points_per_token, 1 / len(size))))
    while math.prod(math.ceil(length / side) for length in size) > most_tokens:
        side += 1
    if divides and len(size) == 1:
        while size[0] % side:
            side += 1
    return side


def _sequence_tokens(
    input_shape: tuple[int, ...] | None, config: EmbedderConfig, patch_size: int = 16
) -> float:
    """Return the number of patches of an input; for ``pad``, an upper bound.

    A 2-D input counts as a flattened series.
    """
    most_tokens = config.sequence_length
    length = most_tokens if input_shape is None else math.prod(input_shape[1:])
    is_series = input_shape is None or len(input_shape) == 2
    if config.patching == "divide" and is_series:
        return length // patch_side((length,), most_tokens, divides=True)
    return min(most_tokens, length)


@dataclass(frozen=True, kw_only=True)
class Modality:
    """Kind of body, defined by its pretraining data (text or images).

    It holds everything that depends on the kind. To add a modality, add an instance to
    `_ALL`, and its embedder to `embedder.EMBEDDERS`.
    """

    name: ModalityName
    paper_source: str
    """Name of the ORCA paper's alignment source: data whose features an embedder learns
    to match. It is the default source.
    """
    stand_in: str
    """Name of the alignment source that replaces ``paper_source`` where that cannot be
    fetched; it comes in Python packages.
    """
    source_size: Callable[[int, int], tuple[int, int]]
    """Maps (image size, number of tokens) to the arguments for an alignment source of
    this modality; the quantity that its samples do not have becomes 0.
    """
    num_tokens: Callable[..., float]
    """Returns the number of tokens of one sample, without prefix tokens and padding.

    It serves estimates of cost. Arguments: input shape, (C, L), (C, H, W) or None if
    not yet known; `EmbedderConfig`; ``patch_size`` of a 2-D body.
    """
    paper_embedder: Callable[[int], Mapping[str, int | str]]
    """Returns the fields of `EmbedderConfig` that reproduce the paper, given its
    ``target_seq_len``.
    """


_ALL = (
    Modality(
        name="sequence",
        paper_source="conll2003",
        stand_in="prose",
        source_size=lambda image_size, num_tokens: (0, num_tokens),
        num_tokens=_sequence_tokens,
        paper_embedder=lambda max_tokens: {
            "sequence_length": max_tokens,
            "patching": "divide",
        },
    ),
    Modality(
        name="image",
        paper_source="cifar10",
        stand_in="photographs",
        source_size=lambda image_size, num_tokens: (image_size, 0),
        # Inputs are resized, so the number of patches does not depend on the size of
        # the input.
        num_tokens=lambda input_shape, config, patch_size=16: (
            (config.image_size / patch_size) ** 2
        ),
        paper_embedder=lambda max_tokens: {"image_size": 224},
    ),
)
MODALITIES: Mapping[str, Modality] = {modality.name: modality for modality in _ALL}


def get_modality(name: str) -> Modality:
    """Return the modality called ``name``; raises UserError for an unknown name."""
    return lookup("modality", name, MODALITIES)


def modality_of(body: str, otherwise: ModalityName) -> Modality:
    """Return the modality of a body that `list_bodies` lists.

    For other bodies, return the modality ``otherwise``.
    """
    info = listed_body(body)
    return get_modality(otherwise if info is None else info.modality)
