"""Text files, recordings and the checks of arrays.

Values are read, and errors name the file and the place.
"""

import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orca_ray.data.cache import read_json
from orca_ray.data.readers import (
    check_labels,
    check_not_finite,
    check_shape,
    read_csv,
    read_lines,
    read_wav,
)
from orca_ray.errors import UserError

Array = np.ndarray[Any, Any]
X = Path("x.npy")
NAN = np.ones((20, 3), np.float32)
NAN[17, 2] = np.nan


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("refuse", "message"),
    [
        (
            lambda: check_not_finite(X, "data", NAN),
            r"x\.npy, data: .* finite numbers, found nan at index \[17, 2\]",
        ),
        (
            lambda: check_not_finite(X, "", np.array(-np.inf)),
            r"x\.npy: expected finite.*, found -inf at index \[0\]",
        ),
        (
            lambda: check_not_finite(X, "", np.array([0, 1e39])),
            r"up to 3\.40.*e\+38 \(float32\), found 1e\+39 at",
        ),
        *(
            (
                partial(check_shape, X, "data", np.ones(shape), (None, 52, 16)),
                r"data: .* \[any, 52, 16\], found \[5, ",
            )
            for shape in ((5, 16, 52), (5, 52), (5, 52, 16, 1))
        ),
        *(
            (
                partial(check_labels, X, "label", np.array(labels), 1, 24),
                rf"x\.npy, label: .*{message}",
            )
            for labels, message in (
                ([1, 24, 25], "expected labels from 1 to 24, found 25 at 2"),
                ([0, 1], "found 0 at 0"),
                ([[1.0, 1.5]], "found 1.5 at 1"),
                ([1.0, np.nan], "found nan at 1"),
                (["1"], "expected whole numbers, found str"),
            )
        ),
    ],
)
def test_what_is_wrong_with_an_array_is_found_in_any_slice(
    refuse: Callable[[], None], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orca_ray.data.readers._SLICE_BYTES", 32)
    with pytest.raises(UserError, match=message):
        refuse()
    for finite in (np.ones((20, 3), np.float32), np.arange(3), np.array([3.4e38])):
        check_not_finite(X, "data", finite)
    check_shape(X, "data", np.ones((5, 52, 16)), (None, 52, 16))
    check_labels(X, "label", np.array([1, 24.0]), 1, 24)


def test_csv_gives_the_columns_and_lists_their_lines(tmp_path: Path) -> None:
    (tmp_path / "tr.csv").write_text(
        '\ufefffiles,labels,ext\na.wav,"Bark,Dog",1\n\nb.wav,,2\n', encoding="utf-8"
    )
    columns = read_csv(tmp_path / "tr.csv", ["labels", "files"])
    assert columns == {"labels": ["Bark,Dog", ""], "files": ["a.wav", "b.wav"]}
    (tmp_path / "deepcov.lst").write_bytes(b"1abc \r\n\n2xyz")
    assert read_lines(tmp_path / "deepcov.lst") == ["1abc", "2xyz"]


@pytest.mark.parametrize(
    "read", [read_lines, read_json, lambda path: read_wav(path, 22050)]
)
def test_a_file_beyond_the_limit_is_not_read(
    read: Callable[[Path], object], tmp_path: Path
) -> None:
    with (tmp_path / "sparse").open("wb") as stream:
        stream.truncate(2**40)
    with pytest.raises(
        UserError,
        match=r"sparse: expected at most [\d,]+ bytes, found 1,099,511,627,776",
    ):
        read(tmp_path / "sparse")


def _riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(
        name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)
        for name, data in chunks
    )
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body


def _fmt(encoding: int, bits: int, rate: int = 22050, channels: int = 1) -> bytes:
    return struct.pack(
        "<HHIIHH",
        encoding,
        channels,
        rate,
        rate * channels * bits // 8,
        channels * bits // 8,
        bits,
    )


PCM = (b"fmt ", _fmt(1, 16))
SAMPLES = (b"data", bytes(4))


EXTENSIBLE = (
    _fmt(0xFFFE, 16)
    + struct.pack("<HHIH", 22, 16, 4, 1)
    + bytes.fromhex("000000001000800000aa00389b71")
)


