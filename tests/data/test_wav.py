import struct
from pathlib import Path

import numpy as np
import pytest

from orca_ray.data.wav import read_wav
from orca_ray.errors import UserError


def _riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for name, data in chunks)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body


def _fmt(encoding: int, bits: int, rate: int = 22050, channels: int = 1) -> bytes:
    return struct.pack("<HHIIHH", encoding, channels, rate, rate * bits // 8, channels * bits // 8, bits)


PCM, SAMPLES = (b"fmt ", _fmt(1, 16)), (b"data", bytes(4))


@pytest.mark.parametrize(
    ("width", "frames"),
    [
        (1, bytes([0, 64, 128, 192])),
        (2, struct.pack("<4h", -(2**15), -(2**14), 0, 2**14)),
        (3, b"\x00\x00\x80\x00\x00\xc0\x00\x00\x00\x00\x00\x40"),
        (4, struct.pack("<4i", -(2**31), -(2**30), 0, 2**30)),
    ],
)
def test_wav_of_whole_numbers(width: int, frames: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(_riff((b"fmt ", _fmt(1, 8 * width)), (b"data", frames)))
    found = read_wav(tmp_path / "a.wav", 22050)
    assert found.dtype == np.float32
    assert found.tolist() == [-1, -0.5, 0, 0.5]


def test_wav_of_floating_point_and_of_extensible_format(tmp_path: Path) -> None:
    values = [0.25, -1.5, 0]
    extensible = _fmt(0xFFFE, 16) + struct.pack("<HHIH", 22, 16, 4, 1) + bytes(14)
    for fmt, data, expected in (
        (_fmt(3, 32), struct.pack("<3f", *values), values),
        (_fmt(3, 64), struct.pack("<3d", *values), values),
        (extensible, struct.pack("<2h", 2**14, 0), [0.5, 0]),
    ):
        (tmp_path / "a.wav").write_bytes(_riff((b"fmt ", fmt), (b"LIST", b"odd"), (b"data", data)))
        assert read_wav(tmp_path / "a.wav", 22050).tolist() == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read"),
        (b"", "expected a wav file"),
        (_riff((b"fmt ", _fmt(1, 16, 44100)), SAMPLES), "expected 22050 samples a second, found 44100"),
        (_riff((b"fmt ", _fmt(1, 16, channels=2)), SAMPLES), "one channel, found 2"),
        (_riff((b"fmt ", _fmt(6, 8)), SAMPLES), "found encoding 6 of 8 bits"),
        (_riff(PCM), "expected a chunk 'data', found \\[b'fmt '\\]"),
        (_riff(SAMPLES), "expected a chunk 'fmt '"),
        (_riff((b"fmt ", b"short"), SAMPLES), "expected 16 bytes in chunk 'fmt ', found 5"),
        (_riff(PCM, (b"data", b"")), "expected samples, found none"),
        (_riff(PCM, (b"data", b"odd")), "samples of 2 bytes in chunk 'data', found 3 bytes"),
        (_riff((b"fmt ", _fmt(3, 32)), (b"data", struct.pack("<f", np.nan))), "finite numbers, found nan at index"),
        (_riff(PCM, (b"data", bytes(40)))[:-1], "expected 40 bytes in chunk b'data', found 39"),
    ],
)
def test_bad_wav(content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(UserError, match=rf"a\.wav.*{message}|{message}.*a\.wav"):
        read_wav(tmp_path / "a.wav", 22050)
