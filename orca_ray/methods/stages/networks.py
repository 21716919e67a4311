"""Changes of the body by methods: the attention layer of `no_body`, and the adapters of
`lora`, made by ``peft``.
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
_ROLES: Mapping[str, Callable[[str], bool]] = {
    "attention": lambda name: "att" in name,
    "mlp": lambda name: "att" not in name,
    "query": lambda name: (
        name.rpartition(".")[2] in {"q", "query", "q_proj", "q_lin", *_FUSED}
    ),
    "value": lambda name: (
        name.rpartition(".")[2] in {"v", "value", "v_proj", "v_lin", *_FUSED}
    ),
}
"""Whether a linear layer has a role, given its name inside a transformer layer, e.g.
``attention.self.query``.
"""

HEAD_WIDTH = 64
"""Width of an attention head of `AttentionBody` if the token width is a multiple of it;
if not, there is one head.
"""


class AttentionBody(Body):
    """Body of one multi-head self-attention layer with a residual connection and a
    norm, [B, T, D] -> [B, T, D].
    """

    def __init__(self, replaced: LoadedBody, dropout: float) -> None:
        """Initialise at random; modality, token width and number of prefix tokens are
        those of ``replaced``.
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
    """Replace linear layers of ``body`` in place by those of `peft`; torch's global
    generator draws LoRA's A matrices.

    The body must be on the CPU. Raises UserError if the library is not installed, if a
    layer to adapt is missing (see `linear_layers`), or if a layer cannot be stored in 4
    bits (see `quantise`).
    """
    try:
        with _without_hub_kernels():
            import peft
    except ModuleNotFoundError as error:
        raise UserError(
            f"LoRA needs the package {error.name!r}: pip install 'orca-ray[predict]'"
        ) from error
    # The names alone: layers that are replaced must not stay in memory.
    chosen = list(linear_layers(body, options.targets))
    if options.weights == "nf4":
        with _without_hub_kernels():
            quantise(body, chosen)
    config = peft.LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules="|".join(map(re.escape, chosen)),
        fan_in_fan_out=isinstance(body.get_submodule(chosen[0]), Conv1D),
    )
    peft.inject_adapter_in_model(config, body)


@contextlib.contextmanager
def _without_hub_kernels() -> Iterator[None]:
    """Context manager: make the package ``kernels`` look missing.

    If it is installed, bitsandbytes, which peft imports, downloads compiled code from
    the hub and runs it.
    """
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(
        logging.ERROR
    )  # it warns that the package is missing
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
    """Return by name the linear layers of ``body`` that LoRA adapts if ``lora.targets``
    is ``targets``.

    Raises UserError if the body has no transformer layers, or if one has no linear
    layer of a kind in ``targets``.
    """
    names = {module: name for name, module in body.named_modules()}
    layers = repeated_layers(body)
    if not layers:
        raise UserError(
            f"LoRA adapts transformer layers, and the body ({type(body).__name__}) has"
            " none"
        )
    chosen: dict[str, nn.Module] = {}
    for layer in layers:
        linear = {
            name: part
            for name, part in layer.named_modules()
            if isinstance(part, nn.Linear | Conv1D)
        }
        for role in TARGETS[targets]:
            found = {
                f"{names[layer]}.{name}": part
                for name, part in linear.items()
                if _ROLES[role](name)
            }
            if not found:
                raise UserError(
                    f"lora.targets {targets!r}: the body has no linear layer for {role}"
                    f" in {names[layer]}, which has"
                    f" {', '.join(linear) or 'no linear layer at all'}: choose another"
                    f" of {', '.join(TARGETS)}"
                )
            chosen |= found
    return chosen
