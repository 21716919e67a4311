"""Reader of ``.wav`` files with one channel, PCM or floating point.

``scipy.io.wavfile`` does not pass the hostile-file tests: it returns the rest of a recording that ends early, and drops
an incomplete sample, without an error.
"""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from orca_ray.data import cache
from orca_ray.errors import UserError

Waveform = npt.NDArray[np.float32]

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_ENCODINGS = {(_PCM, 8), (_PCM, 16), (_PCM, 24), (_PCM, 32), (_FLOAT, 32), (_FLOAT, 64)}


def read_wav(path: Path, sample_rate: int) -> Waveform:
    """Return the samples [n] of a mono recording as float32; PCM samples are scaled to [-1, 1).

    PCM of 8, 16, 24 and 32 bits and floating point of 32 and 64 bits are read, plain or "extensible"; nothing is
    resampled to ``sample_rate`` (hertz). Raises UserError for another rate, several channels, another encoding, no
    samples, a NaN, or a file that ends early.
    """
    with cache.open_file(path) as stream, cache.read_errors(path):
        chunks = _chunks(path, stream.read())
    if missing := [name for name in (b"fmt ", b"data") if name not in chunks]:
        raise UserError(f"{path}: expected a chunk {missing[0].decode()!r}, found {', '.join(map(repr, chunks))}")
    header, data = chunks[b"fmt "], chunks[b"data"]
    if len(header) < 16:
        raise UserError(f"{path}: expected 16 bytes in chunk 'fmt ', found {len(header)}")
    encoding, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", header)
    if encoding == _EXTENSIBLE and len(header) >= 26:
        (encoding,) = struct.unpack_from("<H", header, 24)
    if rate != sample_rate:
        raise UserError(f"{path}: expected {sample_rate} samples a second, found {rate}; resample it")
    if channels != 1:
        raise UserError(f"{path}: expected one channel, found {channels}; mix them into one")
    if (encoding, bits) not in _ENCODINGS:
        raise UserError(
            f"{path}: expected PCM of 8 to 32 bits or floating point, found encoding {encoding} of {bits} bits"
        )
    if len(data) % (bits // 8):
        raise UserError(f"{path}: expected samples of {bits // 8} bytes in chunk 'data', found {len(data)} bytes")
    samples = _samples(data, encoding, bits // 8)
    if not len(samples) or not np.isfinite(samples).all():
        raise UserError(f"{path}: expected finite samples, found {'a NaN or infinity' if len(samples) else 'none'}")
    return samples


def _chunks(path: Path, content: bytes) -> dict[bytes, bytes]:
    """Return the chunks of a RIFF file by name, up to the samples; of several with one name the first."""
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


def _samples(data: bytes, encoding: int, width: int) -> Waveform:
    if encoding == _FLOAT:
        return np.frombuffer(data, f"<f{width}").astype(np.float32)
    values: npt.NDArray[Any]
    if width == 1:  # the only unsigned width
        values = np.frombuffer(data, np.uint8).astype(np.int32) - 128
    elif width == 3:
        padded = np.zeros((len(data) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        values, width = padded.view("<i4")[:, 0], 4
    else:
        values = np.frombuffer(data, f"<i{width}")
    return (values / np.float64(2 ** (8 * width - 1))).astype(np.float32)
