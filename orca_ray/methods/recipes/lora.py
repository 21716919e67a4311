"""``lora`` and ``orca_lora``: low-rank updates of a frozen body's weights.

They are trained beside embedder and head, without and with aligning first. A linear
layer W [out, in] of the body becomes

    W x + (alpha / rank) B A dropout(x),    A [rank, in], B [out, rank],

of which A and B are trained. B starts at 0, so the network starts as that of ``nft``.
The library ``peft`` does this. Biases and norms of the body stay as pretrained.
``lora.targets`` names the layers by their role, as each library has names of its own; a
body in whose layers a role has no linear layer is refused
(`orca_ray.methods.stages.networks`).

With ``lora.weights: nf4`` the frozen W of the adapted layers takes 4 bits a value
instead of 32, so that bodies of some billion parameters fit one GPU (QLoRA: Dettmers et
al., NeurIPS 2023, arXiv:2305.14314); x, A and B keep their precision. The library
``bitsandbytes`` does this, on CUDA devices and CPUs.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from orca_ray.methods.options import LoraConfig
from orca_ray.methods.recipe import Recipe, deferred, new_parameters

if TYPE_CHECKING:
    from torch.nn import Parameter

    from orca_ray.models.crossmodal import CrossModalModel


def _trainable(model: "CrossModalModel") -> "Iterator[Parameter]":
    yield from new_parameters(model)
    for name, parameter in model.body.named_parameters():
        if "lora_" in name:
            yield parameter


def _recipe(name: str, title: str, *, aligns: bool) -> Recipe:
    """Return the recipe of LoRA, with or without aligning."""
    return Recipe(
        name=name,
        title=title,
        aligns=aligns,
        options=(LoraConfig,),
        network=deferred("orca_ray.methods.stages.networks:lora_network"),
        trainable=_trainable,
        names_body=True,
        relative_cost=0.8,
        reference=(
            "Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022,"
            " arXiv:2106.09685, github.com/microsoft/LoRA"
        ),
        # As with few trained parameters in general, they must change more than those of
        # a whole body.
        defaults={"refine.learning_rate": 1e-3},
    )


RECIPES = (
    _recipe("lora", "refine low-rank updates, embedder and head only", aligns=False),
    _recipe(
        "orca_lora",
        "align, then refine low-rank updates, embedder and head only",
        aligns=True,
    ),
)
