"""Files of tensors with a checksum, for checkpoints and caches; the environment that
results' last digits depend on.

A file is an 8-byte signature, the CRC-32 of the rest (little endian), and the output of
``torch.save``; it is written atomically, and verified when read.
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
_HEADER = len(_MAGIC) + 4
_LIBRARIES = ("torch", "numpy", "scikit-learn", "pot")
_PROCESSOR = ("vendor_id", "cpu family", "model", "CPU implementer", "CPU part")


def save(path: str | Path, state: Mapping[str, Any]) -> None:
    """Write ``state`` (tensors, numbers, strings and plain containers) to ``path``
    atomically.

    If the disk is full or not writable, raises OSError and keeps the previous file. The
    state is serialised in memory first, because ``torch.save`` to a full disk raises a
    RuntimeError that does not name the cause.
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
    """Return the saved state, tensors on the CPU; None if the file is missing or (with
    a warning) cannot be read.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        logger.warning("%s cannot be read (%s); starting again", path, error)
        return None
    stored = int.from_bytes(content[len(_MAGIC) : _HEADER], "little")
    payload = memoryview(content)[_HEADER:]
    if content[: len(_MAGIC)] != _MAGIC or zlib.crc32(payload) != stored:
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
    """Return the tensors of a file, by name; if it is missing or damaged, compute the
    tensors and write the file.

    Concurrent processes compute the tensors once. If the file cannot be written, a
    warning is logged.
    """
    with cache.lock(path):
        tensors = load(path)
        if tensors is not None:
            with suppress(OSError):
                os.utime(
                    path
                )  # marks it as used: pruning removes the least recently used files
            return tensors
        tensors = dict(compute())
        try:
            save(
                path,
                {
                    name: tensor.detach().cpu().contiguous()
                    for name, tensor in tensors.items()
                },
            )
        except OSError as error:
            logger.warning("%s is not cached: %s", path, error)
        return tensors


def digest(tensors: Mapping[str, Any], *settings: object) -> str:
    """Return the SHA-256, in hex, of ``settings`` and of name, type, shape and values
    of tensors or arrays.
    """
    found = hashlib.sha256(repr(settings).encode())
    for name, values in sorted(tensors.items()):
        tensor = torch.as_tensor(values).detach().cpu().contiguous()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def environment(device: torch.device) -> tuple[str, ...]:
    """Return texts that say what affects the last digits of results: versions,
    hardware, threads, determinism.
    """
    if device.type == "cuda":
        hardware = torch.cuda.get_device_name(device)
    else:  # libraries choose their kernels, which sum in different orders, by these
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
    """Return the CPU's maker and model, e.g. "GenuineIntel, 6, 143"; libraries choose
    their kernels by these.
    """
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    values = dict(re.findall(r"^(.+?)[ \t]*:[ \t]*(.*?)[ \t]*$", text, re.MULTILINE))
    known = ", ".join(values[name] for name in _PROCESSOR if name in values)
    return known or platform.processor() or platform.machine()
