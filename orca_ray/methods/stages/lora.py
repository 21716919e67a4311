"""Inserts the adapters of LoRA into a body, by the library ``peft``."""

import re
from collections.abc import Callable, Mapping

from torch import nn
from transformers.pytorch_utils import Conv1D

from orca_ray.errors import UserError
from orca_ray.methods.lora import TARGETS, LoraConfig
from orca_ray.models.body import Body
from orca_ray.models.checkpointing import repeated_layers

_FUSED = {"qkv", "Wqkv", "c_attn", "query_key_value"}
_ROLES: Mapping[str, Callable[[str], bool]] = {
    "attention": lambda name: "att" in name,
    "mlp": lambda name: "att" not in name,
    "query": lambda name: name.rpartition(".")[2] in {"q", "query", "q_proj", "q_lin", *_FUSED},
    "value": lambda name: name.rpartition(".")[2] in {"v", "value", "v_proj", "v_lin", *_FUSED},
}
"""Whether a linear layer has a role, given its name inside a transformer layer, e.g. ``attention.self.query``."""


def insert_adapters(body: Body, options: LoraConfig) -> None:
    """Replace linear layers of ``body`` by those of `peft`; torch's global generator draws the matrices A.

    Raises UserError if `peft` is not installed, or if a role has no linear layer in some layer of the body.
    """
    try:
        import peft
    except ModuleNotFoundError as error:
        raise UserError(f"LoRA needs the package {error.name!r}: pip install 'orca-ray[sweep]'") from error
    chosen = linear_layers(body, options.targets)
    config = peft.LoraConfig(
        r=options.rank, lora_alpha=options.alpha, lora_dropout=options.dropout,
        target_modules="|".join(map(re.escape, chosen)), fan_in_fan_out=isinstance(next(iter(chosen.values())), Conv1D),
    )  # fmt: skip
    peft.inject_adapter_in_model(config, body)


def linear_layers(body: Body, targets: str) -> dict[str, nn.Module]:
    """Return the linear layers of ``body`` that ``lora.targets`` means, by name; raises UserError if one has none."""
    names = {module: name for name, module in body.named_modules()}
    layers = repeated_layers(body)
    if not layers:
        raise UserError(f"LoRA adapts transformer layers, and the body ({type(body).__name__}) has none")
    chosen: dict[str, nn.Module] = {}
    for layer in layers:
        linear = {name: part for name, part in layer.named_modules() if isinstance(part, nn.Linear | Conv1D)}
        for role in TARGETS[targets]:
            found = {f"{names[layer]}.{name}": part for name, part in linear.items() if _ROLES[role](name)}
            if not found:
                raise UserError(
                    f"lora.targets {targets!r}: the body has no linear layer for {role} in {names[layer]}, which has "
                    f"{', '.join(linear) or 'no linear layer at all'}: choose another of {', '.join(TARGETS)}"
                )
            chosen |= found
    return chosen
