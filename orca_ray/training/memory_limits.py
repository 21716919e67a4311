"""The part of a device's memory that the trial in this process may use; process-wide, as torch's own limit is."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class MemoryLimits:
    """Limits of one trial."""

    share: float = 1.0
    """Part of the GPU's memory, in (0, 1]; budgets for activations and data derive from it."""
    halvings: int = 0
    """How often the micro-batch is halved before training, because memory ran out in an earlier attempt."""


_limits = MemoryLimits()


def memory_limits() -> MemoryLimits:
    """Return the limits that are set in this process."""
    return _limits


def limit_memory(limits: MemoryLimits, device: torch.device) -> None:
    """Set the limits of this process; on CUDA, an allocation beyond the share then raises an out-of-memory error."""
    global _limits
    _limits = limits
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(limits.share)
