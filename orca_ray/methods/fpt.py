"""Frozen pretrained transformer: attention and feed-forward weights do not train."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from orca_ray.methods.recipe import Recipe, head_parameters, norm_parameters

if TYPE_CHECKING:
    from torch.nn import Parameter

    from orca_ray.models.crossmodal import CrossModalModel


def trainable(model: "CrossModalModel") -> "Iterator[Parameter]":
    """Yield the embedder (including position embeddings), the body's norms, and the head."""
    yield from model.embedder.parameters()
    yield from norm_parameters(model.body)
    yield from head_parameters(model)


RECIPE = Recipe(
    name="fpt",
    title="refine norms, embedder and head only",
    reference="Lu et al., Pretrained Transformers as Universal Computation Engines, AAAI 2022, arXiv:2103.05247",
    aligns=False,
    pretrained=True,
    trainable=trainable,
    # The learning rate of the paper: few parameters train, and they have far to move.
    defaults={"refine.learning_rate": 1e-3},
)
