"""Cache files of tensors with a checksum, and the environment that the last digits of results depend on."""

import hashlib
import logging
import os
import platform
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache as once
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from orca_ray.data import cache
from orca_ray.errors import UserError
from orca_ray.torch_private import has_bfloat16_units
from orca_ray.version import __version__

logger = logging.getLogger(__name__)
_LIBRARIES = ("torch", "numpy", "scikit-learn", "pot")
_PROCESSOR = ("vendor_id", "cpu family", "model", "CPU implementer", "CPU part")


def cached_tensors(path: Path, compute: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the tensors of a file, by name; if it is missing or damaged, compute the tensors and write the file.

    Concurrent processes compute the tensors once. If the file cannot be written, a warning is logged.
    """
    with cache.lock(path):
        tensors = _read(path)
        if tensors is None:
            tensors = dict(compute())
            plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            try:
                with cache.scratch_directory(path.parent) as scratch, cache.disk_errors(path.parent):
                    save_file(plain, scratch / path.name, metadata={"sha256": _checksum(plain)})
                    cache.replace_file(scratch / path.name, path)
            except UserError as error:
                logger.warning("%s is not cached: %s", path, error)
        return tensors


def _read(path: Path) -> dict[str, Tensor] | None:
    """Return the tensors of a file, by name; None if it does not exist, or, after a warning, if it is unreadable."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            expected = (file.metadata() or {}).get("sha256")
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError) as error:
        logger.warning("cannot read %s (%s): computing it again", path, error)
        return None
    if _checksum(tensors) != expected:
        logger.warning("%s is damaged (its checksum is wrong): computing it again", path)
        return None
    with suppress(OSError):
        os.utime(path)  # marks it as used: pruning removes the least recently used files
    return tensors


def tensor_bytes(tensor: Tensor) -> memoryview:
    """Return the bytes of a tensor's values, for hashing."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


def environment(device: torch.device) -> tuple[str, ...]:
    """Return texts that say what affects the last digits of results: versions, hardware, threads, determinism."""
    if device.type == "cuda":
        hardware = torch.cuda.get_device_name(device)
    else:  # libraries choose their kernels, which sum in different orders, by these
        units = "bfloat16" if has_bfloat16_units(device) else "no bfloat16"
        hardware = f"{device.type} {processor()} {torch.backends.cpu.get_cpu_capability()} {units}"
    versions = (f"orca-ray {__version__}", *(f"{library} {version(library)}" for library in _LIBRARIES))
    settings = (f"{torch.get_num_threads()} threads", f"deterministic: {torch.are_deterministic_algorithms_enabled()}")
    return *versions, hardware, *settings


@once
def processor() -> str:
    """Return the CPU's maker and model, e.g. "GenuineIntel, 6, 143"; libraries choose their kernels by these."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    values = dict(re.findall(r"^(.+?)[ \t]*:[ \t]*(.*?)[ \t]*$", text, re.MULTILINE))
    known = ", ".join(values[name] for name in _PROCESSOR if name in values)
    return known or platform.processor() or platform.machine()
