"""Checkpoint files, written atomically and verified by a checksum when read.

A file is an 8-byte signature, the CRC-32 of the rest (little endian), and the output of ``torch.save``.
"""

import io
import logging
import os
import pickle
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from orca_ray.data import cache

_MAGIC = b"ORCARAY1"
_HEADER = len(_MAGIC) + 4
_log = logging.getLogger(__name__)


def save(path: str | Path, state: Mapping[str, Any]) -> None:
    """Write ``state`` (tensors, numbers, strings and plain containers) to ``path`` atomically.

    If the disk is full or not writable, raises OSError and keeps the previous file. The state is serialised in memory
    first, because ``torch.save`` to a full disk raises a RuntimeError that does not name the cause.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    serialised = io.BytesIO()
    torch.save(dict(state), serialised)
    payload = serialised.getbuffer()
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_MAGIC + zlib.crc32(payload).to_bytes(4, "little"))
            file.write(payload)
        cache.replace_file(Path(temporary), path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load(path: str | Path) -> dict[str, Any] | None:
    """Return the saved state, with tensors on the CPU; None if the file is missing or, with a warning, damaged."""
    path = Path(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        _log.warning("checkpoint %s cannot be read (%s); starting again", path, error)
        return None
    stored = int.from_bytes(content[len(_MAGIC) : _HEADER], "little")
    payload = memoryview(content)[_HEADER:]
    if content[: len(_MAGIC)] != _MAGIC or zlib.crc32(payload) != stored:
        _log.warning("checkpoint %s is damaged or not a checkpoint (%d bytes); starting again", path, len(content))
        return None
    try:
        state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
        _log.warning("checkpoint %s cannot be decoded (%s); starting again", path, error)
        return None
    return state if isinstance(state, dict) else None
