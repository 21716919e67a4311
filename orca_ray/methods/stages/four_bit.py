"""Frozen weights of linear layers in 4 bits, by ``bitsandbytes``, for `lora`.

This module is the adapter of bitsandbytes: it was read and tested in version 0.50.2.
`tests/methods/test_four_bit.py` says what breaks when the library changes.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from transformers.pytorch_utils import Conv1D

from orca_ray.errors import UserError

BLOCK = 64
"""Number of values with a common scale.

On CPUs, bitsandbytes 0.50 stores blocks that cross rows of a weight wrongly.
"""


def quantise(body: nn.Module, names: Iterable[str]) -> None:
    """Replace linear layers of ``body``, on the CPU, by layers with 4-bit weights.

    The layers are replaced in place, one at a time, to save memory; their biases stay.
    Raises UserError if bitsandbytes is not installed or has no kernels for this
    machine, or if the number of inputs of a layer is no multiple of `BLOCK`.
    """
    try:
        import bitsandbytes
    except (ImportError, RuntimeError) as error:  # without CUDA, old versions raise it
        raise UserError(
            f"lora.weights 'nf4' needs the package bitsandbytes ({error}): pip install"
            " 'orca-ray[nf4]', on every node of a cluster, or use lora.weights: float32"
        ) from error
    for name in names:
        layer = body.get_submodule(name)
        try:
            replacement = _quantised(name, layer)
        except (NotImplementedError, RuntimeError, AttributeError) as error:
            raise UserError(
                f"lora.weights 'nf4': bitsandbytes {bitsandbytes.__version__} cannot"
                f" store weights in 4 bits on this machine ({error}): it needs version"
                " 0.50 or newer, or a CUDA device; or use lora.weights: float32"
            ) from error
        body.set_submodule(name, replacement)
    # peft looks at it; mypy would take the attribute of a module for a module.
    setattr(body, "is_loaded_in_4bit", True)  # noqa: B010


def _quantised(name: str, layer: Any) -> Any:
    """Return a layer with the weights of ``layer`` in 4 bits, and its bias."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    weight = _weight(layer)
    num_outputs, num_inputs = weight.shape
    if num_inputs % BLOCK != 0:
        raise UserError(
            f"lora.weights 'nf4': the layer {name} of the body has {num_inputs} inputs,"
            f" and only multiples of {BLOCK} are stored correctly: use float32, or"
            " another body"
        )
    # Without a type to compute in, the type of the first input would change the bias
    # for good. Autocast still decides in which type the product is computed.
    replacement: Any = Linear4bit(
        1,
        1,
        bias=layer.bias is not None,
        quant_type="nf4",
        compute_dtype=torch.float32,
    )
    replacement.out_features = num_outputs
    replacement.in_features = num_inputs
    parameters = Params4bit(
        weight, requires_grad=False, quant_type="nf4", module=replacement
    )
    # The move to a device computes the 4-bit values.
    replacement.weight = parameters.to("cpu")
    replacement.bias = layer.bias
    # Otherwise evaluation would store the weights in another layout.
    replacement.support_avx512bf16_for_cpu = False
    return replacement


def _weight(layer: Any) -> Tensor:
    """Return the weights [out, in] of a linear layer."""
    weight: Tensor = layer.weight.data
    if isinstance(layer, Conv1D):  # GPT-2's layer stores them as [in, out]
        return weight.T.contiguous()
    return weight


def num_values(parameter: Parameter) -> int:
    """Return the number of values of a parameter; a byte of 4-bit weights has two."""
    state = getattr(parameter, "quant_state", None)
    if state is None:
        return parameter.numel()
    return math.prod(state.shape)
