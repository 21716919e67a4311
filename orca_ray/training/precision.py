"""Precision of the body's matrix products in training and evaluation; all else, embedder and head too, is float32."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from orca_ray.devices import has_bfloat16_units

MIN_CPU_WIDTH = 512
"""Minimum feature width for which ``auto`` chooses bfloat16 on a CPU. Narrower bodies gain little; their scores stay
equal on all CPUs up to rounding."""


@dataclass(frozen=True)
class Precision:
    """Precision of a loop on one device."""

    name: str
    """``float32``, ``tf32`` or ``bfloat16``; stored in the record."""
    device: torch.device
    note: str | None = None
    """The reason if another one was requested."""

    def autocast(self) -> torch.autocast:
        """Return the autocast context of a forward pass; bfloat16 has float32's range and needs no loss scaling."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.name == "bfloat16")

    @contextmanager
    def active(self) -> Iterator[None]:
        """Allow or forbid TF32 for CUDA's float32 products in a block, then restore the flags.

        With bfloat16, TF32 is allowed too, because it has more digits. CPUs are left alone: some round to bfloat16.
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
    """Return the precision for ``option``, one of `config.PRECISIONS`, of a body ``feature_width`` wide on ``device``.

    ``auto`` is bfloat16 if the device has units for it, on a CPU (1.8 to 2.6 times faster) for bodies at least
    `MIN_CPU_WIDTH` wide, else and in deterministic trials float32. Scores differ between kinds of devices by rounding.
    A precision that the device lacks falls back to float32 with a note.
    """
    if option == "auto":
        wide = device.type == "cuda" or feature_width >= MIN_CPU_WIDTH
        fast = wide and has_bfloat16_units(device) and not torch.are_deterministic_algorithms_enabled()
        return Precision("bfloat16" if fast else "float32", device)
    ampere = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8
    slow = option == "bfloat16" and device.type != "cpu" and not has_bfloat16_units(device)
    if slow or (option == "tf32" and not ampere):
        return Precision("float32", device, f"refined in float32 because this {device.type} device has no {option}")
    return Precision(option, device)
