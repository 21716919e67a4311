"""Hostile and unusual files of a user: read, or refused with what is wrong.

Reading stays within limits. A fuzzer covers all readers.
"""

import os
import struct
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from benchmarks.fuzz_readers import limits
from orca_ray.data import archives, hdf5_process
from orca_ray.data.rows import Array
from orca_ray.errors import UserError
from orca_ray.own_data import Options, read
from orca_ray.own_data.infer_task import infer

from .writers import arrow_folder, hdf5, image, self_pointing, tone


def _recordings(folder: Path, rate: int) -> Path:
    for k in range(12):
        tone(folder / "ab"[k % 2] / f"{k}.wav", 200 + k, rate=16_000)
    tone(folder / "b" / "odd.wav", 0, rate=rate, num_samples=60_000)
    return folder


def _images(folder: Path, *odd_images: Array) -> Path:
    for k in range(12):
        image(folder / "ab"[k % 2] / f"{k}.png", np.full((8, 8, 3), 9 * k, np.uint8))
    for k, pixels in enumerate(odd_images):
        image(folder / "ab"[k % 2] / f"odd{k}.png", pixels)
    return folder


def _labelled(folder: Path, labels: bytes) -> Path:
    image(folder / "1.png", np.zeros((4, 4), np.uint8))
    (folder / "labels.csv").write_bytes(labels)
    return folder


def _text(folder: Path, cell: str, encoding: str) -> Path:
    """Write a table with ``cell`` in one of its rows."""
    lines = ["name,when,x,y"]
    for k in range(60):
        name = cell if k == 33 else "e"
        lines.append(f"{name},2024-05-{k % 28 + 1:02},{k},{k % 2}")
    text = "\n".join([*lines, ""])
    (folder / "t.csv").write_bytes(text.encode(encoding))
    return folder / "t.csv"


def _table(folder: Path, **columns: object) -> Path:
    parquet.write_table(
        pa.table({**columns, "y": [0, 1] * 500}),
        folder / "t.parquet",
        store_schema=False,
    )
    return folder / "t.parquet"


def _arrow(folder: Path, **columns: Any) -> Path:
    """Write a saved data set with Arrow arrays as columns."""
    path = arrow_folder(folder / "saved", pd.DataFrame({"y": [0]}))
    table = pa.table(columns)
    with pa.ipc.new_stream(str(path / ARROW), table.schema) as stream:
        stream.write_table(table)
    return path


def _empty_lists(number: int) -> pa.Array:
    kind = pa.list_(pa.float32(), 0)
    numbers = pa.array([], pa.float32())
    return pa.Array.from_buffers(kind, number, [None], children=[numbers])


