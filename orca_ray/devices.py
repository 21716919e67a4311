"""Capabilities of devices."""

import torch


def has_bfloat16_units(device: torch.device) -> bool:
    """Return whether bfloat16 products are faster than float32 products on ``device``.

    True for CUDA from compute capability 8.0 on, and for CPUs with AMX or AVX512-BF16.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # These private functions are the only way to ask; torch has them since 2.5.
    queries = (getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return device.type == "cpu" and any(query is not None and bool(query()) for query in queries)
