"""Hostile and unusual files of a user: read, or refused with what is wrong, within limits of time and memory."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from benchmarks.fuzz_readers import limits
from orca_ray.data.rows import Array
from orca_ray.errors import UserError
from orca_ray.own_data import Options, read
from orca_ray.own_data.infer_task import infer

from .writers import image, tone


def _recordings(folder: Path, rate: int) -> Path:
    for k in range(12):
        tone(folder / "ab"[k % 2] / f"{k}.wav", 200 + k, rate=16_000)
    tone(folder / "b" / "odd.wav", 0, rate=rate, num_samples=60_000)
    return folder


def _images(folder: Path, *others: Array) -> Path:
    for k in range(12):
        image(folder / "ab"[k % 2] / f"{k}.png", np.full((8, 8, 3), 9 * k, np.uint8))
    for k, pixels in enumerate(others):
        image(folder / "ab"[k % 2] / f"odd{k}.png", pixels)
    return folder


def _labelled(folder: Path, labels: bytes) -> Path:
    image(folder / "1.png", np.zeros((4, 4), np.uint8))
    (folder / "labels.csv").write_bytes(labels)
    return folder


def _text(folder: Path, cell: str, encoding: str) -> Path:
    rows = [f"{cell if k == 33 else 'e'},2024-05-{k % 28 + 1:02},{k},{k % 2}\n" for k in range(60)]
    (folder / "t.csv").write_bytes(f"name,when,x,y\n{''.join(rows)}".encode(encoding))
    return folder / "t.csv"


def _table(folder: Path, **columns: object) -> Path:
    parquet.write_table(pa.table({**columns, "y": [0, 1] * 500}), folder / "t.parquet", store_schema=False)
    return folder / "t.parquet"


def _replaced(path: Path, old: bytes, new: bytes) -> Path:
    path.write_bytes(path.read_bytes().replace(old, new))
    return path


OFFSETS = np.arange(1001, dtype=np.int32)
LONG = pa.DictionaryArray.from_arrays(np.zeros(1000, np.int32), ["x" * 10**6])
BAD: Mapping[str, tuple[Callable[[Path], Path], str]] = {
    "slow": (lambda path: _recordings(path, 1), r"odd.wav: .* 16000 Hz, found 60,000 samples at 1 Hz"),
    "fast": (lambda path: _recordings(path, 2**31 - 1), r"odd.wav: .* found 60,000 samples at 2147483647 Hz"),
    "pixels": (
        lambda path: _images(path, np.zeros((9000, 9000), np.uint8)), r"odd0.png: .* found 9000 × 9000; reduce it"
    ),
    "text": (lambda path: _table(path, t=LONG), "t.parquet: unfolds to more"),
    "lists": (lambda path: _table(path, t=pa.ListArray.from_arrays(OFFSETS, LONG)), "t.parquet: unfolds to more"),
    "bytes": (lambda path: _replaced(_table(path, t=["Bern"] * 1000), b"Bern", b"B\xe9rn"), "t.parquet: .* UTF8"),
    "days": (lambda path: _table(path, day=pa.array([2**31 - 1] * 1000, pa.date32())), "column 'day': .* date32"),
    "latin": (lambda path: _text(path, "é", "latin1"), "t.csv: expected text in UTF-8, found byte 0xe9 in line 35"),
    "labels": (lambda path: _labelled(path, b"file,y\n1.png,\xe9"), "labels.csv: .* found byte 0xe9 in line 2"),
    "none": (lambda path: _labelled(path, b""), "labels.csv: which column is the target"),
    "twice": (lambda path: _labelled(path, b"file,y,y\n1.png,1,2\n"), "labels.csv: several columns are named 'y'"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_data_are_refused(name: str, tmp_path: Path) -> None:
    write, expected = BAD[name]
    path = write(tmp_path)
    with limits(2**28), pytest.raises(UserError, match=expected):
        infer(read(path, Options(target=("y",))))


def test_large_images_are_not_in_memory_at_the_same_time(tmp_path: Path) -> None:
    path = _images(tmp_path, *[np.zeros((2000, 2000), np.uint8)] * 24)
    with limits(2**28):
        assert len(infer(read(path)).splits["train"]) > 20


def test_times_in_nanoseconds_keep_microseconds(tmp_path: Path) -> None:
    path = _table(tmp_path, when=pa.array(np.arange(1000) + 10**18 + 123_456, pa.timestamp("ns", "Europe/Oslo")))
    x: Any = read(path).x
    assert x["when"][0].isoformat() == "2001-09-09T01:46:40.000123"


def test_text_in_utf_16(tmp_path: Path) -> None:
    x: Any = read(_text(tmp_path, "é", "utf-16")).x
    assert "é" in x["name"].tolist()


def test_dates_are_no_targets_among_numbers(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"column 'when': several targets must be numbers .*; give dates as numbers"):
        read(_text(tmp_path, "e", "utf-8"), Options(target=("when", "x")))


@pytest.mark.parametrize("kind", ["f4", "i4", "u2"])
def test_no_pixel_is_cut(kind: str, tmp_path: Path) -> None:
    pixels = np.array([[0, 1, 300], [5, 70_000 % 2 ** (8 * np.dtype(kind).itemsize), 2]], kind)
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    x: Any = read(tmp_path / "a.tif", labelled=False).x
    (found,) = x
    np.testing.assert_array_equal(found * (1 if kind == "f4" else 256), pixels)


def test_names_that_are_not_utf_8_are_escaped(tmp_path: Path) -> None:
    _images(tmp_path)
    os.rename(tmp_path / "a", os.fsencode(tmp_path / "caf") + b"\xe9")
    data = read(tmp_path)
    assert set(np.asarray(data.y).tolist()) == {"b", r"caf\xe9"}
    assert r"caf\xe9/0.png" in data.names
    assert read(_text(tmp_path / os.fsdecode(b"caf\xe9"), "e", "utf-8")).kind_hint == "table"
