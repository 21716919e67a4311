"""Tensors cached on disk, with a checksum that detects damaged files."""

import hashlib
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from orca_ray.data import cache

logger = logging.getLogger(__name__)


def read_tensors(path: Path) -> dict[str, Tensor] | None:
    """Return the tensors of a file and mark it as used; None, with a warning if it exists, where it is unreadable."""
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
        os.utime(path)  # pruning removes the least recently used
    return tensors


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write the tensors atomically; raises UserError for a full or read-only disk."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with cache.scratch_directory(path.parent) as scratch, cache.disk_errors(path.parent):
        save_file(plain, scratch / path.name, metadata={"sha256": _checksum(plain)})
        cache.replace_file(scratch / path.name, path)


def tensor_bytes(tensor: Tensor) -> memoryview:
    """Return the bytes of a tensor, for hashing."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()
