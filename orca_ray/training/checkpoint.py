"""Checkpoints that are either whole or not there.

File layout: 8 bytes of magic, 4 bytes CRC-32 of the rest (little endian), then what ``torch.save`` writes. torch does
not verify the checksums of its own archive, so a flipped bit would otherwise resume from silently wrong weights.
"""

import io
import logging
import os
import pickle
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch

_MAGIC = b"ORCARAY1"
_HEADER = len(_MAGIC) + 4
_log = logging.getLogger(__name__)


class _ChecksumWriter:
    """Forwards writes to a file and keeps the CRC-32 of what passed."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.checksum = 0
        self.refusal: OSError | None = None
        """Of the system; torch hides it behind a RuntimeError about its own archive."""

    def write(self, data: bytes) -> int:
        self.checksum = zlib.crc32(data, self.checksum)
        try:
            return self._file.write(data)
        except OSError as error:
            self.refusal = error
            raise

    def flush(self) -> None:
        self._file.flush()


def save(path: str | Path, state: Mapping[str, Any]) -> None:
    """Write ``state`` (tensors, numbers, strings and plain containers) to ``path`` atomically and durably.

    A crash leaves the previous checkpoint or the new one, never a mixture. Raises OSError when the disk is full or not
    writable; nothing is left behind then.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_MAGIC + bytes(4))
            writer = _ChecksumWriter(file)
            try:
                torch.save(dict(state), writer)  # type: ignore[arg-type]  # only write and flush are used
            except RuntimeError as error:
                raise writer.refusal or error from None
            file.seek(len(_MAGIC))
            file.write(writer.checksum.to_bytes(4, "little"))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def load(path: str | Path) -> dict[str, Any] | None:
    """Read a checkpoint onto the CPU; None when there is none, or when it is damaged (logged: start again).

    Only tensors and plain containers are read (``weights_only``), so a foreign file cannot run code.
    """
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
        _log.warning("checkpoint %s is damaged or not ours (%d bytes); starting again", path, len(content))
        return None
    try:
        state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
        _log.warning("checkpoint %s cannot be decoded (%s); starting again", path, error)
        return None
    return state if isinstance(state, dict) else None


def _sync_directory(directory: Path) -> None:
    # The rename itself must reach the disk; some network file systems refuse to sync a directory.
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        _log.debug("directory %s cannot be synced: %s", directory, error)
    finally:
        os.close(descriptor)
