"""The hardware, libraries and settings that the last digits of a computation depend on: part of every cache key."""

import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

import orca_ray
from orca_ray.devices import has_bfloat16_units

_LIBRARIES = ("torch", "numpy", "scikit-learn", "pot")
_PROCESSOR = ("vendor_id", "cpu family", "model", "CPU implementer", "CPU part")


def environment(device: torch.device) -> tuple[str, ...]:
    """Return the kind of machine, the versions of libraries and of this package, threads and determinism."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    return *_versions(), _hardware(device), f"{torch.get_num_threads()} threads", f"deterministic: {deterministic}"


@cache
def _versions() -> tuple[str, ...]:
    return (f"orca-ray {orca_ray.__version__}", *(f"{library} {version(library)}" for library in _LIBRARIES))


def _hardware(device: torch.device) -> str:
    """Name what decides which kernels run; floating-point sums differ with them."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    units = "bfloat16" if has_bfloat16_units(device) else "no bfloat16"
    return f"{device.type} {_processor()} {torch.backends.cpu.get_cpu_capability()} {units}"


@cache
def _processor() -> str:
    """Name the processor: libraries choose kernels by maker and model, not by instruction set alone."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    fields = (line.partition(":") for line in lines)
    values = {name.strip(): value.strip() for name, _, value in fields}
    return (
        ", ".join(values[name] for name in _PROCESSOR if name in values) or platform.processor() or platform.machine()
    )
