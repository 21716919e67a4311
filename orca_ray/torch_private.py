"""The private interface of torch 2.13 that orca-ray uses, as there is no public one.

`tests/training/test_optimisation.py` says what breaks when it changes.
"""

import torch


def has_bfloat16_units(device: torch.device) -> bool:
    """Return whether ``device`` multiplies bfloat16 matrices faster than float32 ones.

    True for CUDA devices of compute capability 8.0 or higher, and for CPUs with AMX or
    AVX512-BF16, which have hardware units for it; otherwise False. CPUs are queried by
    private functions, since the public `torch.cpu.get_capabilities` is younger than the
    oldest supported torch. The answer is False if torch has none of these functions.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        is_supported = getattr(torch.cpu, name, None)
        if is_supported is not None and is_supported():
            return True
    return False