def _equal_numbers(folder: Path, number: int) -> Path:
    """Write a Parquet file of some kilobytes with this many rows."""
    part = pa.table({"x": np.zeros(2**20, np.int8), "y": np.zeros(2**20, np.int8)})
    with parquet.ParquetWriter(folder / "t.parquet", part.schema) as writer:
        for _ in range(number // 2**20):
            writer.write_table(part)
    return folder / "t.parquet"


def _replaced(path: Path, old: bytes, new: bytes) -> Path:
    path.write_bytes(path.read_bytes().replace(old, new))
    return path


ARROW = "data-00000-of-00001.arrow"
OFFSETS = np.arange(1001, dtype=np.int32)
LONG = pa.DictionaryArray.from_arrays(np.zeros(1000, np.int32), ["x" * 10**6])
MAP = pa.map_(pa.string(), pa.int64())


def _named(folder: Path, name: bytes) -> Path:
    """Write an HDF5 file that has a group with this name."""
    path = folder / "t.h5"
    with h5py.File(path, "w") as file:
        file.create_group(name)["x"] = np.zeros((9, 3))
        file["y"] = np.arange(9) % 2
    return path


BAD: Mapping[str, tuple[Callable[[Path], Path], str]] = {
    "slow": (
        lambda path: _recordings(path, 1),
        r"odd.wav: .* 16000 Hz, found 60,000 samples at 1 Hz",
    ),
    "fast": (
        lambda path: _recordings(path, 2**31 - 1),
        r"odd.wav: .* found 60,000 samples at 2147483647 Hz",
    ),
    "pixels": (
        lambda path: _images(path, np.zeros((9000, 9000), np.uint8)),
        r"odd0.png: .* found 9000 × 9000; reduce it",
    ),
    "text": (lambda path: _table(path, t=LONG), "t.parquet: unfolds to more"),
    "lists": (
        lambda path: _table(path, t=pa.ListArray.from_arrays(OFFSETS, LONG)),
        "t.parquet: unfolds to more",
    ),
    "nulls": (
        lambda path: _arrow(path, x=pa.nulls(2**25), y=pa.nulls(2**25)),
        "saved: unfolds to more than 200 times its size, rows",
    ),
    "many empty lists": (
        lambda path: _arrow(path, x=_empty_lists(2**25), y=pa.nulls(2**25)),
        "saved: unfolds to more than 200 times its size, rows",
    ),
    "empty lists": (
        lambda path: _arrow(path, x=_empty_lists(40), y=np.arange(40) % 2),
        r"saved: expected samples with values, found shape \[0\]",
    ),
    "equal numbers": (
        lambda path: _equal_numbers(path, 2**25),
        "t.parquet: unfolds to more than 200 times its size",
    ),
    "bytes": (
        lambda path: _replaced(_table(path, t=["Bern"] * 1000), b"Bern", b"B\xe9rn"),
        "t.parquet: .* UTF8",
    ),
    "map": (
        lambda path: _table(path, m=pa.array([[("k", 1)]] * 1000, MAP)),
        "t.parquet, column 'm': .* found a map",
    ),
    "hdf5 names": (
        lambda path: _named(path, b"\xff\xfe"),
        "t.h5: expected names in UTF-8, found b'.xff.xfe' in the file",
    ),
    "days": (
        lambda path: _table(path, day=pa.array([2**31 - 1] * 1000, pa.date32())),
        "column 'day': .* date32",
    ),
    "latin": (
        lambda path: _text(path, "é", "latin1"),
        "t.csv: expected text in UTF-8, found byte 0xe9 in line 35",
    ),
    "labels": (
        lambda path: _labelled(path, b"file,y\n1.png,\xe9"),
        "labels.csv: .* found byte 0xe9 in line 2",
    ),
    "none": (
        lambda path: _labelled(path, b""),
        "labels.csv: which column is the target",
    ),
    "hidden": (
        lambda path: _recordings(path / ".cache", 8000).parent,
        "expected files of type .wav.* found none",
    ),
    "twice": (
        lambda path: _labelled(path, b"file,y,y\n1.png,1,2\n"),
        "labels.csv: several columns are named 'y'",
    ),
}


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
    nanoseconds = np.arange(1000) + 10**18 + 123_456
    times = pa.array(nanoseconds, pa.timestamp("ns", "Europe/Oslo"))
    x: Any = read(_table(tmp_path, when=times)).x
    assert x["when"][0].isoformat() == "2001-09-09T01:46:40.000123"


def test_text_in_utf_16(tmp_path: Path) -> None:
    x: Any = read(_text(tmp_path, "é", "utf-16")).x
    assert "é" in x["name"].tolist()


def test_dates_are_no_targets_among_numbers(tmp_path: Path) -> None:
    with pytest.raises(
        UserError,
        match=(
            r"column 'when': several targets must be numbers .*; give dates as numbers"
        ),
    ):
        read(_text(tmp_path, "e", "utf-8"), Options(target=("when", "x")))


@pytest.mark.parametrize(("kind", "divisor"), [("f4", 1), ("i4", 256), ("u2", 256)])
def test_no_pixel_is_cut(kind: str, divisor: int, tmp_path: Path) -> None:
    large = 70_000 % 2 ** (8 * np.dtype(kind).itemsize)
    pixels = np.array([[0, 1, 300], [5, large, 2]], kind)
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    x: Any = read(tmp_path / "a.tif", labelled=False).x
    (read_pixels,) = x
    np.testing.assert_array_equal(read_pixels * divisor, pixels)


def test_names_that_are_not_utf_8_are_escaped(tmp_path: Path) -> None:
    _images(tmp_path)
    os.rename(tmp_path / "a", os.fsencode(tmp_path / "caf") + b"\xe9")
    data = read(tmp_path)
    assert set(np.asarray(data.y).tolist()) == {"b", r"caf\xe9"}
    assert r"caf\xe9/0.png" in data.names
    table = _text(tmp_path / os.fsdecode(b"caf\xe9"), "e", "utf-8")
    assert read(table).kind_hint == "table"


X = np.ones((20, 3, 7), np.float32)
Y = np.arange(20) % 3


def pt(folder: Path, x: object) -> Path:
    with warnings.catch_warnings(action="ignore"):
        torch.save({"x": x, "y": torch.tensor(Y)}, folder / "a.pt")
    return folder / "a.pt"


def hdf(folder: Path, **content: Any) -> Path:
    hdf5(folder / "a.h5", **{"x": X, "y": Y, **content})
    return folder / "a.h5"


def texts(folder: Path, damage: str, **options: Any) -> Path:
    """Write a file with damaged targets of text.

    They all name one text ("same"), one of 2 GB ("long"), or their heap has free space
    of no size ("heap").
    """
    path = folder / "a.h5"
    with h5py.File(path, "w") as file:
        file["x"] = X
        file.create_dataset("y", (400,), h5py.string_dtype(), **options)
    content = bytearray(path.read_bytes())
    heap = content.index(b"GCOL")
    start = content.index(struct.pack("<IQ", 10_000, heap))
    if damage == "same":
        content[start : start + 6400] = content[start : start + 16] * 400
    elif damage == "long":
        content[start : start + 4] = (2**31 - 1).to_bytes(4, "little")
    else:
        content[heap + 16 : heap + 32] = bytes(16)
    path.write_bytes(content)
    return path


def saved(folder: Path, name: str, old: bytes, new: bytes) -> Path:
    """Write a compressed data set on disk, then change one of its files."""
    frame = pd.DataFrame({"a": np.zeros(1000), "y": np.arange(1000) % 2})
    path = folder / "saved"
    arrow_folder(path, frame, {"y": {"_type": "ClassLabel", "names": ["n", "p"]}})
    table = pa.Table.from_pandas(frame, preserve_index=False)
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(
        str(path / "data-00000-of-00001.arrow"), table.schema, options=options
    ) as stream:
        stream.write_table(table)
    assert len(read(path)) == 1000
    content = (path / name).read_bytes()
    assert old in content
    (path / name).write_bytes(content.replace(old, new))
    return path


def npz(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "a.npz", **arrays)
    content = (folder / "a.npz").read_bytes()
    (folder / "a.npz").write_bytes(content.replace(b"z.npy", b"x.npy"))
    return folder / "a.npz"


TEXTS = ["b" * 10_000, *"a" * 399]


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (
            lambda at: hdf(at, **{"/".join("g" * 80): X}),
            "expected groups in at most 64 others, found g/g",
        ),
        (
            lambda at: texts(at, "same", data=TEXTS),
            "unfolds to more than 200 times its size, y",
        ),
        (lambda at: texts(at, "long", data=TEXTS), "memory allocation failed"),
        (
            lambda at: texts(at, "heap", data=TEXTS),
            "a.h5, y: expected texts, found damaged or too long ones",
        ),
        (lambda at: texts(at, "long", fillvalue=TEXTS[0]), "memory allocation failed"),
        (
            lambda at: texts(at, "heap", fillvalue=TEXTS[0]),
            "a.h5, y: expected texts, found damaged or too long ones",
        ),
        (
            lambda at: hdf(at, x=X[:, :0]),
            r"x: expected samples, found shape \[20, 0, 7\]",
        ),
        (
            lambda at: pt(at, torch.zeros(1).expand(20, 2**20)),
            "unfolds to more than 200 times its size, x",
        ),
        (
            lambda at: pt(at, torch.zeros(20, 3).to(torch.float8_e4m3fn)),
            "x: expected numbers that NumPy has, found",
        ),
        (
            lambda at: pt(at, torch.zeros(20, 3, dtype=torch.cfloat).conj()),
            "x: expected inputs .* of real numbers",
        ),
        (
            lambda at: pt(at, torch.zeros(20, 3, device="meta")),
            "x: expected a dense tensor, found meta",
        ),
        (
            lambda at: pt(at, torch.nested.nested_tensor([torch.zeros(3)])),
            # torch 2.15 refuses to load it
            "expected (a dense tensor, found a nested|tensors saved by torch.save)",
        ),
        (lambda at: pt(at, pytest.raises), "expected tensors"),
        (lambda at: pt(at, bytearray(9)), "expected tensors, found .*bytearray"),
        (
            lambda at: saved(
                at, ARROW, (8000).to_bytes(8, "little"), (2**40).to_bytes(8, "little")
            ),
            "unfolds to more",
        ),
        (
            lambda at: saved(at, "state.json", b'[{"filename"', b'{"filename"'),
            "state.json",
        ),
        (
            lambda at: saved(at, "state.json", b'"data-00000-of-00001.arrow"', b"1.5"),
            "expected names of files",
        ),
        (lambda at: saved(at, "dataset_info.json", b'["n", "p"]', b"2.5"), ""),
        (
            lambda at: npz(at, x=np.array([{"a": 1}], dtype=object), y=Y[:1]),
            "x: expected an array .*, found object",
        ),
        (
            lambda at: npz(at, x=X[:, :0], y=Y),
            r"x: expected samples, found shape \[20, 0, 7\]",
        ),
        (
            lambda at: npz(at, x=X, y=Y, z=X),
            "expected arrays of different names, found two named 'x'",
        ),
    ],
)
def test_what_is_no_plain_array_is_named(
    write: Callable[[Path], Path],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(archives, "_ANY_RATIO_BYTES", 2**16)
    monkeypatch.setattr("orca_ray.data.hdf5_process.BASE_SECONDS", 1)
    path = write(tmp_path)
    if not message:
        assert read(path).select(slice(None)).y is not None
        return
    with pytest.raises(UserError, match=message):
        read(path).select(slice(None))


TREES = ["child", "sibling", "chunks child", "chunks sibling"]


@pytest.mark.parametrize("suffix", [".h5", ".mat"])
@pytest.mark.parametrize("place", TREES)
def test_a_tree_that_contains_itself_ends_only_its_reader(
    place: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HDF5 (2.0) ends the process, or never returns."""
    monkeypatch.setattr("orca_ray.data.hdf5_process.BASE_SECONDS", 1)
    path = self_pointing(tmp_path, place, x=X, y=Y).rename(tmp_path / f"b{suffix}")
    message = rf"b\{suffix}.*: expected a whole HDF5 file.*; fetch the file again"
    with pytest.raises(UserError, match=message):
        read(path).select(slice(None))


@pytest.mark.parametrize("place", ["child", "sibling"])
def test_adapt_names_a_file_with_a_tree_that_contains_itself(
    place: str, tmp_path: Path
) -> None:
    path = self_pointing(tmp_path, place, x=X, y=Y)
    code = "from orca_ray.cli.main import entry; entry()"
    command = [sys.executable, "-c", code, "adapt", str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 2
    assert "expected a whole HDF5 file" in " ".join(ended.stderr.split())
    assert "Traceback" not in ended.stderr


def test_hdf5_stays_out_of_this_process(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from orca_ray.own_data import read;"
        " read(Path(sys.argv[1])).select(slice(None)); assert 'h5py' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(hdf(tmp_path))], check=True)


def test_only_the_data_set_that_is_read_is_checked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[str] = []
    path = hdf(tmp_path, **{f"more/{number}": Y for number in range(50)})
    monkeypatch.setattr(
        "orca_ray.data.hdf5._check_growth", lambda _, name, __: checked.append(name)
    )
    names = hdf5_process._list(path)["arrays"]
    assert len(checked) == len(names) == 52
    hdf5_process._read(path, "x", np.array([3, 5]))
    assert checked[52:] == ["x"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "mutations", [320, pytest.param(20_000, marks=pytest.mark.exhaustive)]
)
def test_mutated_files_of_every_kind_are_read_or_refused(mutations: int) -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks.fuzz_readers",
        "--mutations",
        str(mutations),
        "--seed",
        "0",
    ]
    ended = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
