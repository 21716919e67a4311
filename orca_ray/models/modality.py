"""Modalities: for each kind of body its embedder, default bodies and sources, and how inputs are sized for it.

Imports neither torch nor transformers, so that a sweep can be planned without them.
"""

import importlib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from orca_ray.data.bodies import ModalityName
from orca_ray.errors import lookup, unknown_name
from orca_ray.models.names import listed_body

if TYPE_CHECKING:
    from orca_ray.models.body import Stem
    from orca_ray.models.embedder import Embedder


@dataclass(frozen=True)
class EmbedderConfig:
    """How raw inputs become tokens."""

    sequence_length: int = 64
    "Largest number of tokens that a 1-D body sees; the patch length follows from it"
    image_size: int = 56
    "Pixels a side that a 2-D body sees, rounded to a whole number of its patches"
    patching: Literal["pad", "divide"] = "pad"
    """How a series is cut. ``pad``: into the smallest patches that give no more tokens, its end padded; ``divide``:
    into the smallest that also divide its length, as the reference does: one token for a series of prime length."""
    initialisation: Literal["body", "random"] = "body"
    "`body`: kernels made of the body's own embedding; `random`: torch's default at the same scale"

    def __post_init__(self) -> None:
        for name in ("sequence_length", "image_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"embedder.{name} must be at least 1, got {getattr(self, name)}")
        for name, allowed in (("initialisation", ("body", "random")), ("patching", ("pad", "divide"))):
            if getattr(self, name) not in allowed:
                raise unknown_name(f"embedder {name}", getattr(self, name), allowed)


@dataclass(frozen=True)
class Modality(ABC):
    """A kind of body: what it reads, and everything that follows from that.

    A new modality is a subclass in this module, listed in `MODALITIES`.
    """

    name: ModalityName
    default_source: str
    """Alignment source that needs no download from the web."""
    paper_source: str
    """Alignment source of the ORCA paper."""
    embedder_class: str
    """Name of the class in :mod:`orca_ray.models.embedder`."""

    def embedder(
        self, input_shape: tuple[int, ...], stem: "Stem", config: EmbedderConfig, dropout: float, seed: int
    ) -> "Embedder":
        """Build the embedder of inputs (C, L) or (C, H, W) for a body with this stem."""
        embedders = importlib.import_module("orca_ray.models.embedder")
        built: Embedder = getattr(embedders, self.embedder_class)(input_shape, stem, config, dropout, seed)
        return built

    def source_image_size(self, image_size: int) -> int:
        """Return the image size that source features depend on; 0 where they depend on none, as for text."""
        return 0

    @abstractmethod
    def num_tokens(self, input_shape: tuple[int, ...] | None, config: EmbedderConfig, patch_size: int = 16) -> float:
        """Return the number of tokens of one sample, for cost estimates, without prefix tokens and padding.

        ``input_shape`` is (C, L) or (C, H, W), None where it is not known yet; ``patch_size`` is the body's.
        """

    @abstractmethod
    def paper_embedder(self, max_tokens: int) -> Mapping[str, int | str]:
        """Return the fields of `EmbedderConfig` that the paper sets, given its ``target_seq_len``."""


class SequenceModality(Modality):
    """Sequences: inputs are cut into patches, at most ``sequence_length`` of them."""

    def num_tokens(self, input_shape: tuple[int, ...] | None, config: EmbedderConfig, patch_size: int = 16) -> float:
        """Return the number of patches; 2-D inputs are read row by row."""
        most = config.sequence_length
        length = most if input_shape is None else math.prod(input_shape[1:])
        if config.patching == "divide" and (input_shape is None or len(input_shape) == 2):
            patches = (patch for patch in range(1, length + 1) if length % patch == 0 and length <= most * patch)
            return length // next(patches)
        return min(most, length)

    def paper_embedder(self, max_tokens: int) -> Mapping[str, int | str]:
        """Cut a series into at most ``max_tokens`` patches that divide its length."""
        return {"sequence_length": max_tokens, "patching": "divide"}


class ImageModality(Modality):
    """Images: inputs are resized to ``image_size`` pixels a side, and cut into the body's own patches."""

    def source_image_size(self, image_size: int) -> int:
        """Return ``image_size``: source images are resized as inputs are."""
        return image_size

    def num_tokens(self, input_shape: tuple[int, ...] | None, config: EmbedderConfig, patch_size: int = 16) -> float:
        """Return the number of patches, which does not depend on the input's own size."""
        return (config.image_size / patch_size) ** 2

    def paper_embedder(self, max_tokens: int) -> Mapping[str, int | str]:
        """Resize to 224 pixels a side."""
        return {"image_size": 224}


_ALL = (
    SequenceModality("sequence", "vocabulary", "conll2003", "SequenceEmbedder"),
    ImageModality("image", "images", "cifar10", "ImageEmbedder"),
)
MODALITIES: Mapping[str, Modality] = {modality.name: modality for modality in _ALL}


def get_modality(name: str) -> Modality:
    """Return a modality by name; raises UserError for an unknown one."""
    return lookup("modality", name, MODALITIES)


def modality_of(body: str, otherwise: ModalityName) -> Modality:
    """Return the modality of a listed body, by its name alone; ``otherwise`` for names that are not listed."""
    return get_modality(otherwise if (info := listed_body(body)) is None else info.modality)
