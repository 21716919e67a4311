"""What the last digits of a computation depend on, besides its inputs: part of the name of everything that is kept."""

from functools import cache
from importlib.metadata import version

import torch

import orca_ray

_LIBRARIES = ("torch", "numpy", "scikit-learn", "pot")
"""They draw, cluster, transport and add up."""


def circumstances(device: torch.device) -> tuple[str, ...]:
    """Return the kind of machine, the versions of libraries and of this package, threads and determinism."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    return *_versions(), _hardware(device), f"{torch.get_num_threads()} threads", f"deterministic: {deterministic}"


@cache
def _versions() -> tuple[str, ...]:
    return (f"orca-ray {orca_ray.__version__}", *(f"{library} {version(library)}" for library in _LIBRARIES))


def _hardware(device: torch.device) -> str:
    """Name what decides which kernels run: floating-point sums differ with them."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {torch.backends.cpu.get_cpu_capability()}"
