"""A small valid sample of each kind of own data, for the fuzzer
`benchmarks.fuzz_readers`.
"""

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from orca_ray.own_data import Options
from tests.own_data.writers import ARRAYS, TABLES, arrow_folder, image, tone

X = np.random.default_rng(0).normal(size=(24, 3, 7)).astype(np.float32)
Y = np.arange(24) % 2


@dataclass(frozen=True)
class Sample:
    """Data at a path, and the options to read them with."""

    path: Path
    options: Options


@dataclass(frozen=True)
class Kind:
    """One kind of own data: how to write a valid sample to an empty folder."""

    write: Callable[[Path], object]
    name: str
    """File or folder to read, below the folder; "": the folder."""
    options: Options = field(default_factory=Options)

    def at(self, folder: Path) -> Sample:
        """Return the sample that was written to a folder."""
        return Sample(folder / self.name, self.options)


def _arrays(name: str) -> Kind:
    return Kind(lambda folder: ARRAYS[name](folder / name, {"x": X, "y": Y}), name)


def _zipped(folder: Path) -> None:
    np.savez_compressed(
        folder / "data.npz",
        x_train=X[:16],
        y_train=Y[:16],
        x_test=X[16:],
        y_test=Y[16:],
    )


def _hdf5(folder: Path) -> None:
    import h5py

    with h5py.File(folder / "data.h5", "w") as file:
        file.create_dataset(
            "x",
            data=X,
            chunks=(5, 3, 7),
            compression="gzip",
            shuffle=True,
            fletcher32=True,
        )
        file["y"] = np.array([f"c{each}" for each in Y], dtype=object)
        file["more/deep"] = np.zeros(24)
        file["x"].attrs["unit"] = "mV"


def _mat5(folder: Path) -> None:
    import scipy.io

    scipy.io.savemat(folder / "data.mat", {"X": X, "y": Y})


def _pair(folder: Path) -> None:
    import torch

    torch.save((torch.tensor(X).bfloat16(), torch.tensor(Y)), folder / "pair.pth")


def _frame() -> pd.DataFrame:
    drawer = np.random.default_rng(1)
    return pd.DataFrame(
        {
            "age": drawer.normal(40, 10, 40).round(1),
            "city": [("Bern", "Oslo, N", None, "Zürich")[k % 4] for k in range(40)],
            "when": pd.date_range("2024-01-31", periods=40),
            "count": np.arange(40) % 7,
            "y": [("a", "b")[k % 2] for k in range(40)],
        }
    )


def _table(name: str) -> Kind:
    return Kind(lambda folder: TABLES[name](folder / name, _frame()), name)


def _lists(folder: Path) -> None:
    table = pd.DataFrame(
        {
            "signal": [
                list(map(float, each[0][: 5 + k % 3])) for k, each in enumerate(X)
            ],
            "y": Y,
        }
    )
    table.to_parquet(folder / "lists.parquet")


