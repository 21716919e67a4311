"""The private interface of torch 2.13 that orca-ray uses, with the reason why no public
one serves.

`tests/training/test_optimisation.py` says what breaks when it changes.
"""

import torch


def has_bfloat16_units(device: torch.device) -> bool:
    """Return whether ``device`` has hardware units that multiply bfloat16 matrices
    faster than float32 ones.

    True for CUDA devices of compute capability 8.0 or higher, and for CPUs with AMX or
    AVX512-BF16; otherwise False. For CPUs, private functions are asked, since the
    public `torch.cpu.get_capabilities` is younger than the oldest supported torch; the
    answer is False if torch has none of them.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    queries = (
        getattr(torch.cpu, name, None)
        for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    )
    return device.type == "cpu" and any(
        query is not None and bool(query()) for query in queries
    )
