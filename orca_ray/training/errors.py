"""Failures of a trial that are not the user's mistake."""

import errno

import torch

_ALLOCATOR_MESSAGES = ("DefaultCPUAllocator", "out of memory", "Cannot allocate memory", "ALLOC_FAILED")
"""Parts of the RuntimeErrors of torch's CPU allocator, of CUDA outside torch's allocator, of memory maps, of cuBLAS."""


class NotFiniteError(RuntimeError):
    """A loss, distance, prediction or score is NaN or infinite; the trial ends as ``failed_nan``."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an allocation failed on any device; the trial ends as ``failed_oom`` unless a retry helps.

    torch has an exception of its own for CUDA only: its CPU allocator raises a RuntimeError, known by its message.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _ALLOCATOR_MESSAGES)