def _dictionary(folder: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    frame = _frame()
    table = pa.table(
        {
            "city": pa.array(frame["city"]).dictionary_encode(),
            "age": frame["age"],
            "y": frame["y"],
        }
    )
    parquet.write_table(
        table, folder / "data.parquet", compression="zstd", row_group_size=10
    )


def _png(value: int) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(np.full((6, 5, 3), value, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def _saved_images(folder: Path) -> None:
    features = {
        "image": {"_type": "Image"},
        "label": {"_type": "ClassLabel", "names": ["cat", "dog"]},
    }
    for split, number in (("train", 16), ("test", 8)):
        cells = [{"bytes": _png(10 * k)} for k in range(number)]
        frame = pd.DataFrame({"image": cells, "label": np.arange(number) % 2})
        arrow_folder(folder / "saved" / split, frame, features)
    (folder / "saved" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')


def _compressed_arrow(folder: Path) -> None:
    import pyarrow as pa

    arrow_folder(folder / "saved", _frame())
    content = pa.Table.from_pandas(_frame(), preserve_index=False)
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    path = str(folder / "saved" / "data-00000-of-00001.arrow")
    with pa.ipc.new_stream(path, content.schema, options=options) as stream:
        stream.write_table(content, max_chunksize=15)


_IMAGES = (
    "png",
    "jpg",
    "gif",
    "bmp",
    "tif",
    "webp",
    "ppm",
    "png",
    "jpg",
    "png",
    "tif",
    "bmp",
)


def _pixels(number: int) -> Any:
    return np.random.default_rng(number).integers(
        0, 255, (8 + number % 2, 7, 3), dtype=np.uint8
    )


def _image_folders(folder: Path) -> None:
    for number, suffix in enumerate(_IMAGES):
        image(
            folder / "images" / "ab"[number % 2] / f"{number}.{suffix}", _pixels(number)
        )


def _labelled_images(folder: Path) -> None:
    lines = ["file_name,kind"]
    for number in range(12):
        image(
            folder / "images" / f"{number}.png",
            _pixels(number),
            "LA" if number % 2 else None,
        )
        lines.append(f"{number}.png,{'ab'[number % 2]}")
    (folder / "images" / "labels.csv").write_text("\n".join(lines))


def _recordings(folder: Path) -> None:
    for number in range(12):
        path = folder / "sounds" / "ab"[number % 2] / f"{number}.wav"
        tone(
            path,
            200 * (1 + number),
            num_samples=500 + 10 * number,
            channels=1 + number % 2,
        )


def _flac(folder: Path) -> None:
    import soundfile

    for number in range(12):
        path = (
            folder
            / "sounds"
            / "ab"[number % 2]
            / f"{number}.{'flac' if number % 3 else 'ogg'}"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.sin(np.arange(800) * (1 + number) / 9), 8000)


def _edf(folder: Path) -> None:
    import edfio

    for number, x in enumerate(X):
        path = folder / "signals" / str(Y[number]) / f"{number}.edf"
        path.parent.mkdir(parents=True, exist_ok=True)
        signals = [edfio.EdfSignal(x[0], 7, label="a"), edfio.EdfSignal(x[1], 7)]
        edfio.Edf(signals).write(path)


def _wfdb(folder: Path) -> None:
    for number, x in enumerate(X):
        path = folder / "signals" / str(Y[number]) / f"{number}.hea"
        path.parent.mkdir(parents=True, exist_ok=True)
        (1000 * x[:2].T).astype("<i2").tofile(path.with_suffix(".dat"))
        lines = [f"{number} 2 250 7", *[f"{number}.dat 16 1000/mV 16 0 0 0 0 a"] * 2]
        path.write_text("\n".join(lines) + "\n")


def _array_folder(folder: Path) -> None:
    for number in range(12):
        path = folder / "arrays" / "ab"[number % 2] / f"{number}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, X[number, :, : 5 + number % 3])


def _task_file(folder: Path) -> None:
    np.savez(folder / "a.npz", signal=X, kind=Y, person=np.arange(24) // 3)
    (folder / "task.yaml").write_text(
        "data: a.npz\ntarget: kind\ninputs: signal\naxes: NCL\ngroup: person\nseed: 1\n"
    )


def _declared(folder: Path) -> None:
    frame = _frame().assign(
        part=[("train", "test", "validation")[k % 3] for k in range(40)]
    )
    frame.to_csv(folder / "data.csv", index=False)


def _json_lines(folder: Path) -> None:
    arrow_folder(
        folder / "saved", _frame(), {"y": {"_type": "Value", "dtype": "string"}}
    )
    state = json.loads((folder / "saved" / "state.json").read_text())
    (folder / "saved" / "state.json").write_text(
        json.dumps({**state, "_format_type": None, "_split": "train"})
    )


def _unusual(name: str) -> Kind:
    """Return the kind of saved data sets with a column of an unusual type of Arrow."""
    return Kind(lambda folder: _write_unusual(folder, name), "saved")


def _write_unusual(folder: Path, name: str) -> None:
    import pyarrow as pa

    numbers = np.arange(40) % 7
    texts = pa.array([("Bern", "Oslo", "Zürich")[k % 3] for k in range(40)])
    pairs = [[float(k), 1.0] for k in range(40)]
    columns = {
        "empty lists": pa.array([[]] * 40, pa.list_(pa.float32(), 0)),
        "null": pa.nulls(40),
        "run ends": pa.RunEndEncodedArray.from_arrays([15, 40], [1.0, 2.0]),
        "texts by number": texts.dictionary_encode(),
        "views": pa.array(pairs, pa.list_view(pa.float64())),
        "text views": texts.cast(pa.string_view()),
        "fields": pa.array([{"a": k, "b": None} for k in range(40)]),
        "union": pa.UnionArray.from_sparse(
            pa.array(numbers % 2, pa.int8()), [pa.array(numbers), texts]
        ),
    }
    table = pa.table({"odd": columns[name], "age": numbers, "y": numbers % 2})
    arrow_folder(folder / "saved", table.select(["age", "y"]).to_pandas())
    path = str(folder / "saved" / "data-00000-of-00001.arrow")
    with pa.ipc.new_stream(path, table.schema) as stream:
        stream.write_table(table)


KINDS: Mapping[str, Kind] = {
    "npy": _arrays("x.npy"),
    "npz": _arrays("data.npz"),
    "npz by split": Kind(_zipped, "data.npz"),
    "HDF5": _arrays("data.h5"),
    "HDF5 in chunks": Kind(_hdf5, "data.h5"),
    "MATLAB 7": _arrays("data.mat"),
    "MATLAB 5": Kind(_mat5, "data.mat"),
    "MATLAB 7.3": _arrays("v73.mat"),
    "PyTorch": _arrays("data.pt"),
    "PyTorch pair": Kind(_pair, "pair.pth"),
    "CSV": _table("data.csv"),
    "TSV": _table("data.tsv"),
    "semicolons": _table("semicolons.csv"),
    "CSV with splits": Kind(_declared, "data.csv", Options(split="part")),
    "CSV by time": Kind(
        _table("data.csv").write, "data.csv", Options(time="when", kind="classes")
    ),
    "Parquet": _table("data.parquet"),
    "Parquet dictionary": Kind(_dictionary, "data.parquet"),
    "Parquet lists": Kind(_lists, "lists.parquet"),
    "saved": Kind(_json_lines, "saved"),
    "saved compressed": Kind(_compressed_arrow, "saved"),
    "saved images": Kind(_saved_images, "saved"),
    "images": Kind(_image_folders, "images"),
    "images labels": Kind(_labelled_images, "images"),
    "WAV": Kind(_recordings, "sounds"),
    "FLAC Ogg": Kind(_flac, "sounds"),
    "EDF": Kind(_edf, "signals"),
    "WFDB": Kind(_wfdb, "signals"),
    "arrays": Kind(_array_folder, "arrays"),
    "task.yaml": Kind(_task_file, "task.yaml"),
    "Arrow empty lists": _unusual("empty lists"),
    "Arrow null": _unusual("null"),
    "Arrow run ends": _unusual("run ends"),
    "Arrow texts by number": _unusual("texts by number"),
    "Arrow views": _unusual("views"),
    "Arrow text views": _unusual("text views"),
    "Arrow fields": _unusual("fields"),
    "Arrow union": _unusual("union"),
}
"""The kinds, by name."""
