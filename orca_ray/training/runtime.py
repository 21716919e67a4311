"""The process state that a trial holds while it computes, and the memory it takes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch
from threadpoolctl import threadpool_limits


@contextmanager
def computing(threads: int, *, deterministic: bool) -> Iterator[None]:
    """Set intra-op threads, determinism and exact float32 products for a block, then put all back.

    The limit also holds for BLAS and OpenMP outside torch: k-means sums in another order with other threads.
    ``deterministic`` makes torch refuse CUDA kernels that are not reproducible.
    """
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    products = torch.get_float32_matmul_precision()
    # cuBLAS reads it once, when a process first uses it; without it a later, deterministic trial would be refused.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("highest")  # whatever ran before; a refine loop may choose TF32 for its own
    torch.use_deterministic_algorithms(deterministic or before[1])
    try:
        with threadpool_limits(limits=threads):
            yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
        torch.set_float32_matmul_precision(products)


def memory_mib(device: torch.device) -> float:
    """Return MiB: on CUDA the most that was allocated since the last reset, else what the process occupies now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return float(psutil.Process().memory_info().rss) / 2**20
