"""Numerics of a trial: precision, random seeds, torch's settings, and errors.

Settings hold for the whole process. The errors are those of NaN or infinite values and
of exhausted memory.
"""

import ctypes
import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from orca_ray.errors import UserError
from orca_ray.torch_private import has_bfloat16_units

MIN_CPU_WIDTH = 512
"""Minimum feature width for which ``auto`` chooses bfloat16 on a CPU.

Narrower bodies gain less (a training step of 384 features is 1.3 to 1.9 times faster):
in float32, their scores are equal on all CPUs, up to rounding.
"""
_M_TRIM_THRESHOLD = -1
"""Parameter of mallopt, from malloc.h: freed bytes above it return to the system."""
_MOST_FREED_BYTES = 2**31 - 1
"""Freed bytes that a process keeps, the largest value that mallopt takes.

The gradients of a large body must fit: those of 12 layers of width 768 take 340 MB.
"""
_M_MMAP_THRESHOLD = -3
"""Parameter of mallopt, from malloc.h: larger tensors get memory of their own."""
_ALLOCATOR_MESSAGES = (
    "DefaultCPUAllocator",
    "out of memory",
    "Cannot allocate memory",
    "ALLOC_FAILED",
)
"""Parts of RuntimeError messages: of torch's CPU allocator, CUDA outside torch's
allocator, memory maps, cuBLAS.
"""


class NotFiniteError(RuntimeError):
    """Error: a loss, feature, distance, prediction or score is NaN or infinite.

    Trial status: ``failed_nan``.
    """


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether ``error`` means that memory ran out, on any device.

    torch raises OutOfMemoryError for CUDA only. Other RuntimeErrors are identified by
    their messages.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(
        text in str(error) for text in _ALLOCATOR_MESSAGES
    )


@dataclass(frozen=True)
class Precision:
    """Precision of training and evaluation on one device."""

    name: str
    """``float32``, ``tf32`` or ``bfloat16``; stored in the trial's record."""
    device: torch.device
    note: str | None = None
    """Reason why this is not the requested precision; None if it is."""

    def autocast(self) -> torch.autocast:
        """Return the autocast context for a forward pass.

        bfloat16 has float32's range and needs no loss scaling.
        """
        return torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.name == "bfloat16"
        )

    @contextmanager
    def active(self) -> Iterator[None]:
        """Allow TF32 for float32 products on CUDA in the block.

        Afterwards, the flags are restored. TF32 is not allowed if ``name`` is
        ``float32``. With bfloat16, other products may use TF32. On CPUs, does nothing:
        torch's flag would let some CPUs round to bfloat16.
        """
        if self.device.type != "cuda":
            yield
            return
        products_before = torch.get_float32_matmul_precision()
        convolutions_before = torch.backends.cudnn.allow_tf32
        allows_tf32 = self.name != "float32"
        torch.set_float32_matmul_precision("high" if allows_tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = allows_tf32
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(products_before)
            torch.backends.cudnn.allow_tf32 = convolutions_before


def choose_precision(
    option: str, device: torch.device, feature_width: int
) -> Precision:
    """Return the precision for an option, a device and a body.

    ``option`` is one of `config.PRECISIONS`, ``feature_width`` that of the body.
    ``auto`` is bfloat16 if the device has units for it and, on a CPU (1.8 to 2.6 times
    faster), the body is at least `MIN_CPU_WIDTH` wide. Otherwise, and in deterministic
    trials, it is float32. So scores may differ between kinds of devices by rounding.
    ``fast`` is the same without the limit of width; loaded models then predict with
    ``auto``. If the device lacks a precision requested by name, the result is float32
    with a note.
    """
    if option in ("auto", "fast"):
        has_limit = option == "auto" and device.type != "cuda"
        is_wide_enough = not has_limit or feature_width >= MIN_CPU_WIDTH
        if (
            is_wide_enough
            and has_bfloat16_units(device)
            and not torch.are_deterministic_algorithms_enabled()
        ):
            return Precision("bfloat16", device)
        return Precision("float32", device)
    if _has_precision(option, device):
        return Precision(option, device)
    note = f"refined in float32 because this {device.type} device has no {option}"
    return Precision("float32", device, note)


def _has_precision(name: str, device: torch.device) -> bool:
    """Return whether a device can compute in a precision.

    Every CPU can in bfloat16, some by emulation.
    """
    if name == "tf32":
        is_cuda = device.type == "cuda"
        return is_cuda and torch.cuda.get_device_capability(device)[0] >= 8
    if name == "bfloat16":
        return device.type == "cpu" or has_bfloat16_units(device)
    return True


def find_device(name: str) -> torch.device:
    """Return the device ``name``; ``auto``: a GPU if there is one, else the CPU.

    Raises UserError if it is missing.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device(name)
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"cannot use the device {name!r} here: give auto, cpu or cuda (with a GPU)"
        ) from error
    return device


def derive_seed(seed: int, *path: int | str) -> int:
    """Return a 63-bit seed, a hash of ``seed`` and ``path`` (e.g. "order", 3).

    It is equal on all machines and versions.
    """
    text = "/".join(str(part) for part in (seed, *path))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def make_generator(seed: int, *path: int | str) -> torch.Generator:
    """Return a new CPU generator seeded with `derive_seed` of the arguments."""
    return torch.Generator().manual_seed(derive_seed(seed, *path))


@cache
def keep_freed_memory() -> None:
    """Let the C library, where it is glibc, keep up to 2 GiB of freed memory.

    By default it returns a freed tensor of over 128 KiB to the system, which must clear
    the pages when the next step allocates them: U-Nets took 1.15 times as long on a
    CPU, Fourier neural operators 1.4 times. A limit of 256 MiB makes a step of 4 tokens
    in a body of 12 layers of width 768 take 1.7 times as long. `return_freed_memory`
    undoes this once.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda parameter, size: 0)
    mallopt(_M_MMAP_THRESHOLD, 2**25)
    mallopt(_M_TRIM_THRESHOLD, _MOST_FREED_BYTES)


def return_freed_memory() -> None:
    """Return freed memory to the system, where the C library is glibc."""
    getattr(ctypes.CDLL(None), "malloc_trim", lambda size: 0)(0)


@contextmanager
def torch_settings(threads: int, *, deterministic: bool) -> Iterator[None]:
    """Use settings of torch in the block: threads, precision, determinism.

    It uses ``threads`` threads, full float32 precision and, if requested, deterministic
    algorithms. ``threads`` also limits BLAS and OpenMP. With ``deterministic``,
    irreproducible operations raise RuntimeError.
    """
    threads_before = torch.get_num_threads()
    deterministic_before = torch.are_deterministic_algorithms_enabled()
    products_before = torch.get_float32_matmul_precision()
    keep_freed_memory()
    # cuBLAS reads this when a process first uses it; without it, torch would refuse a
    # later deterministic trial.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    # `Precision.active` allows TF32 where it was chosen.
    torch.set_float32_matmul_precision("highest")
    torch.use_deterministic_algorithms(deterministic or deterministic_before)
    cudnn: Any = torch.backends.cudnn
    # By default, cuDNN chooses kernels by timing them, and convolutions may use TF32.
    flags: AbstractContextManager[None] = nullcontext()
    if deterministic:
        flags = cudnn.flags(
            enabled=cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False
        )
    try:
        with threadpool_limits(threads), flags:
            yield
    finally:
        torch.set_num_threads(threads_before)
        torch.use_deterministic_algorithms(deterministic_before)
        torch.set_float32_matmul_precision(products_before)
