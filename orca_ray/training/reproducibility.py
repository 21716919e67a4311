"""Random seeds, and torch's process-wide settings during a trial.

Seeds of an epoch derive from (trial seed, purpose, epoch), so that resuming at an epoch needs no generator state.
"""

import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from typing import Any

import torch
from threadpoolctl import ThreadpoolController


def derive_seed(seed: int, *path: int | str) -> int:
    """Return a 63-bit seed, a hash of ``seed`` and ``path`` (e.g. "order", 3); equal on all machines and versions."""
    text = "/".join(str(part) for part in (seed, *path))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def make_generator(seed: int, *path: int | str) -> torch.Generator:
    """Return a new CPU generator seeded with `derive_seed` of the arguments."""
    return torch.Generator().manual_seed(derive_seed(seed, *path))


@contextmanager
def isolated_rng(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators (used by dropout) for the block, then restore their former state."""
    devices: list[int] = []
    if device.type == "cuda":
        devices = [torch.cuda.current_device() if device.index is None else device.index]
    with torch.random.fork_rng(devices=devices):
        (torch.manual_seed if devices else torch.default_generator.manual_seed)(seed)
        yield


@lru_cache(maxsize=1)
def _thread_pools(num_modules: int) -> ThreadpoolController:
    """Return the thread pools of all loaded libraries; the search, some milliseconds, is repeated after an import."""
    return ThreadpoolController()


@contextmanager
def torch_settings(threads: int, *, deterministic: bool) -> Iterator[None]:
    """In the block, use ``threads`` threads, full float32 precision and, if requested, deterministic algorithms.

    ``threads`` includes BLAS and OpenMP. If ``deterministic``, torch raises RuntimeError for irreproducible operations.
    """
    threads_before, deterministic_before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    products_before = torch.get_float32_matmul_precision()
    # cuBLAS reads this when a process first uses it; without it, torch would refuse a later deterministic trial.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("highest")  # `Precision.active` allows TF32 where it was chosen
    torch.use_deterministic_algorithms(deterministic or deterministic_before)
    cudnn: Any = torch.backends.cudnn
    # By default, cuDNN chooses kernels by timing them, and convolutions may use TF32.
    exact = cudnn.flags(enabled=cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False)
    try:
        with _thread_pools(len(sys.modules)).limit(limits=threads), exact if deterministic else nullcontext():
            yield
    finally:
        torch.set_num_threads(threads_before)
        torch.use_deterministic_algorithms(deterministic_before)
        torch.set_float32_matmul_precision(products_before)
