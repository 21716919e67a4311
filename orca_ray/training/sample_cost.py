"""Memory and time of training: limits, cost of a sample, micro-batches, throughput."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from time import perf_counter, process_time

import psutil
import torch
from torch import Tensor, nn

CONTEXT_MIB = 600.0
"""Memory of a process's CUDA context and kernels, which torch does not count.

It is assumed, not measured, because the free memory of a GPU also depends on the other
trials there.
"""
CPU_MIB = 1024
"""Default memory for the activations of a micro-batch on a CPU, in MiB."""
CUDA_FRACTION = 1 / 8
"""Default memory for these activations on CUDA, as a part of the trial's share of the
total (not free) memory.
"""
CPU_TENSOR_BYTES = 16 * 2**20
"""Maximum size of one activation tensor on a CPU.

Above 32 MiB, glibc would allocate and zero memory for every tensor anew. For a 2-layer,
768-wide body this gives the fastest micro-batches: 16 samples (float32), 32 (bfloat16).
"""
MAX_SAMPLES = 1024
"""Maximum micro-batch size; reached only by tiny networks, such as a head on cached
features.
"""
_BACKWARD_FACTOR = 1.25
"""Peak memory of the backward pass divided by that of the saved tensors: it also holds
one layer's gradients.
"""


@dataclass(frozen=True)
class MemoryLimits:
    """The memory limits of one trial.

    They hold for the whole process, as torch's own limit does.
    """

    share: float = 1.0
    """Part of the GPU's memory, in (0, 1]; budgets for activations and data derive from
    it.
    """
    halvings: int = 0
    """How often the micro-batch size is halved before training, because memory ran out
    in an earlier attempt.
    """


_limits = MemoryLimits()


def memory_limits() -> MemoryLimits:
    """Return the limits that are set in this process."""
    return _limits


def limit_memory(limits: MemoryLimits, device: torch.device) -> None:
    """Set the limits of this process.

    On CUDA, allocating above `allocatable_bytes` then raises OutOfMemoryError.
    """
    global _limits
    _limits = limits
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(allocatable_bytes(total) / total)


def allocatable_bytes(total: int) -> float:
    """Return how many of a card's ``total`` bytes torch may allocate.

    It is the trial's share, less its CUDA context. So the trials that share a card fit
    on it together, with their contexts. A trial with a whole card has no limit.
    """
    if _limits.share >= 1:
        return float(total)
    return max(0.0, _limits.share * total - CONTEXT_MIB * 2**20)


@dataclass(frozen=True)
class SampleCost:
    """The cost of one training sample."""

    saved_bytes: int
    """Bytes of all tensors that the forward pass saves for the backward pass."""
    largest_bytes: int
    """Bytes of the largest of these tensors."""
    num_tokens: int | None
    """Number of tokens at the input of the body, including prefix tokens; None if the
    body does not run.
    """


def budget_bytes(memory_mib: int, device: torch.device) -> int:
    """Return the bytes for the activations of a micro-batch.

    It is ``memory_mib`` MiB; 0: `CPU_MIB` or `CUDA_FRACTION`.
    """
    if memory_mib:
        return memory_mib * 2**20
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        return int(CUDA_FRACTION * memory_limits().share * total)
    return CPU_MIB * 2**20


def max_micro_batch(
    cost: SampleCost, budget: int, device: torch.device, extra_bytes: int = 0
) -> int:
    """Return the maximum number of samples of a micro-batch, at least 1.

    Its activations fit in ``budget`` bytes. ``extra_bytes`` per sample are needed
    temporarily in the backward pass, to recompute a checkpointed layer.
    """
    sample_bytes = int(_BACKWARD_FACTOR * (cost.saved_bytes + extra_bytes))
    limit = budget // max(1, sample_bytes)
    if device.type == "cpu":
        limit = min(limit, CPU_TENSOR_BYTES // max(1, cost.largest_bytes))
    return int(min(max(1, limit), MAX_SAMPLES))


def halve(num_samples: int) -> int:
    """Return a micro-batch size, halved `MemoryLimits.halvings` times, at least 1."""
    return max(1, num_samples >> memory_limits().halvings)


def even_micro_batch(num_samples: int, limit: int) -> int:
    """Return the size of the largest part if samples are split evenly.

    There are as few parts of at most ``limit`` samples as possible: 3 for 5 samples,
    limit 4.
    """
    num_parts = math.ceil(num_samples / limit)
    return math.ceil(num_samples / num_parts)


def measure_cost(
    loss: Callable[[int], Tensor], body: nn.Module, *, num_samples: int
) -> SampleCost:
    """Measure the cost of one sample by running ``loss`` for one and two samples.

    ``loss(n)`` is the mean loss of the first n samples. The memory of a sample is the
    growth from n = 1 to 2, without weights; if ``num_samples`` is 1, all memory at n =
    1.
    """
    shapes: list[torch.Size] = []  # [b, T, D]
    handle = body.register_forward_pre_hook(
        lambda _, inputs: shapes.append(inputs[0].shape)
    )
    try:
        with _saved_tensors() as bytes_of_one:
            loss(1)
    finally:
        handle.remove()
    growth = list(bytes_of_one.values())
    if num_samples > 1:
        with _saved_tensors() as bytes_of_two:
            # Keeps the tensors alive: an address identifies a tensor only as long as
            # it exists.
            graph = loss(2)
        sizes_of_two = list(bytes_of_two.values())
        if len(sizes_of_two) == len(growth):
            sizes = zip(sizes_of_two, growth, strict=True)
            growth = [large - small for large, small in sizes]
        else:
            growth = [max(0, sum(sizes_of_two) - sum(growth))]
        del graph
    num_tokens = shapes[0][1] if shapes else None
    return SampleCost(sum(growth), max(growth, default=0), num_tokens)


@contextmanager
def _saved_tensors() -> Iterator[dict[int, int]]:
    """Yield a dict with the bytes of each storage that autograd saves in the block.

    Its keys are addresses, in order.
    """
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes.setdefault(storage.data_ptr(), storage.nbytes())
        # Detached: an operation that saves its own output would otherwise keep itself
        # and its graph alive forever.
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield sizes


@dataclass(frozen=True)
class Throughput:
    """Rates of training in the refine stage.

    The time of validation and of compilation is excluded.
    """

    samples_per_second: float
    tokens_per_second: float | None
    """Tokens at the input of the body; None if the body does not run because its
    features are cached.
    """


def throughput(cost: SampleCost, samples: int, seconds: float) -> Throughput:
    """Return the rates of training on ``samples`` samples in ``seconds``.

    ``cost`` is that of each sample.
    """
    rate = samples / max(seconds, 1e-9)
    token_rate = None
    if cost.num_tokens is not None:
        token_rate = rate * cost.num_tokens
    return Throughput(rate, token_rate)


@cache
def cpu_peak(threads: int, bfloat16: bool) -> float:
    """Return the best rate of a CPU, in operations per second.

    It is that of products of three shapes; too low if the CPU is busy.
    """
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    return max(
        product_rate(torch.ones(rows, 768, dtype=dtype), 1024)
        for rows in (256, 512, 1024)
    )


def core_peak() -> float:
    """Return the best rate of one CPU core in float32, in operations per second.

    The time is that of the process, so that other processes on the core do not count.
    """
    left = torch.ones(512, 768)
    return product_rate(left, 1024, seconds=0.05, clock=process_time)


def product_rate(
    left: torch.Tensor,
    columns: int,
    seconds: float = 0.0,
    clock: Callable[[], float] = perf_counter,
) -> float:
    """Return the highest measured operations per second of matrix products.

    The products are of ``left`` [n, k] and a matrix [k, ``columns``]. At least four
    products run, and more until ``seconds`` have passed on ``clock``.
    """
    right = left.new_ones(left.shape[1], columns)
    rates = [0.0]
    begin = clock()
    while len(rates) <= 4 or clock() - begin < seconds:  # the first is a warm-up
        started = clock()
        torch.mm(left, right)
        if left.is_cuda:
            torch.cuda.synchronize()
        rates.append(2.0 * left.numel() * columns / (clock() - started))
    return max(rates)


def memory_mib(device: torch.device) -> float:
    """Return MiB of memory that this process uses.

    On CUDA, it is the peak allocated since the last reset; else, the present RAM use.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return float(psutil.Process().memory_info().rss) / 2**20
