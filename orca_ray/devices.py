"""PyTorch devices: by name, and their capabilities."""

import torch

from orca_ray.errors import UserError


def find_device(name: str) -> torch.device:
    """Return a torch device; ``auto``: a GPU if there is one. Raises UserError if this machine lacks it."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"cannot use the device {name!r} here: give auto, cpu or cuda (with a GPU)") from error
    return device


def has_bfloat16_units(device: torch.device) -> bool:
    """Return whether ``device`` has hardware units that multiply bfloat16 matrices faster than float32 ones.

    True for CUDA devices of compute capability 8.0 or higher, and for CPUs with AMX or AVX512-BF16; otherwise False.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # torch has no public functions for this; the private ones exist since torch 2.5.
    queries = (getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return device.type == "cpu" and any(query is not None and bool(query()) for query in queries)
