"""Text files, time series and the checks of arrays: values, and errors with the file and the place."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca_ray.data import readers
from orca_ray.data.readers import read_csv, read_json, read_lines, refuse_labels, refuse_not_finite, refuse_shape
from orca_ray.data.wav import read_wav
from orca_ray.errors import UserError

Array = np.ndarray[Any, Any]
X = Path("x.npy")


@pytest.mark.filterwarnings("error")
def test_what_is_not_finite_is_found_in_any_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orca_ray.data.readers._SLICE_BYTES", 32)
    array = np.ones((20, 3), np.float32)
    for finite in (array, np.arange(3), np.array([3.4e38])):
        refuse_not_finite(X, "data", finite)
    array[17, 2] = np.nan
    for name, found, message in (
        ("data", array, r"x\.npy, data: expected finite numbers, found nan at index \[17, 2\]"),
        ("", np.array(-np.inf), r"x\.npy: expected finite numbers, found -inf at index \[0\]"),
        ("", np.array([0, 1e39]), r"finite numbers up to 3\.40.*e\+38 \(float32\), found 1e\+39 at"),
    ):
        with pytest.raises(UserError, match=message):
            refuse_not_finite(X, name, found)


def test_another_shape_is_refused() -> None:
    refuse_shape(X, "data", np.ones((5, 52, 16)), (None, 52, 16))
    for shape in [(5, 16, 52), (5, 52), (5, 52, 16, 1)]:
        with pytest.raises(UserError, match=r"x\.npy, data: expected shape \[any, 52, 16\], found \[5, "):
            refuse_shape(X, "data", np.ones(shape), (None, 52, 16))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([1, 24, 25]), "expected labels from 1 to 24, found 25 at 2"),
        (np.array([0, 1]), "found 0 at 0"),
        (np.array([[1.0, 1.5]]), "found 1.5 at 1"),
        (np.array([1.0, np.nan]), "found nan at 1"),
        (np.array(["1"]), "expected whole numbers, found str"),
    ],
)
def test_labels_out_of_range(labels: Array, message: str) -> None:
    refuse_labels(X, "label", np.array([1, 24.0]), 1, 24)
    with pytest.raises(UserError, match=rf"x\.npy, label: .*{message}"):
        refuse_labels(X, "label", labels, 1, 24)


def test_csv_gives_the_columns(tmp_path: Path) -> None:
    (tmp_path / "tr.csv").write_text('\ufefffiles,labels,ext\na.wav,"Bark,Dog",1\n\nb.wav,,2\n', encoding="utf-8")
    found = read_csv(tmp_path / "tr.csv", ["labels", "files"])
    assert found == {"labels": ["Bark,Dog", ""], "files": ["a.wav", "b.wav"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read"),
        (b"", "expected column 'files' once in the header, found 0: an empty file"),
        (b"file,labels\n", "expected column 'files' once in the header, found 0: file, labels"),
        (b"files,files\n1,2\n", "expected column 'files' once in the header, found 2"),
        (b"files,labels\n", "expected rows below the header, found none"),
        (b"files,labels\na,b\nc\n", r"line 3: expected 2 values \(files, labels\), found 1"),
        (b'files,labels\na,"b\n', "expected a comma-separated table"),
        (b"files,labels\na,\xff\n", "expected text in UTF-8, found byte 0xff"),
        (b"files,labels\na,\0\n", "found a zero byte"),
    ],
)
def test_bad_csv(content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "tr.csv").write_bytes(content)
    with pytest.raises(UserError, match=rf"tr\.csv.*{message}|{message}.*tr\.csv"):
        read_csv(tmp_path / "tr.csv", ["files"])


def test_lines(tmp_path: Path) -> None:
    path = tmp_path / "deepcov.lst"
    with pytest.raises(UserError, match="cannot read"):
        read_lines(path)
    path.write_bytes(b"1abc \r\n\n2xyz")
    assert read_lines(path) == ["1abc", "2xyz"]
    for content, message in [(b" \n", "found an empty file"), (b"\x80\x04", "in UTF-8"), (b"a\0b", "a zero byte")]:
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"deepcov\.lst.*{message}"):
            read_lines(path)


@pytest.mark.parametrize("read", [read_lines, read_json, lambda path: read_wav(path, 22050)])
def test_a_file_beyond_the_limit_is_not_read(read: Callable[[Path], object], tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as stream:
        stream.truncate(2**40)
    with pytest.raises(UserError, match=r"sparse: expected at most [\d,]+ bytes, found 1,099,511,627,776"):
        read(tmp_path / "sparse")


@pytest.mark.parametrize("content", ["[" * 60_000, '{"a": ' + "9" * 5000 + "}", "[1]", "\0"])
def test_bad_json(content: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError, match=r"x\.json: expected (a )?JSON") as caught:
        read_json(tmp_path / "x.json")
    assert len(str(caught.value)) < 500 + len(str(tmp_path))


HEADER = "#a comment: with, commas\n@problemName Toy\n@classLabel true 1 2\n@data\n"


@given(st.lists(st.lists(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3), min_size=2, max_size=2), min_size=1))
def test_the_series_that_are_written_are_read(series: list[list[list[float]]]) -> None:
    lines = [":".join(",".join(map(repr, row)) for row in each) + f":{number}" for number, each in enumerate(series)]
    parsed, labels = readers.parse_ts(HEADER + "\n".join(lines) + "\n", "toy.ts")
    assert labels == [str(number) for number in range(len(series))]
    assert [each.tolist() for each in parsed] == series


def test_series_cut_anywhere_within_the_last_line_are_refused() -> None:
    text = HEADER + "0.5,1.5:2.5,3.5:1\n4.5,5.5:6.5,7.5:2"
    for end in range(text.rindex("\n") + 2, len(text) - 1):
        with pytest.raises(UserError, match=r"toy\.ts, line 6"):
            readers.parse_ts(text[:end], "toy.ts")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER[:30], "no @data line"),
        (HEADER, "no series after @data"),
        (HEADER + "1,?,3:1\n", "line 5: could not convert"),
        (HEADER + "1,nan,3:1\n", "line 5: a value is not finite"),
        (HEADER + "1,2:1\n1,2:3,4:1\n", "line 6: 2 channels where the first series has 1"),
        (HEADER + "1,2:3:1\n", r"line 5: channels of different lengths: \[1, 2\]"),
        (HEADER + "1\n", "line 5: no values before the class label"),
    ],
)
def test_bad_series_are_refused_with_their_line(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        readers.parse_ts(text, "toy.ts")


def test_padding_follows_the_values() -> None:
    padded = readers.pad([np.ones((2, 3)), np.zeros((2, 1))], 4)
    assert padded.shape == (2, 2, 4)
    assert np.isnan(padded).sum(axis=2).tolist() == [[1, 1], [3, 3]]
    with pytest.raises(UserError, match="a series of length 3 does not fit into 2"):
        readers.pad([np.ones((2, 3))], 2)


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
