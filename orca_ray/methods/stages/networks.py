"""Changes of the body by methods: the attention layer of `no_body`, and the adapters and 4-bit weights of `lora`.

Adapters are those of ``peft``, 4-bit weights those of ``bitsandbytes``.
"""

import contextlib
import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from orca_ray.errors import UserError
from orca_ray.methods.options import TARGETS, LoraConfig
from orca_ray.methods.stages.trial import NetworkRequest
from orca_ray.models.body import Body, repeated_layers, seeded
from orca_ray.models.crossmodal import CrossModalModel
from orca_ray.models.weights import LoadedBody

_FUSED = {"qkv", "Wqkv", "c_attn", "query_key_value"}
_ROLES: Mapping[str, Callable[[str], bool]] = {
    "attention": lambda name: "att" in name,
    "mlp": lambda name: "att" not in name,
    "query": lambda name: name.rpartition(".")[2] in {"q", "query", "q_proj", "q_lin", *_FUSED},
    "value": lambda name: name.rpartition(".")[2] in {"v", "value", "v_proj", "v_lin", *_FUSED},
}
"""Whether a linear layer has a role, given its name inside a transformer layer, e.g. ``attention.self.query``."""

HEAD_WIDTH = 64
"""Width of an attention head of `AttentionBody` if the token width is a multiple of it; if not, there is one head."""
_BLOCK = 64
"""Number of values with a common scale. Blocks that cross rows are stored wrongly by bitsandbytes 0.50 on the CPU."""


class AttentionBody(Body):
    """Body of one multi-head self-attention layer with a residual connection and a norm, [B, T, D] -> [B, T, D]."""

    def __init__(self, replaced: LoadedBody, dropout: float) -> None:
        """Initialise at random; modality, token width and number of prefix tokens are those of ``replaced``."""
        super().__init__()
        width = replaced.stem.width
        self.modality, self.num_prefix_tokens = replaced.body.modality, replaced.body.num_prefix_tokens
        self.feature_width = width
        num_heads = width // HEAD_WIDTH if width % HEAD_WIDTH == 0 else 1
        self.attention = nn.MultiheadAttention(width, num_heads, dropout, batch_first=True)
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens_BTD: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """Return the features [B, T, D]; ``grid`` is not used."""
        attended, _ = self.attention(tokens_BTD, tokens_BTD, tokens_BTD, need_weights=False)
        features: Tensor = self.norm(tokens_BTD + attended)
        return features


def attention_network(request: NetworkRequest) -> CrossModalModel:
    """Return the model of `no_body`."""
    dropout = request.hyperparameters.refine.dropout
    return request.build(substitute=lambda replaced: AttentionBody(replaced, dropout))


def lora_network(request: NetworkRequest) -> CrossModalModel:
    """Return the model of `lora`."""
    model = request.build()
    with seeded(request.arguments["seed"]):
        insert_adapters(model.body, request.hyperparameters.of(LoraConfig))
    return model


def insert_adapters(body: Body, options: LoraConfig) -> None:
    """Replace linear layers of ``body`` in place by those of `peft`; torch's global generator draws LoRA's A matrices.

    The body must be on the CPU. Raises UserError if a library is not installed, if a layer to adapt is missing
    (see `linear_layers`), or if one cannot be stored in 4 bits.
    """
    try:
        with _without_hub_kernels():
            import peft
    except ModuleNotFoundError as error:
        raise UserError(f"LoRA needs the package {error.name!r}: pip install 'orca-ray[predict]'") from error
    chosen = list(linear_layers(body, options.targets))  # names alone: replaced layers must not stay in memory
    if options.weights == "nf4":
        _quantise(body, chosen)
    config = peft.LoraConfig(
        r=options.rank, lora_alpha=options.alpha, lora_dropout=options.dropout,
        target_modules="|".join(map(re.escape, chosen)),
        fan_in_fan_out=isinstance(body.get_submodule(chosen[0]), Conv1D),
    )  # fmt: skip
    peft.inject_adapter_in_model(config, body)


@contextlib.contextmanager
def _without_hub_kernels() -> Iterator[None]:
    """Context manager: make the package ``kernels`` look missing.

    If it is installed, bitsandbytes, which peft imports, downloads compiled code from the hub and runs it.
    """
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # it warns that the package is missing
    found = sys.modules.get("kernels")
    sys.modules["kernels"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if found is None:
            del sys.modules["kernels"]
        else:
            sys.modules["kernels"] = found


def linear_layers(body: Body, targets: str) -> dict[str, nn.Module]:
    """Return by name the linear layers of ``body`` that LoRA adapts if ``lora.targets`` is ``targets``.

    Raises UserError if the body has no transformer layers, or if one has no linear layer of a kind in ``targets``.
    """
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


def _quantise(body: Body, chosen: Iterable[str]) -> None:
    """Replace each of the ``chosen`` layers by one with 4-bit weights, one at a time, to save memory."""
    try:
        from bitsandbytes.nn import Linear4bit, Params4bit
    except ModuleNotFoundError as error:
        raise UserError(f"lora.weights 'nf4' needs the package {error.name!r}: pip install 'orca-ray[nf4]'") from error
    for name in chosen:
        layer: Any = body.get_submodule(name)
        weight = layer.weight.data.T.contiguous() if isinstance(layer, Conv1D) else layer.weight.data
        if weight.shape[1] % _BLOCK:
            raise UserError(
                f"lora.weights 'nf4': the layer {name} of the body has {weight.shape[1]} inputs, and only multiples of "
                f"{_BLOCK} are stored correctly: use float32, or another body"
            )
        # In float32 or as autocast decides: without a type, the first input's type would change the bias for good.
        quantised = Linear4bit(1, 1, bias=layer.bias is not None, quant_type="nf4", compute_dtype=torch.float32)
        quantised.out_features, quantised.in_features = weight.shape
        quantised.weight = Params4bit(weight, requires_grad=False, quant_type="nf4", module=quantised).to("cpu")
        quantised.bias = layer.bias
        quantised.support_avx512bf16_for_cpu = False  # evaluation would store the weights in another layout
        body.set_submodule(name, quantised)
    setattr(body, "is_loaded_in_4bit", True)  # noqa: B010 (what peft looks at; mypy assumes a module)
