"""Reader of ``.wav`` files: one channel, PCM or floating point."""

import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from orca_ray.errors import UserError

Waveform = npt.NDArray[np.float32]

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_ENCODINGS = {(_PCM, 8), (_PCM, 16), (_PCM, 24), (_PCM, 32), (_FLOAT, 32), (_FLOAT, 64)}


class _Format(NamedTuple):
    encoding: int
    channels: int
    sample_rate: int
    bits: int


def read_wav(path: Path, sample_rate: int) -> Waveform:
    """Return the samples [n] of a mono recording as float32, whole numbers scaled to [-1, 1).

    Read are PCM of 8, 16, 24 and 32 bits and floating point of 32 and 64, plain or "extensible".

    Args:
        path: of the file.
        sample_rate: in hertz, that it must have; nothing is resampled.

    Raises:
        UserError: for another rate, more channels, another encoding, no samples, a NaN, or a file that ends early.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    chunks = _chunks(path, content)
    if missing := [name for name in (b"fmt ", b"data") if name not in chunks]:
        raise UserError(f"{path}: expected a chunk {missing[0].decode()!r}, found {', '.join(map(repr, chunks))}")
    found = _format(path, chunks[b"fmt "])
    if found.sample_rate != sample_rate:
        raise UserError(f"{path}: expected {sample_rate} samples a second, found {found.sample_rate}; resample it")
    if found.channels != 1:
        raise UserError(f"{path}: expected one channel, found {found.channels}; mix them into one")
    if (found.encoding, found.bits) not in _ENCODINGS:
        raise UserError(
            f"{path}: expected PCM of 8 to 32 bits or floating point, found encoding {found.encoding} of "
            f"{found.bits} bits"
        )
    samples = _samples(path, chunks[b"data"], found)
    if not len(samples) or not np.isfinite(samples).all():
        raise UserError(f"{path}: expected finite samples, found {'a NaN or infinity' if len(samples) else 'none'}")
    return samples


def _chunks(path: Path, content: bytes) -> dict[bytes, bytes]:
    """Return the chunks of a RIFF file by name, the first of each."""
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        raise UserError(f"{path}: expected a wav file ('RIFF', 'WAVE'), found {content[:12]!r}")
    chunks: dict[bytes, bytes] = {}
    position = 12
    while position + 8 <= len(content) and b"data" not in chunks:
        name, size = struct.unpack_from("<4sI", content, position)
        chunk = content[position + 8 : position + 8 + size]
        if len(chunk) != size:
            raise UserError(
                f"{path}: expected {size} bytes in chunk {name!r}, found {len(chunk)}; the file ends early, "
                "fetch it again"
            )
        chunks.setdefault(name, chunk)
        position += 8 + size + size % 2
    return chunks


def _format(path: Path, chunk: bytes) -> _Format:
    if len(chunk) < 16:
        raise UserError(f"{path}: expected 16 bytes in chunk 'fmt ', found {len(chunk)}")
    encoding, channels, sample_rate, _, _, bits = struct.unpack_from("<HHIIHH", chunk)
    if encoding == _EXTENSIBLE and len(chunk) >= 26:
        (encoding,) = struct.unpack_from("<H", chunk, 24)
    return _Format(encoding, channels, sample_rate, bits)


def _samples(path: Path, data: bytes, found: _Format) -> Waveform:
    width = found.bits // 8
    if len(data) % width:
        raise UserError(f"{path}: expected samples of {width} bytes in chunk 'data', found {len(data)} bytes")
    if found.encoding == _FLOAT:
        return np.frombuffer(data, f"<f{width}").astype(np.float32)
    values: npt.NDArray[Any]
    if width == 1:  # unsigned, the only width that is
        values = np.frombuffer(data, np.uint8).astype(np.int32) - 128
    elif width == 3:
        padded = np.zeros((len(data) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return (padded.view("<i4")[:, 0] / np.float64(2**31)).astype(np.float32)
    else:
        values = np.frombuffer(data, f"<i{width}")
    return (values / np.float64(2 ** (8 * width - 1))).astype(np.float32)
