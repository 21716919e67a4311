"""`torch.compile` for the training pass, where it pays, with a way back."""

import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

COMPILE_MODES = ("auto", "on", "off")
MIN_PASSES = 2000
"""Forward and backward passes ahead from which ``auto`` compiles on CUDA: compiling a body takes a minute or so, a pass
tens of milliseconds."""
_log = logging.getLogger(__name__)


def wants_compile(mode: str, device: torch.device, passes: int) -> bool:
    """Say whether to compile for ``passes`` passes; never where deterministic algorithms are asked for.

    On a CPU it does not pay: with a 2-layer 768-wide body on one core, float32, compiling took a minute or two and an
    optimiser step of 64 samples then 2.34 s of CPU time against 2.33 s, for nearly all of it are matrix products.
    """
    if mode == "off" or torch.are_deterministic_algorithms_enabled():
        return False
    return mode == "on" or (device.type == "cuda" and passes >= MIN_PASSES)


def try_compile(
    network: nn.Module, run: Callable[[Callable[[Tensor], Tensor]], None]
) -> tuple[Callable[[Tensor], Tensor], str | None]:
    """Compile ``network`` and let ``run`` do a forward and backward pass; return it, or the network itself and why not.

    Compilation starts from an empty cache: its limit of variants a function would otherwise count earlier trials. Too
    little memory is a reason like any other: training itself finds out whether smaller passes are all it needs.
    """
    torch.compiler.reset()
    try:
        compiled: Callable[[Tensor], Tensor] = torch.compile(network, dynamic=False)
        run(compiled)
    # No compiler, an operation it does not know, a driver too old, too little memory: all kinds, none documented.
    except Exception as error:
        reason = str(error).strip().splitlines()
        _log.warning("torch.compile failed, training goes on without it: %s", reason[0] if reason else error)
        torch.compiler.reset()
        return network, f"not compiled ({type(error).__name__})"
    return compiled, None
