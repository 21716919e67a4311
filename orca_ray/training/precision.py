"""Precision of the matrix products of training and evaluation.

Weights, gradients, optimiser state, norms, losses and scores are float32 whatever is chosen here, and so are embedder
and head (`CrossModalModel.forward`): inputs and predictions of a regression carry more digits than bfloat16 has.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from orca_ray.devices import has_bfloat16_units

PRECISIONS = ("auto", "float32", "tf32", "bfloat16")
MIN_CPU_WIDTH = 512
"""Least feature width for which ``auto`` takes bfloat16 on a CPU: narrower bodies gain little, and so their scores are
the same on every CPU, up to rounding."""


@dataclass(frozen=True)
class Precision:
    """The precision of a loop on one device."""

    name: str
    """``float32``, ``tf32`` or ``bfloat16``; what the record tells."""
    device: torch.device
    note: str | None = None
    """Why it is not what was asked for."""

    def autocast(self) -> torch.autocast:
        """Return the context of a forward pass; bfloat16 has float32's range, so no loss scaling is needed."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.name == "bfloat16")

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let CUDA's float32 products run as TF32, or keep them from it, for a block; the flags are put back.

        Beside bfloat16 the remaining float32 products may be TF32, which has more digits than it. CPUs are left alone:
        there the same flag would round products to bfloat16 on some and do nothing on others.
        """
        if self.device.type != "cuda":
            yield
            return
        before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        torch.set_float32_matmul_precision("highest" if self.name == "float32" else "high")
        torch.backends.cudnn.allow_tf32 = self.name != "float32"
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before[0])
            torch.backends.cudnn.allow_tf32 = before[1]


def choose_precision(option: str, device: torch.device, feature_width: int) -> Precision:
    """Return the precision for ``option``, one of `PRECISIONS`, of a body ``feature_width`` wide on ``device``.

    ``auto`` is bfloat16 where the device has units for it, else float32: CUDA from compute capability 8.0 on, and CPUs
    with AMX or AVX512-BF16 for bodies that are at least `MIN_CPU_WIDTH` wide (a training step of a 2-layer 768-wide
    body in bfloat16 against float32, one core: 2.6 times faster on a Xeon with AMX, 1.8 times on an EPYC with
    AVX512-BF16; 1.2 to 1.6 times for 4-layer 384-wide ones on the former). Other CPUs would emulate it. So scores may
    differ between kinds of devices by what rounding does; ``float32`` is the same everywhere, and what deterministic
    trials take. What the device lacks falls back to float32, with a note.
    """
    if option == "auto" and torch.are_deterministic_algorithms_enabled():
        return Precision("float32", device)
    if option == "auto":
        wide = device.type == "cuda" or feature_width >= MIN_CPU_WIDTH
        return Precision("bfloat16" if wide and has_bfloat16_units(device) else "float32", device)
    lacking = (option == "tf32" and not _is_ampere(device)) or (
        option == "bfloat16" and device.type != "cpu" and not has_bfloat16_units(device)
    )
    if lacking:
        return Precision("float32", device, f"refined in float32, for this {device.type} device has no {option}")
    return Precision(option, device)


def _is_ampere(device: torch.device) -> bool:
    return device.type == "cuda" and bool(torch.cuda.get_device_capability(device)[0] >= 8)
