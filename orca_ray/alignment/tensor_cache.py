"""Files of tensors with a checksum, and a description of the environment.

Checkpoints and caches are such files. A file is an 8-byte signature, the CRC-32 of the
rest (little endian), and the output of ``torch.save``; it is written atomically, and
verified when read. The environment (versions, hardware, settings) affects the last
digits of results.
"""

import hashlib
import io
import logging
import os
import pickle
import platform
import re
import tempfile
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache as once
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from orca_ray.data import cache
from orca_ray.torch_private import has_bfloat16_units
from orca_ray.version import __version__

logger = logging.getLogger(__name__)
_MAGIC = b"ORCARAY1"
"""Signature at the beginning of a file."""
_HEADER = len(_MAGIC) + 4
"""Number of bytes before the output of ``torch.save``: signature and checksum."""
_LIBRARIES = ("torch", "numpy", "scikit-learn", "pot")
"""Libraries whose versions affect the last digits of results."""
_PROCESSOR = ("vendor_id", "cpu family", "model", "CPU implementer", "CPU part")
"""Fields of /proc/cpuinfo that identify a processor, on x86 and on Arm."""


def save(path: str | Path, state: Mapping[str, Any]) -> None:
    """Write ``state`` to ``path`` atomically.

    ``state`` has tensors, numbers, strings and plain containers. If the disk is full or
    not writable, raises OSError and keeps the previous file. The state is serialised in
    memory first, because ``torch.save`` to a full disk raises a RuntimeError that does
    not name the cause.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    serialised = io.BytesIO()
    torch.save(dict(state), serialised)
    payload = serialised.getbuffer()
    handle, temporary = tempfile.mkstemp(
        dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"
    )
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_MAGIC + zlib.crc32(payload).to_bytes(4, "little"))
            file.write(payload)
        cache.replace_file(Path(temporary), path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load(path: str | Path) -> dict[str, Any] | None:
    """Return the saved state, tensors on the CPU.

    None if the file is missing or (with a warning) cannot be read.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        logger.warning("%s cannot be read (%s); starting again", path, error)
        return None
    checksum = int.from_bytes(content[len(_MAGIC) : _HEADER], "little")
    payload = memoryview(content)[_HEADER:]
    if content[: len(_MAGIC)] != _MAGIC or zlib.crc32(payload) != checksum:
        logger.warning(
            "%s is damaged or no file of tensors (%d bytes); starting again",
            path,
            len(content),
        )
        return None
    try:
        state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except (
        RuntimeError,
        pickle.UnpicklingError,
        EOFError,
        ValueError,
        KeyError,
    ) as error:
        logger.warning("%s cannot be decoded (%s); starting again", path, error)
        return None
    return state if isinstance(state, dict) else None


def cached_tensors(
    path: Path, compute: Callable[[], Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """Return the tensors of a file, by name.

    If the file is missing or damaged, compute the tensors and write it. Concurrent
    processes compute the tensors once. If the file cannot be written, a warning is
    logged.
    """
    with cache.lock(path):
        tensors = load(path)
        if tensors is not None:
            # Marks the file as used: pruning removes the least recently used ones.
            with suppress(OSError):
                os.utime(path)
            return tensors
        tensors = dict(compute())
        contiguous = {
            name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()
        }
        try:
            save(path, contiguous)
        except OSError as error:
            logger.warning("%s is not cached: %s", path, error)
        return tensors


def digest(tensors: Mapping[str, Any], *settings: object) -> str:
    """Return the SHA-256, in hex, of ``settings`` and of tensors or arrays.

    The name, type, shape and values of each tensor are hashed.
    """
    sha256 = hashlib.sha256(repr(settings).encode())
    for name, values in sorted(tensors.items()):
        tensor = torch.as_tensor(values).detach().cpu().contiguous()
        sha256.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha256.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha256.hexdigest()


def environment(device: torch.device) -> tuple[str, ...]:
    """Return texts that say what affects the last digits of results.

    These are versions, hardware, threads and determinism.
    """
    if device.type == "cuda":
        hardware = torch.cuda.get_device_name(device)
    else:
        # Libraries choose kernels by the CPU, and each kernel sums in its own order.
        units = "bfloat16" if has_bfloat16_units(device) else "no bfloat16"
        hardware = (
            f"{device.type} {processor()} {torch.backends.cpu.get_cpu_capability()}"
            f" {units}"
        )
    versions = (
        f"orca-ray {__version__}",
        *(f"{library} {version(library)}" for library in _LIBRARIES),
    )
    settings = (
        f"{torch.get_num_threads()} threads",
        f"deterministic: {torch.are_deterministic_algorithms_enabled()}",
    )
    return *versions, hardware, *settings


@once
def processor() -> str:
    """Return the CPU's maker and model, e.g. "GenuineIntel, 6, 143".

    Libraries choose their kernels by maker and model.
    """
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    values = dict(re.findall(r"^(.+?)[ \t]*:[ \t]*(.*?)[ \t]*$", text, re.MULTILINE))
    identity = ", ".join(values[name] for name in _PROCESSOR if name in values)
    return identity or platform.processor() or platform.machine()