@pytest.mark.parametrize(
    ("fmt", "samples", "expected"),
    [
        (_fmt(1, 8), bytes([0, 64, 128, 192]), [-1, -0.5, 0, 0.5]),
        (
            _fmt(1, 16),
            struct.pack("<4h", -(2**15), -(2**14), 0, 2**14),
            [-1, -0.5, 0, 0.5],
        ),
        (
            _fmt(1, 24),
            b"\x00\x00\x80\x00\x00\xc0\x00\x00\x00\x00\x00\x40",
            [-1, -0.5, 0, 0.5],
        ),
        (
            _fmt(1, 32),
            struct.pack("<4i", -(2**31), -(2**30), 0, 2**30),
            [-1, -0.5, 0, 0.5],
        ),
        (_fmt(3, 32), struct.pack("<3f", 0.25, -1.5, 0), [0.25, -1.5, 0]),
        (_fmt(3, 64), struct.pack("<3d", 0.25, -1.5, 0), [0.25, -1.5, 0]),
        (EXTENSIBLE, struct.pack("<2h", 2**14, 0), [0.5, 0]),
    ],
)
def test_wav(fmt: bytes, samples: bytes, expected: list[float], tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(
        _riff((b"fmt ", fmt), (b"LIST", b"odd"), (b"data", samples))
    )
    read_samples = read_wav(tmp_path / "a.wav", 22050)
    assert read_samples.dtype == np.float32
    assert read_samples.tolist() == expected


def wav(
    message: str, *chunks: tuple[bytes, bytes], length: int | None = None
) -> tuple[str, bytes, str]:
    """Return a case of `BAD`: a recording of these chunks, cut to ``length`` bytes."""
    return "a.wav", _riff(*chunks)[:length], message


READ: dict[str, Callable[[Path], object]] = {
    "a.csv": lambda path: read_csv(path, ["files"]),
    "a.lst": read_lines,
    "a.json": read_json,
    "a.wav": lambda path: read_wav(path, 22050),
}
BAD = [
    (
        "a.csv",
        b"",
        "expected column 'files' once in the header, found 0: an empty file",
    ),
    (
        "a.csv",
        b"files,files\n1,2\n",
        "expected column 'files' once in the header, found 2",
    ),
    ("a.csv", b"files,labels\n", "expected rows below the header, found none"),
    (
        "a.csv",
        b"files,labels\na,b\nc\n",
        r"line 3: expected 2 values \(files, labels\), found 1",
    ),
    ("a.csv", b'files,labels\na,"b\n', "expected a comma-separated table"),
    ("a.csv", b"files,labels\na,\xff\n", "expected text in UTF-8, found byte 0xff"),
    ("a.csv", b"files,labels\na,\0\n", "found a zero byte"),
    ("a.lst", b" \n", "found an empty file"),
    ("a.lst", b"\x80\x04", "in UTF-8"),
    *(
        ("a.json", text, r"expected (a )?JSON.{0,400}$")
        for text in (b"[" * 60_000, b"9" * 5000, b"[1]", b"\0")
    ),
    ("a.wav", None, "cannot read"),
    ("a.wav", b"", "expected a wav file of PCM or floating point, found it damaged"),
    wav(
        "expected 22050 samples a second, found 44100",
        (b"fmt ", _fmt(1, 16, 44100)),
        SAMPLES,
    ),
    wav("one channel, found 2", (b"fmt ", _fmt(1, 16, channels=2)), SAMPLES),
    wav("Unknown wave file format: ALAW", (b"fmt ", _fmt(6, 8)), SAMPLES),
    wav("expected a wav file", PCM),
    wav("No fmt chunk before data", SAMPLES),
    wav("expected a wav file", (b"fmt ", b"short"), SAMPLES),
    wav("expected samples and a rate, found 0", PCM, (b"data", b"")),
    wav("buffer size must be a multiple of element size", PCM, (b"data", b"odd")),
    wav(
        "finite numbers, found nan at index",
        (b"fmt ", _fmt(3, 32)),
        (b"data", struct.pack("<f", np.nan)),
    ),
    wav(
        "expected 84 bytes, found 82; the file ends early",
        PCM,
        (b"data", bytes(40)),
        length=-2,
    ),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD)
def test_bad_files_are_refused_by_name_and_place(
    name: str, content: bytes | None, message: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}.*{message}|{message}.*{name}"):
        READ[name](tmp_path / name)
