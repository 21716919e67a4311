"""The part of a GPU's memory that the trial in this process may use; process-wide, as torch's own limit is."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

CONTEXT_MIB = 600.0
"""Memory of a process's CUDA context and kernels, which torch does not count; assumed, not measured, because the free
memory of a GPU also depends on the other trials there."""


@dataclass(frozen=True)
class MemoryLimits:
    """Record of the memory limits of one trial."""

    share: float = 1.0
    """Part of the GPU's memory, in (0, 1]; budgets for activations and data derive from it."""
    halvings: int = 0
    """How often the micro-batch size is halved before training, because memory ran out in an earlier attempt."""


_limits = MemoryLimits()


def memory_limits() -> MemoryLimits:
    """Return the limits that are set in this process."""
    return _limits


def limit_memory(limits: MemoryLimits, device: "torch.device") -> None:
    """Set the limits of this process; on CUDA, an allocation beyond `allocatable_bytes` is then out of memory."""
    import torch

    global _limits
    _limits = limits
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(allocatable_bytes(total) / total)


def allocatable_bytes(total: int) -> float:
    """Return how many of a card's ``total`` bytes torch may allocate: the trial's share, less its CUDA context.

    So the trials that share a card fit on it together, with their contexts. A trial with a whole card has no limit.
    """
    if _limits.share >= 1:
        return float(total)
    return max(0.0, _limits.share * total - CONTEXT_MIB * 2**20)
