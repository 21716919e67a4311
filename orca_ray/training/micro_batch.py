"""Micro-batch size: the measured cost of one training sample, and the number of samples that memory and caches hold."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

CPU_MIB = 1024
"""Default memory budget on a CPU."""
CUDA_FRACTION = 1 / 8
"""Default budget on CUDA, as a share of the total memory: with free memory, results would depend on other processes."""
CPU_TENSOR_BYTES = 16 * 2**20
"""Maximum size of an activation on a CPU: half of glibc's 32 MiB, above which every use faults in all pages again.
Micro-batches of 16 (float32) and 32 (bfloat16) samples of a 2-layer 768-wide body, which follow, are the fastest."""
MAX_SAMPLES = 1024
"""Maximum size, for heads on cached features and other tiny networks."""
_BACKWARD_FACTOR = 1.25
"""Memory of the backward pass relative to the saved tensors; it adds the gradients of one layer's activations."""


@dataclass(frozen=True)
class Cost:
    """Cost of one training sample."""

    saved_bytes: int
    largest_bytes: int
    """Bytes that the forward pass saves for the backward pass, of all tensors and of the largest."""
    flops: int
    """Floating-point operations of forward and backward pass as `FlopCounterMode` counts them, two per multiply-add."""
    num_tokens: int | None
    """Tokens at the input of the body, prefix included; None when the body does not run."""


def budget_bytes(memory_mib: int, device: torch.device) -> int:
    """Return the bytes available to the activations of a micro-batch; ``memory_mib`` 0: the device's default."""
    if memory_mib:
        return memory_mib * 2**20
    if device.type == "cuda":
        return int(CUDA_FRACTION * torch.cuda.get_device_properties(device).total_memory)
    return CPU_MIB * 2**20


def max_micro_batch(cost: Cost, budget: int, device: torch.device, extra_bytes: int = 0) -> int:
    """Return how many samples, at least one, a micro-batch may have within ``budget`` bytes.

    ``extra_bytes`` are temporary bytes per sample of the backward pass: the activations of a checkpointed layer.
    """
    limit = budget // max(1, int(_BACKWARD_FACTOR * (cost.saved_bytes + extra_bytes)))
    if device.type == "cpu":
        limit = min(limit, CPU_TENSOR_BYTES // max(1, cost.largest_bytes))
    return int(min(max(1, limit), MAX_SAMPLES))


def even_micro_batch(num_samples: int, limit: int) -> int:
    """Return the largest size when ``num_samples`` are split evenly into micro-batches of at most ``limit``."""
    count = -(-num_samples // limit)
    return -(-num_samples // count)


def measure_cost(
    loss: Callable[[int], Tensor], parameters: Sequence[Parameter], body: nn.Module, *, num_samples: int
) -> Cost:
    """Measure the cost of a sample with a forward pass of one sample and, if there are two, one of two.

    ``loss(n)`` is the loss of the first n of ``num_samples``. Only memory that grows with them counts, weights do not.
    """
    with _token_shapes(body) as shapes, _flop_counter() as counter:
        with _saved_tensors() as one:
            value = loss(1)
        torch.autograd.grad(value, parameters, allow_unused=True)
    growth = list(one.values())
    if num_samples > 1:
        with _saved_tensors() as two:
            graph = loss(2)  # addresses identify tensors only as long as the graph exists
        growth = [max(0, sum(two.values()) - sum(one.values()))]
        if len(two) == len(one):
            growth = [large - small for large, small in zip(two.values(), one.values(), strict=True)]
        del graph
    tokens = shapes[0][1] if shapes else None
    return Cost(sum(growth), max(growth, default=0), counter.get_total_flops(), tokens)


@contextmanager
def _saved_tensors() -> Iterator[dict[int, int]]:
    """Collect the size of each storage that autograd saves in the block, by address, in order of appearance."""
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes.setdefault(storage.data_ptr(), storage.nbytes())
        # Detached: an operation that saves its own output would otherwise keep itself and its graph alive forever.
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield sizes


@contextmanager
def _token_shapes(body: nn.Module) -> Iterator[list[torch.Size]]:
    """Collect the shapes [b, T, D] of the body's inputs."""
    shapes: list[torch.Size] = []
    handle = body.register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape))
    try:
        yield shapes
    finally:
        handle.remove()


def _flop_counter() -> FlopCounterMode:
    """Return a counter that includes the CPU's fused attention, which torch's own table lacks."""
    ops: Any = torch.ops.aten
    forward: Any = sdpa_flop_count
    backward: Any = sdpa_backward_flop_count
    formulas = {
        ops._scaled_dot_product_flash_attention_for_cpu: lambda *qkv, **_: forward(*qkv[:3]),
        ops._scaled_dot_product_flash_attention_for_cpu_backward: lambda *given, **_: backward(*given[:4]),
    }
    return FlopCounterMode(display=False, custom_mapping=formulas)
