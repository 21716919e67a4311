"""Reader of WAV files.

``scipy.io.wavfile`` is not used, because it silently accepts a recording that ends early and drops an incomplete
sample.
"""

import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from orca_ray.data import cache
from orca_ray.data.readers import check_not_finite
from orca_ray.data.rows import Array
from orca_ray.errors import UserError, quoted

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_ENCODINGS = {(_PCM, 8), (_PCM, 16), (_PCM, 24), (_PCM, 32), (_FLOAT, 32), (_FLOAT, 64)}


def read_wav(path: Path, sample_rate: int) -> npt.NDArray[np.float32]:
    """Return the samples [n] of a mono recording as float32; PCM samples are scaled to [-1, 1).

    Raises UserError as `read_recording` does, and for a sample rate other than ``sample_rate`` (hertz) and several
    channels.
    """
    recording = _wav(path)
    if recording.rate != sample_rate:
        raise UserError(f"{path}: expected {sample_rate} samples a second, found {recording.rate}; resample it")
    if recording.channels != 1:
        raise UserError(f"{path}: expected one channel, found {recording.channels}; mix them into one")
    return _wav_samples(path, recording)[:, 0]


def read_recording(path: Path) -> tuple[npt.NDArray[np.float32], int]:
    """Return the samples [n, channels] of a WAV file as float32, PCM scaled to [-1, 1), and its rate in hertz.

    PCM of 8 to 32 bits and floating point are supported. Raises UserError for other encodings, no samples, NaN or
    infinity, and a file that ends early.
    """
    recording = _wav(path)
    if not recording.channels or not recording.rate:
        raise UserError(f"{path}: expected channels and a rate, found {recording.channels} and {recording.rate}")
    return _wav_samples(path, recording), recording.rate


class _Wav(NamedTuple):
    encoding: int
    channels: int
    rate: int
    bits: int
    data: bytes


def _wav(path: Path) -> _Wav:
    chunks = _chunks(path, cache.read_bytes(path))
    if missing := [name for name in (b"fmt ", b"data") if name not in chunks]:
        raise UserError(f"{path}: expected a chunk {missing[0].decode()!r}, found {quoted(list(chunks))}")
    header, data = chunks[b"fmt "], chunks[b"data"]
    if len(header) < 16:
        raise UserError(f"{path}: expected 16 bytes in chunk 'fmt ', found {len(header)}")
    encoding, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", header)
    if encoding == _EXTENSIBLE and len(header) >= 26:
        (encoding,) = struct.unpack_from("<H", header, 24)
    return _Wav(encoding, channels, rate, bits, data)


def _wav_samples(path: Path, wav: _Wav) -> npt.NDArray[np.float32]:
    encoding, channels, _, bits, data = wav
    if (encoding, bits) not in _ENCODINGS:
        found = f"encoding {encoding} of {bits} bits"
        raise UserError(f"{path}: expected PCM of 8 to 32 bits or floating point, found {found}; convert it")
    if len(data) % (bits // 8 * channels):
        width = f"samples of {bits // 8 * channels} bytes"
        raise UserError(f"{path}: expected {width} in chunk 'data', found {len(data)} bytes")
    samples = np.frombuffer(data, f"<f{bits // 8}") if encoding == _FLOAT else _pcm(data, bits // 8)
    if not len(samples):
        raise UserError(f"{path}: expected samples, found none")
    check_not_finite(path, "samples", samples)
    return samples.astype(np.float32).reshape(-1, channels)


def _chunks(path: Path, content: bytes) -> dict[bytes, bytes]:
    """Return the chunks of a RIFF file by name, up to the chunk "data"; if a name occurs twice, the first one."""
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        raise UserError(f"{path}: expected a wav file ('RIFF', 'WAVE'), found {content[:12]!r}")
    chunks: dict[bytes, bytes] = {}
    position = 12
    while position + 8 <= len(content) and b"data" not in chunks:
        name, size = struct.unpack_from("<4sI", content, position)
        chunk = content[position + 8 : position + 8 + size]
        if len(chunk) != size:
            expected = f"{path}: expected {size} bytes in chunk {name!r}"
            raise UserError(f"{expected}, found {len(chunk)}; the file ends early, fetch it again")
        chunks.setdefault(name, chunk)
        position += 8 + size + size % 2
    return chunks


def _pcm(data: bytes, width: int) -> Array:
    values: Array
    if width == 1:  # the only unsigned width
        values = np.frombuffer(data, np.uint8).astype(np.int32) - 128
    elif width == 3:
        padded = np.zeros((len(data) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        values, width = padded.view("<i4")[:, 0], 4
    else:
        values = np.frombuffer(data, f"<i{width}")
    return values / np.float64(2 ** (8 * width - 1))
