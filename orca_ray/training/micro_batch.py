"""Choice of the micro-batch size: how many samples fit in memory and caches, by the measured cost of one sample."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from orca_ray.torch_private import flop_counter
from orca_ray.training.memory_limits import memory_limits

CPU_MIB = 1024
"""Default memory for the activations of a micro-batch on a CPU, in MiB."""
CUDA_FRACTION = 1 / 8
"""Default on CUDA as a part of the trial's share of total (not of free) memory, whatever other processes use."""
CPU_TENSOR_BYTES = 16 * 2**20
"""Maximum size of one activation tensor on a CPU. Above 32 MiB, glibc would allocate and zero memory for every tensor
anew. For a 2-layer, 768-wide body this gives the fastest micro-batches: 16 samples (float32), 32 (bfloat16)."""
MAX_SAMPLES = 1024
"""Maximum micro-batch size; reached only by tiny networks, such as a head on cached features."""
_BACKWARD_FACTOR = 1.25
"""Peak memory of the backward pass divided by that of the saved tensors: it also holds one layer's gradients."""


@dataclass(frozen=True)
class SampleCost:
    """Cost of one training sample."""

    saved_bytes: int
    largest_bytes: int
    """Bytes of all tensors that the forward pass saves for the backward pass, and of the largest of them."""
    flops: int
    """Floating-point operations of the forward and backward pass, counted by `FlopCounterMode`; 2 per multiply-add."""
    num_tokens: int | None
    """Number of tokens at the input of the body, including prefix tokens; None if the body does not run."""


def budget_bytes(memory_mib: int, device: torch.device) -> int:
    """Return the bytes available to the activations of a micro-batch: ``memory_mib`` MiB, or if 0 the default."""
    if memory_mib:
        return memory_mib * 2**20
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        return int(CUDA_FRACTION * memory_limits().share * total)
    return CPU_MIB * 2**20


def max_micro_batch(cost: SampleCost, budget: int, device: torch.device, extra_bytes: int = 0) -> int:
    """Return the maximum number of samples (at least 1) of a micro-batch whose activations fit in ``budget`` bytes.

    ``extra_bytes`` per sample are needed temporarily in the backward pass, to recompute a checkpointed layer.
    """
    limit = budget // max(1, int(_BACKWARD_FACTOR * (cost.saved_bytes + extra_bytes)))
    if device.type == "cpu":
        limit = min(limit, CPU_TENSOR_BYTES // max(1, cost.largest_bytes))
    return int(min(max(1, limit), MAX_SAMPLES))


def halved(num_samples: int) -> int:
    """Return a micro-batch size halved as often as `MemoryLimits.halvings` says, at least 1."""
    return max(1, num_samples >> memory_limits().halvings)


def even_micro_batch(num_samples: int, limit: int) -> int:
    """Return the size of the largest part if ``num_samples`` are split evenly into the fewest parts up to ``limit``."""
    count = -(-num_samples // limit)
    return -(-num_samples // count)


def measure_cost(
    loss: Callable[[int], Tensor], parameters: Sequence[Parameter], body: nn.Module, *, num_samples: int
) -> SampleCost:
    """Measure the cost of one sample by running ``loss(n)``, the mean loss of the first n samples, for n = 1 and 2.

    The difference is the memory per sample, without weights. If ``num_samples`` is 1, all memory at n = 1 counts.
    """
    with _token_shapes(body) as shapes, flop_counter() as counter:
        with _saved_tensors() as one:
            value = loss(1)
        torch.autograd.grad(value, parameters, allow_unused=True)
    growth = list(one.values())
    if num_samples > 1:
        with _saved_tensors() as two:
            graph = loss(2)  # keeps the tensors alive: an address identifies a tensor only as long as it exists
        growth = [max(0, sum(two.values()) - sum(one.values()))]
        if len(two) == len(one):
            growth = [large - small for large, small in zip(two.values(), one.values(), strict=True)]
        del graph
    tokens = shapes[0][1] if shapes else None
    return SampleCost(sum(growth), max(growth, default=0), counter.get_total_flops(), tokens)


@contextmanager
def _saved_tensors() -> Iterator[dict[int, int]]:
    """Yield a dict that the block fills: the bytes of each storage that autograd saves, by address, in order."""
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
    """Yield a list that the block fills: the shape [b, T, D] of each input of ``body`` (T tokens of width D)."""
    shapes: list[torch.Size] = []
    handle = body.register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape))
    try:
        yield shapes
    finally:
        handle.remove()
