"""What one training sample costs: memory that the forward pass keeps, operations, tokens; measured, not estimated."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count


@dataclass(frozen=True)
class Cost:
    """Of one sample of the training split."""

    saved_bytes: int
    """Bytes that the forward pass keeps for the backward pass."""
    largest_bytes: int
    """Of the largest tensor among them."""
    flops: int
    """Operations of forward and backward pass: matrix products, convolutions and attention, as `FlopCounterMode` counts
    them (two for a multiply-add; nothing for norms, activations and the optimiser). The backward pass is run, not
    inferred, so that parameters which do not train are counted for what they cost."""
    num_tokens: int | None
    """Tokens at the body's entrance, prefix included; None when the body does not run."""


def measure(
    loss: Callable[[int], Tensor], parameters: Sequence[Parameter], body: nn.Module, *, num_samples: int
) -> Cost:
    """Measure what a sample costs with one forward pass of one sample and, if there are two, one of two.

    ``loss(n)`` is the training loss of the first n of ``num_samples``. What grows from one to two samples is a
    sample's; what does not (weights, also those cast to bfloat16) is left out. ``.grad`` stays as it is.
    """
    with _tokens(body) as shapes, _counted() as counter:
        with _saved() as one:
            value = loss(1)
        torch.autograd.grad(value, parameters, allow_unused=True)
    growth = list(one.values())
    if num_samples > 1:
        with _saved() as two:
            kept = loss(2)  # the graph must live as long as its tensors are told apart by address
        if len(two) == len(one):
            growth = [big - small for big, small in zip(two.values(), one.values(), strict=True)]
        else:
            growth = [max(0, sum(two.values()) - sum(one.values()))]
        del kept
    tokens = shapes[0][1] if shapes else None
    return Cost(sum(growth), max(growth, default=0), counter.get_total_flops(), tokens)


@contextmanager
def _saved() -> Iterator[dict[int, int]]:
    """Collect the bytes of each storage that autograd keeps inside the block, by address, in order of appearance."""
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes.setdefault(storage.data_ptr(), storage.nbytes())
        # Detached: an operation that saves its own output would hold itself, and with it graph and weights for ever.
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield sizes


@contextmanager
def _tokens(body: nn.Module) -> Iterator[list[torch.Size]]:
    """Collect the shapes [b, T, D] of what the body is given."""
    shapes: list[torch.Size] = []
    handle = body.register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape))
    try:
        yield shapes
    finally:
        handle.remove()


def _counted() -> FlopCounterMode:
    """A counter that also knows the CPU's fused attention, which torch's own table leaves out."""

    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]

    def backward(grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return int(sdpa_backward_flop_count(grad, query, key, value))  # type: ignore[no-untyped-call]

    ops: Any = torch.ops.aten
    names = ops._scaled_dot_product_flash_attention_for_cpu, ops._scaled_dot_product_flash_attention_for_cpu_backward
    return FlopCounterMode(display=False, custom_mapping=dict(zip(names, (attention, backward), strict=True)))
