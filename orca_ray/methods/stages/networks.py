"""Changes that methods make to the body: an attention layer, and adapters.

The attention layer replaces the body in `no_body`. The adapters are those of `lora`,
and ``peft`` makes them.
"""

import contextlib
import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from orca_ray.errors import UserError
from orca_ray.methods.options import TARGETS, LoraConfig
from orca_ray.methods.stages.four_bit import quantise
from orca_ray.methods.stages.trial import NetworkRequest
from orca_ray.models.body import Body, repeated_layers, seeded
from orca_ray.models.crossmodal import CrossModalModel
from orca_ray.models.weights import LoadedBody

_FUSED = {"qkv", "Wqkv", "c_attn", "query_key_value"}
"""Names of layers that project to queries, keys and values together."""
_QUERY = {"q", "query", "q_proj", "q_lin", *_FUSED}
"""Names of layers that project to queries."""
_VALUE = {"v", "value", "v_proj", "v_lin", *_FUSED}
"""Names of layers that project to values."""
_ROLES: Mapping[str, Callable[[str], bool]] = {
    "attention": lambda name: "att" in name,
    "mlp": lambda name: "att" not in name,
    "query": lambda name: name.rpartition(".")[2] in _QUERY,
    "value": lambda name: name.rpartition(".")[2] in _VALUE,
}
"""Functions that return whether a linear layer has a role.

They get its name inside a transformer layer, e.g. ``attention.self.query``.
"""

HEAD_WIDTH = 64
"""Width of an attention head of `AttentionBody` if it divides the width of tokens.

If it does not, there is one head.
"""


class AttentionBody(Body):
    """Body of one self-attention layer, [B, T, D] -> [B, T, D].

    The layer has several heads, a residual connection and a norm.
    """

    def __init__(self, replaced: LoadedBody, dropout: float) -> None:
        """Initialise at random, in the place of the body ``replaced``.

        Modality, token width and number of prefix tokens are those of ``replaced``.
        """
        super().__init__()
        width = replaced.stem.width
        self.modality = replaced.body.modality
        self.num_prefix_tokens = replaced.body.num_prefix_tokens
        self.feature_width = width
        num_heads = width // HEAD_WIDTH if width % HEAD_WIDTH == 0 else 1
        self.attention = nn.MultiheadAttention(
            width, num_heads, dropout, batch_first=True
        )
        self.norm = nn.LayerNorm(width)

    def forward(
        self, tokens_BTD: Tensor, grid: tuple[int, int] | None = None
    ) -> Tensor:
        """Return the features [B, T, D]; ``grid`` is not used."""
        attended, _ = self.attention(
            tokens_BTD, tokens_BTD, tokens_BTD, need_weights=False
        )
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
    """Replace linear layers of ``body`` in place by those of `peft`.

    torch's global generator draws LoRA's A matrices. The body must be on the CPU.
    Raises UserError if the library is not installed, if a layer to adapt is missing
    (see `linear_layers`), or if a layer cannot be stored in 4 bits (see `quantise`).
    """
    try:
        with _without_hub_kernels():
            import peft
    except ModuleNotFoundError as error:
        raise UserError(
            f"LoRA needs the package {error.name!r}: pip install 'orca-ray[predict]'"
        ) from error
    # The names alone: layers that are replaced must not stay in memory.
    adapted_names = list(linear_layers(body, options.targets))
    if options.weights == "nf4":
        with _without_hub_kernels():
            quantise(body, adapted_names)
    config = peft.LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules="|".join(map(re.escape, adapted_names)),
        fan_in_fan_out=isinstance(body.get_submodule(adapted_names[0]), Conv1D),
    )
    peft.inject_adapter_in_model(config, body)


@contextlib.contextmanager
def _without_hub_kernels() -> Iterator[None]:
    """Context manager: make the package ``kernels`` look missing.

    If it is installed, bitsandbytes, which peft imports, downloads compiled code from
    the hub and runs it.
    """
    # It warns that the package is missing.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    imported = sys.modules.get("kernels")
    sys.modules["kernels"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if imported is None:
            del sys.modules["kernels"]
        else:
            sys.modules["kernels"] = imported


def linear_layers(body: Body, targets: str) -> dict[str, nn.Module]:
    """Return the linear layers of ``body`` that LoRA adapts, by name.

    ``targets`` is the value of ``lora.targets``. Raises UserError if the body has no
    transformer layers, or if one has no linear layer of a kind in ``targets``.
    """
    names = {module: name for name, module in body.named_modules()}
    layers = repeated_layers(body)
    if not layers:
        raise UserError(
            f"LoRA adapts transformer layers, and the body ({type(body).__name__}) has"
            " none"
        )
    adapted: dict[str, nn.Module] = {}
    for layer in layers:
        linear = {
            name: part
            for name, part in layer.named_modules()
            if isinstance(part, nn.Linear | Conv1D)
        }
        for role in TARGETS[targets]:
            of_role = {
                f"{names[layer]}.{name}": part
                for name, part in linear.items()
                if _ROLES[role](name)
            }
            if not of_role:
                present = ", ".join(linear) or "no linear layer at all"
                raise UserError(
                    f"lora.targets {targets!r}: the body has no linear layer for {role}"
                    f" in {names[layer]}, which has {present}: choose another of"
                    f" {', '.join(TARGETS)}"
                )
            adapted |= of_role
    return adapted
