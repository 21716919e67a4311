"""GPT-Neo as a body: a decoder, like GPT-2, with other names for its parts."""

from typing import Any

import torch
from torch import Tensor, nn

from orca_ray.models.body import Body, Stem
from orca_ray.models.families.decoders import DecoderBody, DecoderStem
from orca_ray.models.family import Family


class NoPositions(nn.Module):
    """Module in place of the table of positions, which the embedder adds."""

    def forward(self, positions: Tensor) -> Tensor:
        """Return a zero that is added to each token."""
        return torch.zeros((), device=positions.device)


def cut(model: Any) -> tuple[Body, Stem]:
    """Split a GPTNeoModel into body and stem."""
    words = model.wte.weight.detach()
    places = model.wpe.weight.detach()
    model.wte = None
    model.wpe = NoPositions()
    model.drop = nn.Identity()
    model.config.use_cache = False
    return DecoderBody(model), DecoderStem(words, places)


def set_depths(config: Any, depths: list[int]) -> None:
    """Keep the first layers, and the kinds of attention of these."""
    (num_layers,) = depths
    kinds = config.attention_layers[:num_layers]
    config.num_layers = num_layers
    config.attention_layers = kinds
    config.attention_types = [[[kind], 1] for kind in kinds]


FAMILY = Family(
    name="GPT-Neo",
    modality="sequence",
    model_types=("gpt_neo",),
    set_depths=set_depths,
    cut=cut,
)
