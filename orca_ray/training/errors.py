"""Failures of a trial that the user did not cause: values that are not finite, memory that runs out, lost processes."""

import errno

import torch

_ALLOCATOR_MESSAGES = ("DefaultCPUAllocator", "out of memory", "Cannot allocate memory", "ALLOC_FAILED")
"""Parts of RuntimeError messages: of torch's CPU allocator, CUDA outside torch's allocator, memory maps, cuBLAS."""


class NotFiniteError(RuntimeError):
    """A loss, feature, distance, prediction or score is NaN or infinite; the trial's status becomes ``failed_nan``."""


class RankLostError(ConnectionError):
    """Another process that trains the same model (see `orca_ray.training.ranks`) has ended."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether ``error`` means that memory ran out, on any device.

    torch raises OutOfMemoryError for CUDA only. Other RuntimeErrors are identified by their messages.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _ALLOCATOR_MESSAGES)
