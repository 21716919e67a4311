"""What a device can do."""

import torch


def has_bfloat16_units(device: torch.device) -> bool:
    """Tell whether products in bfloat16 are faster than in float32: CUDA from compute capability 8.0 on, and CPUs with
    AMX or AVX512-BF16."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Private, but the only way to ask; absent before torch 2.5.
    asked = (getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return device.type == "cpu" and any(supported is not None and bool(supported()) for supported in asked)
